"""The check of a pull request that submits a row, with a local repository in place of the host's."""

from __future__ import annotations

import os
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from forged import Forge

from benchmark.process.exit_status import exit_status
from benchmark.verify.bundle import make_bundle

ROOT = Path(__file__).resolve().parents[1]
RECORD = next((ROOT / "results/beauty/none/popularity").glob("*-s0.json"))
PLACE = Path("results/submitted/theirs.adaptrec.zip")
checked_words: Callable[[list[str]], int] = runpy.run_path(str(ROOT / ".ci" / "submission.py"))["checked"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "x.adaptrec.zip"
    make_bundle([RECORD], path)
    return path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the base branch, with a branch `theirs` whose files never lie in the folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}.items():
        monkeypatch.setenv(name, value)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "x")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "x@example.org")
    git("init", "-q", "-b", "main")
    Path("README.md").write_text("base\n")
    git("add", ".")
    git("commit", "-qm", "base")
    return tmp_path


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True)


def submit(**files: bytes | str | None) -> None:
    """Commit files on `theirs`, and go back to `main`; a text is where a link leads to, None removes."""
    git("checkout", "-qb", "theirs")
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    git("add", "-A")
    git("commit", "-qm", "a submission")
    git("checkout", "-q", "main")


def checked(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = exit_status(lambda: checked_words(["main", "theirs"]))
    out, err = capsys.readouterr()
    return status, out + err


def test_a_good_bundle_passes(repository: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(**{str(PLACE): bundle.read_bytes()})
    status, said = checked(capsys)
    assert status == 0 and said.endswith("level reached: L2\n")
    assert not PLACE.exists(), "nothing of the submission is checked out"


def test_a_forged_bundle_fails(repository: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = Forge.of(bundle).edit(lambda f: f["metrics"]["test"].update({"ndcg@10": 0.9}))
    submit(**{str(PLACE): forged.packed()})
    status, said = checked(capsys)
    assert status == 1 and "FAILED  metrics" in said and said.endswith("level reached: L1\n")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({str(PLACE): b"x", "README.md": b"mine"}, "touches 'README.md' too"),
        ({str(PLACE): b"x", ".ci/submission.py": b"print()"}, "touches '.ci/submission.py' too"),
        ({str(PLACE): b"x", "results/index.jsonl": b"{}"}, "A maintainer adds the entry of the index"),
        ({str(PLACE): b"x", "results/submitted/b.adaptrec.zip": b"y"}, "has one bundle, and this one has 2"),
        ({"results/submitted/deeper/x.adaptrec.zip": b"x"}, "touches 'results/submitted/deeper"),
        ({"results/submitted/\x1b[1m.adaptrec.zip": b"x"}, "touches 'results/submitted/\\x1b[1m"),
        ({str(PLACE): "/etc/passwd"}, "must be a new, plain file"),
        ({"README.md": None}, "touches 'README.md' too"),
    ],
)
def test_anything_but_one_new_bundle_is_refused(
    repository: Path, files: dict[str, bytes | str | None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(**files)
    status, said = checked(capsys)
    assert status == 2 and says in said and said.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["main"], ["a", "b", "c"]])
def test_a_command_line_without_two_commits_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(lambda: checked_words(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and "usage: python .ci/submission.py BASE HEAD" in err and err.count("\n") == 1


def test_the_workflow_runs_the_code_of_the_base_branch_and_has_no_secret() -> None:
    text = (ROOT / ".github/workflows/submission.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow.get("on", workflow.get(True)) == {"pull_request": {"paths": ["results/submitted/**"]}}
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    (job,) = workflow["jobs"].values()
    checkouts = [step["with"] for step in job["steps"] if "/checkout@" in step.get("uses", "")]
    assert checkouts == [
        {"ref": "${{ github.event.pull_request.base.sha }}", "persist-credentials": False, "fetch-depth": 0}
    ]
    for step in job["steps"]:
        assert "${{" not in step.get("run", ""), "what a stranger names reaches a shell as a variable alone"
    assert ".ci/submission.py" in job["steps"][-1]["run"]
