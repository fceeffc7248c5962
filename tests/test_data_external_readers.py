"""Dataset readers of other packages: the example of the docs, and readers that fail."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from data_folders import TEXTS, USERS, interaction_rows, recipe_of, write_folder
from method_packages import install

from benchmark.cli import main
from benchmark.data.catalogue import find
from benchmark.data.formats import BUILT_IN, GROUP, format_names, load_reader
from benchmark.data.prepare import prepare
from methods.errors import UserError

GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```python\n# session_log\.py\n(.*?)^```$", GUIDE, re.M | re.S)
(POINTS,) = re.findall(r"^```toml\n(\[project.*?)^```$", GUIDE, re.M | re.S)
(RECIPE,) = re.findall(r"^```toml\n(format = \"session-log\".*?)^```$", GUIDE, re.M | re.S)


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    load_reader.cache_clear()
    yield
    load_reader.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a package whose module is the given source; its format is `session-log` by default."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(__import__("sys").modules, "session_log", raising=False)

    def lay(source: str, points: dict[str, str] | None = None) -> None:
        points = points or {"session-log": "session_log:READER"}
        install(tmp_path / "site", "adaptrec-session-log", points, {"session_log": source}, group=GROUP)

    return lay


def write_log(folder: Path) -> Path:
    folder.mkdir()
    log = [{"user": user, "item": item, "time": time} for user, item, time in interaction_rows()]
    items = [{"item": item, "title": text, "brand": "acme"} for item, text in TEXTS.items()]
    for name, rows in (("log.jsonl", log), ("items.jsonl", items)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def test_the_example_of_the_docs_works(tmp_path, package):
    assert len(EXAMPLE.splitlines()) < 30
    package(EXAMPLE, tomllib.loads(POINTS)["project"]["entry-points"][GROUP])
    folder = write_log(tmp_path / "shop")
    assert main(["prepare", "--dataset", str(folder)]) == 0
    made = prepare(find(str(folder)), tmp_path / "cache")
    plain = prepare(recipe_of(write_folder(tmp_path / "plain")), tmp_path / "cache")
    assert made.items.tolist() == plain.items.tolist() and list(made.user_ids) == [*USERS]
    assert list(made.texts) == [f"{text} acme" for text in TEXTS.values()]


def test_a_new_version_of_a_reader_prepares_again(tmp_path, package, monkeypatch):
    folder = write_log(tmp_path / "shop")
    package(EXAMPLE)
    first = prepare(find(str(folder)), tmp_path / "cache").key
    reader, _ = load_reader("session-log")
    monkeypatch.setitem(vars(reader), "version", 2)
    assert prepare(find(str(folder)), tmp_path / "cache").key != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import pandas", "import no_such_package", "cannot be imported: ModuleNotFoundError"),
        ("READER = Reader", "READER = dict; Reader", "must be an instance of benchmark.data.formats.Reader"),
        ('part["user"]', 'part["usr"]', "failed: KeyError: 'usr'"),
        (
            "part.index + 1",
            "part.index * 0",
            "failed: ValueError: the rows of the interactions do not ascend",
        ),
        ('(part["user"],', '(part["user"] * 0,', "failed: ValueError: a value of user_id is empty"),
        ("return RawData(", "return list((", "failed: "),
        ("    log, ", "    raise SystemExit('no')\n    log, ", "failed: SystemExit: no"),
        ('part["time"]', 'part["time"] / 0', "failed: TypeError: the column timestamp is double with nulls"),
    ],
)
def test_a_broken_reader_is_one_line_and_breaks_no_other(tmp_path, package, capsys, old, new, message):
    assert old in EXAMPLE
    source = EXAMPLE.replace(old, new, 1)
    package(source.replace("*where, repairs)", "*where, repairs))") if "list((" in new else source)
    folder = write_log(tmp_path / "shop")
    assert main(["prepare", "--dataset", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "reader 'session-log' of adaptrec-session-log (session_log:READER)" in line and message in line
    assert main(["list", "datasets"]) == 0
    prepare(recipe_of(write_folder(tmp_path / "plain")), tmp_path / "cache")


def test_a_format_without_its_reader_is_refused(tmp_path):
    folder = write_log(tmp_path / "shop")
    with pytest.raises(UserError, match=r"unknown value of format in .*'session-log'.*Allowed: auto, tsv"):
        find(str(folder))


def test_a_missing_file_of_an_installed_format_is_named(tmp_path, package, capsys):
    package(EXAMPLE)
    folder = write_log(tmp_path / "shop")
    (folder / "items.jsonl").unlink()
    assert main(["prepare", "--dataset", str(folder)]) == 2
    assert "lacks items.jsonl; the format session-log needs log.jsonl, items.jsonl" in capsys.readouterr().err


def test_no_package_replaces_a_built_in_format(tmp_path, package):
    package("raise RuntimeError", {"tsv": "session_log:READER"})
    assert format_names() == [*BUILT_IN]
    assert prepare(recipe_of(write_folder(tmp_path / "plain")), tmp_path / "cache").fingerprint["users"] == 3
