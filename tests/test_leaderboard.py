"""The leaderboard: rows that may be compared, whose they are, what was checked of them, what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_records as records

from benchmark.files import digest_of
from benchmark.report.leaderboard import sections
from benchmark.report.section import Block
from benchmark.results.figures import Results
from benchmark.results.index import Index, entries_below, seal, write_index
from benchmark.results.record import RunRecord, ranks_path
from benchmark.results.store import StoredRun, iter_runs, place, read_result

THEIRS = "submitted/theirs"


def run_of(method: str, recall: float, name: str, **changes: object) -> RunRecord:
    return records.record(method, recall, config_hash=name * 12, protocol_hash="one", **changes)


def added(results: Path, index: Index, run: RunRecord, folder: str = "", **fields: object) -> None:
    """Write a record, and add it to the index without any check."""
    path = results / folder / place(run)
    records.write(run, path)
    index.add(
        seal(
            index.last, entry=len(index.entries) + 1, record=path.relative_to(results).as_posix(),
            sha256=digest_of(path), ranks_sha256=digest_of(ranks_path(path)), top_sha256=None,
            added="2026-01-01T00:00:00Z", **{"by": "project", "level": "L2", **fields},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder, index = tmp_path_factory.mktemp("store"), Index()
    for seed in (0, 1):
        added(folder, index, run_of("ssna", 0.3 + 0.02 * seed, "a", seed=seed), level=("L3", "L2")[seed])
    added(folder, index, run_of("tmlp", 0.2, "b", seconds=0.5))
    added(folder, index, run_of("id", 0.1, "c", llm=None, device_name="Another"))
    bundle = {"by": "J. Roe", "bundle": "theirs.adaptrec.zip", "bundle_sha256": "0" * 64, "level": "L4"}
    added(folder, index, run_of("tmoe", 0.25, "d", device_name="A GPU", device="cuda"), THEIRS, **bundle)
    added(folder, index, run_of("ssna", 0.4, "a"), THEIRS, **bundle)
    other = run_of("tmlp", 0.45, "e", protocol="fair")
    records.write(other, folder / place(other))
    write_index(folder, index)
    entries = entries_below(folder)
    theirs = tuple(read_result(path) for path, entry in entries.items() if entry.bundle)
    return Results(tuple(iter_runs(folder)), entries=entries, submitted=theirs)


def rows(block: Block) -> dict[tuple[str, str], dict[str, str]]:
    """(row, from) -> head -> text."""
    texts = [dict(zip(block.heads, (cell.text for cell in row), strict=True)) for row in block.rows]
    return {(row["row"], row["from"]): row for row in texts}


def test_rows_of_one_protocol_hash_stand_together_whatever_their_hardware(results: Results) -> None:
    (section,) = sections(results)
    fair, paper = section.blocks
    assert (fair.title, paper.title) == ("toy, minilm, protocol fair", "toy, minilm, protocol paper")
    assert paper.facets == {"dataset": "toy", "language model": "minilm", "protocol": "paper"}
    assert [row[0].text for row in paper.rows] == ["ssna", "ssna", "tmoe", "tmlp", "id"]
    assert {row["hardware"].partition(",")[0] for row in rows(paper).values()} == {
        "A CPU",
        "A GPU",
        "Another",
    }


def test_submitted_rows_are_marked_and_can_be_downloaded(results: Results) -> None:
    (section,) = sections(results)
    found = rows(section.blocks[1])
    theirs = found["ssna", "J. Roe (submitted)"]
    assert theirs["checked"] == "L4" and theirs["bundle"] == "theirs.adaptrec.zip"
    links = [cell for row in section.blocks[1].rows for cell in row if cell.link]
    assert [cell.link for cell in links] == ["submitted/theirs.adaptrec.zip"] * 2
    badges = {cell.text: cell.badge for row in section.blocks[1].rows for cell in row if cell.badge}
    assert badges == {"L2": "level", "L4": "level", "J. Roe (submitted)": "submitted"}
    names = [name for name in section.records if name.startswith("theirs")]
    assert [section.records[name]["files"] for name in names if "/ssna/" in name] == [
        [f"{THEIRS}/toy/minilm/ssna/aaaaaaaaaaaa-s0.json"]
    ]


def test_submitted_rows_stand_in_no_other_table(results: Results) -> None:
    assert {run.path.parts[-5] for run in results.runs} & {"theirs"} == set()
    assert {row.label for group in results.groups.values() for row in group.run_rows} == {
        "ssna",
        "tmlp",
        "id",
    }


def test_a_row_has_the_lowest_level_of_its_seeds_and_its_interval(results: Results) -> None:
    row = rows(sections(results)[0].blocks[1])["ssna", "project"]
    assert (row["checked"], row["seeds"]) == ("L2", "2")
    mean, spread = row["masked R@10"].split(" ± ")
    assert float(mean) == pytest.approx(0.31 * 1.1, abs=5e-4) and 0.01 < float(spread) < 0.06


def test_a_record_that_is_in_no_entry_is_local(results: Results) -> None:
    (row,) = rows(sections(results)[0].blocks[0]).values()
    assert (row["checked"], row["from"]) == ("local", "local")


def test_a_cost_has_its_unit(results: Results) -> None:
    found = rows(sections(results)[0].blocks[1])
    assert found["tmlp", "project"]["total cost"].endswith(" CPU s")
    assert found["tmoe", "J. Roe (submitted)"]["total cost"].endswith("s")
    block = sections(results)[0].blocks[1]
    assert {name: block.heads[place] for name, place in block.limits.items()} == {
        "total cost": "total cost",
        "trials": "trials",
    }


def test_a_folder_without_an_index_has_none() -> None:
    runs = (StoredRun(Path("results/toy/minilm/ssna/x-s0.json"), records.record()),)
    assert sections(Results(runs)) == []
