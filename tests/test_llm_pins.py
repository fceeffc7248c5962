"""Short names without a commit in llms.toml: nobody gets a revision that moves without knowing."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from hub_server import COMMIT, NOWHERE, add_entry, message, serving, use_hub
from llm_folders import hub_cache, make_folder

from benchmark.cli import main
from benchmark.llm.catalogue import pin, resolve, short_names, unpinned
from benchmark.llm.pins import pins_file
from methods.errors import UserError

NEWER = "f" * 40


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bert") / "tiny-bert")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no pins, a hub that refuses connections, and a short name without a commit."""
    monkeypatch.setenv("ADAPTREC_PINS", str(tmp_path / "mine" / "pins.json"))
    add_entry(monkeypatch, "mine", repo="org/model")
    return use_hub(monkeypatch, tmp_path / "hub")


def test_without_a_pin_a_short_name_is_refused_though_it_could_be_had(hub: Path, bert: Path) -> None:
    hub_cache(hub, "org/model", COMMIT, bert, ref="main")
    text = message("mine")
    assert "'mine' (org/model) is not pinned" in text and "`adaptrec pin mine`" in text
    assert str(pins_file()) in text and "mine@HASH" in text


def test_a_commit_of_the_user(hub: Path, bert: Path) -> None:
    hub_cache(hub, "org/model", COMMIT, bert)
    llm = resolve(f"mine@{COMMIT}")
    assert (llm.name, llm.revision) == ("mine", COMMIT)
    assert not pins_file().exists()
    assert "give the whole commit hash" in message("mine@main")
    assert "is pinned in llms.toml" in message(f"minilm@{COMMIT}")
    assert "is pinned in llms.toml" in message(f"random-tiny@{COMMIT}")


def test_a_pin_outlives_what_the_branch_leads_to(
    hub: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Path(shutil.copytree(bert, tmp_path / "served"))) as server:
        use_hub(monkeypatch, hub, server.address)
        assert main(["pin", "mine"]) == 0
        assert f"mine: commit {COMMIT}, SHA-256 of the weights " in capsys.readouterr().out
        server.commit = NEWER
        first = resolve("mine")
        assert (first.revision, pin("mine").revision) == (COMMIT, COMMIT)
        assert resolve("mine").details()["digest"] == json.loads(pins_file().read_text())["mine"]["sha256"]
        assert pin("mine", revision="main").revision == NEWER  # when asked for
        assert resolve("mine").revision == NEWER
    add_entry(monkeypatch, "yours", repo="org/other")
    assert main(["list", "llms"]) == 0
    listed = capsys.readouterr().out
    assert f"[pinned to {NEWER[:12]}]" in listed and re.search(r"^yours +\[unpinned\]$", listed, re.MULTILINE)


def test_short_names_are_pinned_to_commits() -> None:
    assert unpinned() == ["bert-medium"]
    stated = [entry for entry in short_names().values() if "random" not in entry]
    assert len({entry["revision"] for entry in stated}) == len(stated) == 17
    digests = [entry["sha256"] for entry in stated if "sha256" in entry]
    assert len(digests) == 6 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_other_files_under_the_pinned_commit_are_refused(hub: Path, bert: Path, tmp_path: Path) -> None:
    root = hub_cache(hub, "org/model", COMMIT, bert)
    pin("mine", revision=COMMIT)
    weights = root / "snapshots" / COMMIT / "model.safetensors"
    make_folder(tmp_path / "other", seed=2)
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    assert "is accepted" in message("mine")


def test_a_reference_that_moves_is_resolved_once_and_checked_by_its_first_digits(
    hub: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bert-medium: it needs no `adaptrec pin`."""
    add_entry(monkeypatch, "mine", repo="org/model", revision="refs/pr/1", commit=COMMIT[:7])
    with serving(bert) as server:
        use_hub(monkeypatch, hub, server.address)
        assert resolve("mine").revision == COMMIT
        assert any("refs%2Fpr%2F1" in path for path in server.asked)
        server.commit = NEWER
        shutil.rmtree(hub)  # another cache
        assert resolve("mine").revision == COMMIT, "by its whole hash now"
        pins_file().unlink()
        shutil.rmtree(hub)
        assert "now leads to ffff" in message("mine")


def test_a_pin_that_cannot_be_kept_costs_a_line_alone(
    hub: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_entry(monkeypatch, "mine", repo="org/model", revision="refs/pr/1", commit=COMMIT[:7])
    hub_cache(hub, "org/model", COMMIT, bert, ref="refs/pr/1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTREC_PINS", str(tmp_path / "file" / "pins.json"))
    with caplog.at_level(logging.WARNING):
        assert resolve("mine").revision == COMMIT
    assert "no pin was kept" in caplog.text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ('{"mine": 3}', "the pin of 'mine' is not"),
        (
            '{"mine": {"repo": "org/model", "revision": "main", "sha256": "", "created": ""}}',
            "40 hexadecimal",
        ),
    ],
)
def test_a_file_of_pins_that_holds_something_else_is_one_line(
    hub: Path, content: str, complaint: str
) -> None:
    pins_file().parent.mkdir()
    pins_file().write_text(content)
    assert complaint in message("mine")


def test_what_cannot_be_pinned(hub: Path) -> None:
    for name, complaint in (
        ("minilm", "needs no pin"),
        ("minee", "Did you mean 'mine'"),
        ("mine", f"cannot be pinned: the hub {NOWHERE} did not give it"),
    ):
        with pytest.raises(UserError, match=complaint):
            pin(name)
