"""The section of recommended items: overlap, groups of users, and which rows it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_ranks import ranked, some_ranks, with_lists

from benchmark.report.recommended import overlap, quartiles, sections
from benchmark.results.figures import Results
from benchmark.results.store import StoredRun
from benchmark.results.targets import NO_ITEM, StoredLists


def lists_of(items: list[list[int]]) -> StoredLists:
    values = np.array(items, np.int32)
    zeros = np.zeros(len(values), np.int32)
    trained = np.arange(100, dtype=np.int32)
    return StoredLists(zeros, zeros, zeros, values, np.zeros_like(values, np.float16), trained, 100)


def test_overlap_by_hand() -> None:
    a = lists_of([[1, 2, 3, 4], [5, 6, 7, 8], [9, NO_ITEM, NO_ITEM, NO_ITEM]])
    b = lists_of([[4, 3, 20, 21], [30, 31, 32, 33], [9, NO_ITEM, NO_ITEM, NO_ITEM]])
    assert overlap(a, b, 4) == pytest.approx((2 / 4 + 0 + 1) / 3)
    assert overlap(a, b, 2) == pytest.approx((0 + 0 + 1) / 3)
    assert overlap(a, a, 4) == 1


def test_overlap_against_sets() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.permuted(np.tile(np.arange(15), (50, 1)), axis=1)[:, :10] for _ in range(2))
    plain = np.mean([len(set(x) & set(y)) / 10 for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    assert overlap(lists_of(a.tolist()), lists_of(b.tolist())) == pytest.approx(plain)


def test_quartiles_keep_users_of_equal_value_together() -> None:
    groups = quartiles(np.arange(1, 9, dtype=np.int32))
    assert [group.label for group in groups] == ["1-2", "3-4", "5-6", "7-8"]
    tied = quartiles(np.array([2, 2, 2, 2, 2, 3, 9, 5], np.int32))
    assert [(group.label, len(group.targets)) for group in tied] == [("2", 5), ("3", 1), ("5-9", 2)]
    assert [group.label for group in quartiles(np.full(5, 4, np.int32))] == ["4"]
    assert sum(len(group.targets) for group in tied) == 8


@pytest.fixture
def runs(tmp_path: Path) -> list[StoredRun]:
    """Two rows with lists, one of them with two seeds, and one row without."""
    return [
        with_lists(ranked(tmp_path, "a", some_ranks(1, hit=0.4))),
        with_lists(ranked(tmp_path, "a", some_ranks(2, hit=0.4), seed=1), seed=1),
        with_lists(ranked(tmp_path, "b", some_ranks(3, hit=0.2))),
        ranked(tmp_path, "old", some_ranks(4)),
    ]


def test_groups_of_users_together_give_the_masked_metrics(runs: list[StoredRun]) -> None:
    (section,) = sections(Results(tuple(runs)))
    for kind in ("by history length", "by popularity of the target"):
        for row, members in (("a", runs[:2]), ("b", runs[2:3])):
            for metric in ("recall@10", "ndcg@10"):
                name = f"test_masked_{metric}"
                parts = [
                    line
                    for line in section.lines
                    if line["figures"] == kind and line["row"] == row and name in line
                ]
                assert len(parts) == 4 and sum(line["users"] for line in parts) == 300
                whole = sum(line["users"] * line[name] for line in parts) / 300
                expected = np.mean([run.record.metrics["test_masked"][metric] for run in members])
                assert whole == pytest.approx(expected)


def test_the_section_shows_rows_with_lists_and_names_the_others(runs: list[StoredRun]) -> None:
    (section,) = sections(Results(tuple(runs)))
    lists, overlaps, by_history, by_target = section.blocks
    assert [row[0].text for row in lists.rows] == ["a", "b"] and lists.heads[1:3] == ["Cov@10", "Gini@10"]
    assert overlaps.heads == ["row", "a", "b"]
    assert overlaps.rows[0][2].text == overlaps.rows[1][1].text != "n/a"
    assert overlaps.rows[1][2].text == "n/a"  # one seed
    assert by_history.rows[-1][0].text == "users" and len(by_history.heads) == 9
    assert "popularity of the target" in by_target.title
    assert section.notes[-1] == "Without lists of items, or with other users: old."


def test_tables_without_lists_have_no_section(runs: list[StoredRun]) -> None:
    assert sections(Results((runs[3],))) == []


def test_a_row_of_other_users_is_left_out(runs: list[StoredRun]) -> None:
    other = runs[2]
    assert other.lists is not None
    moved = replace(other.lists, target=other.lists.target[::-1])
    other.__dict__["lists"] = moved
    (section,) = sections(Results(tuple(runs)))
    assert "other users: b, old" in section.notes[-1]
