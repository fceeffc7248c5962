"""Malformed inputs of every format and command: each is refused in one line, and nothing is left behind.

`ADAPTREC_FUZZ=N` makes N times as many, with other random numbers (`make fuzz`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from malformed import PLACE, Generate, Malformed, delimited, inputs, parquet, recbole
from malformed_files import EDITIONS, movies, publishers, recipe, unisrec, unisrec_files
from malformed_options import good_lines, options, settings
from malformed_own import Own, bundle, embedded, history, index, model_folder, new_items, passed_on, record
from served_runs import serve

from benchmark.cli import main
from benchmark.verify.levels import verify

ROOT = Path(__file__).resolve().parents[1]
TIMES = int(os.environ.get("ADAPTREC_FUZZ", "0"))
COUNTS = {
    "tsv": 25, "csv": 20, "parquet": 25, "recbole": 15, "unisrec": 15, "amazon-2014": 10, "amazon-2018": 10,
    "amazon-2023": 10, "movielens": 10, "recipe": 40, "histories": 15, "new items": 15, "embedded items": 10,
    "model folder": 20, "record": 20, "index": 10, "bundle": 20, "passed on": 15, "settings": 25,
    "options": 85,
}  # fmt: skip
"""Format -> malformed inputs of it."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """Files that this project wrote for a small run."""
    root = tmp_path_factory.mktemp("own")
    served = serve(root, "tmlp")
    (root / "new.tsv").write_text("item_id\ttext\nn1\tthing\nn2\tother thing\n")
    found = Own(served.folder, served.path, root / "b.adaptrec.zip", root / "e.parquet")
    for command in (
        ["embed", str(served.folder), "--items", str(root / "new.tsv"), "-o", str(found.embedded)],
        ["bundle", str(served.path), "-o", str(found.bundle)],
        ["add", str(served.path), "--results", str(served.path.parents[3])],
    ):
        assert main(command) == 0
    return found


def generators(name: str, own: Own, folder: Path) -> dict[str, Generate]:
    """Those of a format: one, or for options one a command."""
    if name == "options":
        return {command: options(own, command) for command in good_lines(own)}
    plain: dict[str, Generate] = {
        "tsv": delimited("tsv"), "csv": delimited("csv"), "parquet": parquet, "recbole": recbole,
        "movielens": movies, "recipe": recipe, "settings": settings,
        **{kind: publishers(kind) for kind in EDITIONS},
    }  # fmt: skip
    made = {
        "histories": history, "new items": new_items, "embedded items": embedded,
        "model folder": model_folder, "record": record, "index": index, "bundle": bundle,
        "passed on": passed_on,
    }  # fmt: skip
    if name == "unisrec":
        return {name: unisrec(unisrec_files(folder / "good"))}
    return {name: plain[name] if name in plain else made[name](own)}


def content(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for locks."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in paths}


def lay(case: Malformed, folder: Path) -> None:
    for name, data in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            data.replace(PLACE.encode(), str(folder).encode()) if path.suffix == ".toml" else data
        )


def refusals(case: Malformed, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines with which a command refuses an input. Raises where it takes it or fails."""
    if case.command[0] == "verify" and case.format == "bundle":  # the command starts a process for each
        verdict = verify(folder / "b.adaptrec.zip", "L2")
        assert verdict.reached != "L2", "accepted"
        return [re.sub(r"\s+", " ", verdict.faults[0])]
    capsys.readouterr()
    status = main([word.replace(PLACE, str(folder)) for word in case.command])
    out, errors = capsys.readouterr()
    assert status in (1, 2), f"status {status}: {out[-300:]}{errors[-300:]}"
    assert not out, out
    return errors.splitlines()


def faults(case: Malformed, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is wrong with how an input is refused."""
    folder.mkdir()
    lay(case, folder)
    before = content(folder)
    try:
        lines = refusals(case, folder, capsys)
    except Exception as error:  # any is a finding, and the next input is tried
        return [f"{type(error).__name__}: {error}"]
    found = [] if len(lines) == 1 else [f"{len(lines)} lines: {lines}"]
    found += [f"no plain line: {line}" for line in lines if "Traceback" in line or len(line) > 3100]
    return (
        found
        if content(folder) == before
        else [*found, f"it left or changed {content(folder).keys() - before}"]
    )


@pytest.mark.parametrize("name", COUNTS)
def test_malformed_inputs_are_refused_in_one_line(
    name: str, own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").mkdir()
    made = generators(name, own, tmp_path)
    count, seed = COUNTS[name] * max(TIMES, 1), 100 if TIMES else 0
    found = {}
    for number, case in enumerate(inputs(made, seed, count)):
        if wrong := faults(case, tmp_path / str(number), capsys):
            found[f"{number} {case.mutation}: {' '.join(case.command)}"] = wrong
    assert not found, "\n".join(f"{case}\n    {wrong}" for case, wrong in found.items())


def test_the_page_counts_them() -> None:
    page = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `?([a-z0-9 -]+)`? \| (\d+) \|", page, re.M))
    assert {name: int(rows[name]) for name in COUNTS} == COUNTS
    assert sum(COUNTS.values()) >= 300 and rows["all"] == str(sum(COUNTS.values()))


def test_the_same_seed_gives_the_same_inputs(own: Own, tmp_path: Path) -> None:
    first, second = (list(inputs({"tsv": delimited("tsv"), "recipe": recipe}, 7, 20)) for _ in range(2))
    assert first == second
    assert first != list(inputs({"tsv": delimited("tsv"), "recipe": recipe}, 8, 20))
    assert len({case.mutation for case in first}) > 10
