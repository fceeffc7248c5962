"""From publishers' raw files to the report, as a user does it: fetched once, then without any network."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_server import Server, amazon_2014, amazon_2018, amazon_2023, asin, json_lines, served, serving

from benchmark.cli import main

ITEMS = {"sports": 30, "sci": 25, "amazon-2023-All_Beauty": 20}
"""Recipes of the three editions -> items of their miniatures; each has 60 users with 12 interactions."""
USERS, EACH = 60, 12
LONG = "/sports/reviews_Sports_and_Outdoors_5.json.gz"
LIMIT = 600
"""Seconds until a command counts as hung; it takes a few where nothing else runs."""
BENCH = [
    "bench", "--datasets", ",".join(ITEMS), "--llms", "random-tiny", "--methods", "id,tmlp",
    "--protocols", "fair", "--epochs", "1",
    "--set", "precision=no", "width=16", "sasrec_inner=16", "batch_size=64",
]  # fmt: skip


def raw_files() -> dict[str, bytes]:
    """The miniatures with rows that must not count, reviews of more than one block, as a server has them."""
    sports = amazon_2014("Sports_and_Outdoors", ITEMS["sports"])
    reviews = next(iter(sports))
    passing = {"reviewerID": "A-passing", "asin": asin(0), "unixReviewTime": 1_400_000_000}
    lines = json_lines([*({**passing, "reviewText": "x" * 12_000},) * 4, {"asin": "no user"}])
    rows = gzip.decompress(sports[reviews]).decode()
    rows = rows.replace('"reviewText": "ok"', f'"reviewText": "{"word " * 2_500}"')
    sports[reviews] = gzip.compress((rows + lines).encode(), compresslevel=0)
    sci = amazon_2018(items=ITEMS["sci"])
    ratings = next(iter(sci))
    first = b"".join(sci[ratings].splitlines(keepends=True)[:10])
    sci[ratings] += first + b"B-no-metadata,A000000000,5.0,1400000000\n"  # exact repeats, an unknown item
    beauty = amazon_2023(items=ITEMS["amazon-2023-All_Beauty"])
    return served(dict(zip(ITEMS, (sports, sci, beauty), strict=True)))


def live_in(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be somebody in a folder of his own, whose only network is `server`."""
    monkeypatch.chdir(home)
    for name in [name for name in os.environ if name.startswith("ADAPTREC_")]:
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("ADAPTREC_CACHE", str(home / "cache"))
    monkeypatch.setenv("ADAPTREC_DATA_MIRROR", server.url)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmark", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed on stdout and stderr; it must have ended well."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out, err


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """The same, in this process."""
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr()


def stored(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(dataset, method) -> record."""
    read = [json.loads(path.read_text()) for path in results.rglob("*-s0.json")]
    return {(record["dataset"], record["method"]): record for record in read}


@pytest.mark.usefixtures("in_process")
def test_raw_files_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(raw_files()) as server:
        live_in(tmp_path, server, monkeypatch)
        prepare_all(tmp_path / "cache", server, capsys)
    tables, printed = here(capsys, *BENCH)  # the server is gone
    assert "6 of 6 runs ended" in printed and "fetching" not in printed
    assert printed.count("warning: sci has ") == 1
    assert re.search(
        r"data key \w+\), not the [\d,]+ users, .* that its recipe expects; ", " ".join(tables.split())
    )
    records = stored(tmp_path / "results")
    check_records(records)
    for dataset, items in ITEMS.items():
        assert f"Dataset {dataset} (60 users, {items} items, 720 interactions, " in " ".join(tables.split())
    here(capsys, "report")
    check_report(tmp_path / "reports", records)
    again, printed = here(capsys, *BENCH)
    *warnings, last = printed.splitlines()
    assert last == "6 of 6 runs are finished already (--fresh runs them anew)"
    expect = [r"sports has 60 users, not .* as its recipe expects", r"sci has 60 users, not "]
    assert len(warnings) == 2 and all(map(re.match, [f"warning: {entry}" for entry in expect], warnings))
    assert again == tables and stored(tmp_path / "results") == records


def by_hand(folder: Path, **changed: bytes) -> list[str]:
    """The command that prepares `sci` from files in `folder`; `changed` by role replaces one."""
    for (name, data), role in zip(amazon_2018().items(), ("ratings", "metadata"), strict=True):
        (folder / "sci").mkdir(parents=True, exist_ok=True)
        (folder / "sci" / name).write_bytes(changed.get(role, data))
    return ["prepare", "--dataset", "sci", "--data-dir", str(folder)]


def test_every_mistake_with_raw_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("CACHE", str(tmp_path / "cache")),
        ("DATA", ""),
        ("DATA_MIRROR", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(f"ADAPTREC_{name}", value)
    metadata = list(amazon_2018().values())[1]
    (tmp_path / "empty").mkdir()
    for command, message in (
        (
            ["prepare", "--dataset", "sci"],
            r"Industrial_and_Scientific\.csv of 'sci' cannot be fetched \(no conn",
        ),
        (
            [*by_hand(tmp_path / "a")[:-1], str(tmp_path / "none")],
            r"--data-dir: there is no folder \S*/none; ",
        ),
        (
            [*by_hand(tmp_path / "a")[:-1], str(tmp_path / "empty")],
            r" By hand: put .* into \S*/empty/sci, or ",
        ),
        (
            by_hand(tmp_path / "b", metadata=metadata[:-9]),
            r"meta_\S* is damaged or cut short after line \d+ \(",
        ),
        (
            by_hand(tmp_path / "c", ratings=b"<html>"),
            r"Scientific\.csv has no usable rows; .*get it again\.$",
        ),
    ):
        check_mistake(main(command), message, *capsys.readouterr())
    assert main(by_hand(tmp_path / "d")) == 0
    assert "sci (" in capsys.readouterr().out
    command = by_hand(tmp_path / "d", ratings=amazon_2018()["Industrial_and_Scientific.csv"][:-100])
    check_mistake(main(command), r"is not the file of this name that was used first: ", *capsys.readouterr())


def check_mistake(status: int, message: str, out: str, err: str) -> None:
    """Status 2, nothing on stdout, one line beside what is told of downloads."""
    assert status == 2 and not out
    *_, last = err.splitlines()
    assert re.search(rf"^adaptrec: error: .*{message}", last)
    assert err.count("adaptrec: ") == 1 and "Traceback" not in err


def prepare_all(cache: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Fetch and prepare the three, one beside the others; the connection breaks halfway through its file."""
    server.cut_after[LONG] = cut = len(server.files[LONG]) // 2
    longest, *others = ITEMS
    beside = start("prepare", "--dataset", longest)
    printed = {name: here(capsys, "prepare", "--dataset", name) for name in others}
    printed[longest] = end(beside)
    for name, (out, err) in printed.items():
        assert f"{name} (" in out and f": 60 users, {ITEMS[name]} items, 720 interactions\n" in out
        assert ("the connection was cut; again in 1 s" in err) == (name == "sports")
        assert ("as its recipe expects" in out) == (name != "amazon-2023-All_Beauty")
    assert server.asked(LONG) == ["", f"bytes={cut}-"]  # it goes on from the last byte
    assert [len(server.asked(path)) for path in server.files if path != LONG] == [1] * 5
    for path, data in server.files.items():
        assert (cache / "raw" / path[1:]).read_bytes() == data


def check_records(records: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Counts as they follow from `raw_files` by hand."""
    assert set(records) == {(dataset, method) for dataset in ITEMS for method in ("id", "tmlp")}
    mended = {
        "sports": (
            {"interactions outside the 5-core": 4},
            {"bad rows skipped": 1, "fields freed of markup": ITEMS["sports"]},  # titles with &amp;
        ),
        "sci": (
            {"duplicate reviews": 10, "interactions with unknown items": 1},
            {"interactions with unknown items dropped": 1},
        ),
        "amazon-2023-All_Beauty": ({}, {"fields freed of markup": ITEMS["amazon-2023-All_Beauty"]}),
    }
    for (dataset, method), record in records.items():
        facts, items = record["data"]["fingerprint"], ITEMS[dataset]
        assert record["status"] == "ok" and record["epochs_run"] == 1
        assert (facts["users"], facts["items"], facts["interactions"]) == (USERS, items, USERS * EACH)
        assert facts["valid_targets"] == facts["test_targets"] == USERS and facts["cold_items"] == 0
        assert (facts["dropped"], facts["repairs"]) == mended[dataset], dataset
        # every item but the first of the training part is predicted; the last two are held out
        assert record["cost"]["predictions_per_epoch"] == USERS * (EACH - 2 - 1)
        assert record["cost"]["candidates"] == items
        assert record["data"]["chance"]["test"]["recall@10"] == pytest.approx(10 / items)
        assert record["metrics"]["test"]["recall@50"] == 1
        assert record["llm"] == (None if method == "id" else "random-tiny")


def check_report(folder: Path, records: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The figures of the records, in the tables and in the page."""
    page = (folder / "index.html").read_text()
    for dataset, items in ITEMS.items():
        table = rows(folder / f"{dataset}-random-tiny-fair.csv")
        shown = {row["label"]: float(row["test_recall@10"]) for row in table}
        of_records = {
            method: records[dataset, method]["metrics"]["test"]["recall@10"] for method in ("id", "tmlp")
        }
        assert shown == {**of_records, "chance": pytest.approx(10 / items)}
        for method, value in of_records.items():
            assert f"{value:.4f}".lstrip("0") in page
            assert records[dataset, method]["config_hash"] in page
        assert dataset in page
        assert (folder / f"{dataset}-random-tiny-fair-curves.svg").stat().st_size > 1000
    counts = {row["dataset"].split(" ")[0]: row for row in rows(folder / "ours-datasets.csv")}
    assert {name: float(row["items"]) for name, row in counts.items()} == ITEMS
    assert {float(row["interactions"]) for row in counts.values()} == {USERS * EACH}
    assert "\\begin{tabular}" in (folder / "ours-quality-random-tiny-fair.tex").read_text()
    written = {path.name for path in folder.iterdir()}
    assert {"README.md", "report.tex", "ours-time-fair.md", "ours-memory-fair.md"} <= written


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
