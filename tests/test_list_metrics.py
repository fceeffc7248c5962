"""Measures of lists: by hand, against textbook formulas, and in every command that shows them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from report_ranks import ranked, some_ranks, with_lists

from benchmark.cli import main
from benchmark.results.list_metrics import TOP, list_measure
from benchmark.results.metrics import any_measure, measure
from methods.errors import UserError

COUNTS = np.array([8, 4, 2, 1, 0, 1])
"""Training interactions of six items; 16 in all."""
ITEMS = np.array([[0, 1, 2], [0, 2, 4], [0, -1, -1]])
"""Lists of three users; to the third only one item is left."""


def value(name: str, items: np.ndarray = ITEMS) -> float:
    return list_measure(name).of(items, np.where(items >= 0, COUNTS[items], 0), len(COUNTS), 16)


def test_measures_by_hand() -> None:
    assert value("coverage@1") == pytest.approx(1 / 6)
    assert value("coverage@3") == pytest.approx(4 / 6)
    assert value("popularity@1") == 8
    assert value("popularity@2") == pytest.approx((8 + 4 + 8 + 2 + 8) / 5)
    assert value("novelty@1") == pytest.approx(1)  # half of all interactions: one bit
    # item 4 has no interaction and counts as if it had one of 16
    bits = [1, 2, 3, 1, 3, 4, 1]
    assert value("novelty@3") == pytest.approx(np.mean(bits))


def textbook_gini(times: list[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    pairs = [abs(x - y) for x in times for y in times]
    return sum(pairs) / len(pairs) / (2 * sum(times) / len(times))


def test_gini_is_that_of_the_textbook() -> None:
    assert value("gini@3") == pytest.approx(textbook_gini([3, 1, 2, 0, 1, 0]))
    assert value("gini@1") == pytest.approx(textbook_gini([3, 0, 0, 0, 0, 0])) == pytest.approx(5 / 6)
    assert value("gini@2", np.array([[0, 1], [2, 3], [4, 5]])) == pytest.approx(0)
    rng = np.random.default_rng(0)
    items = rng.integers(0, 6, (40, 20))
    assert value("gini@20", items) == pytest.approx(textbook_gini(np.bincount(items.ravel()).tolist()))


def test_novelty_and_coverage_of_many_lists_against_loops() -> None:
    items = np.random.default_rng(1).permuted(np.tile(np.arange(6), (30, 1)), axis=1)[:, :4]
    bits = [-math.log2(max(COUNTS[item], 1) / 16) for row in items[:, :2] for item in row]
    assert value("novelty@2", items) == pytest.approx(sum(bits) / len(bits))
    assert value("coverage@2", items) == len({int(item) for row in items[:, :2] for item in row}) / 6


@pytest.mark.parametrize("name", ["coverage", "coverage@", "gini@0", "gini@21", "novelty@1e1", "coverage@-1"])
def test_a_cut_off_that_lists_do_not_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' needs a cut-off from 1 to {TOP}, such as"):
        any_measure(name)


def test_a_measure_of_lists_is_no_metric_of_ranks() -> None:
    assert any_measure("coverage@10").label == "Cov@10" and any_measure("mrr").label == "MRR"
    with pytest.raises(UserError, match="is a measure of the lists of all users together"):
        measure("coverage@10")
    with pytest.raises(UserError, match="Did you mean"):
        any_measure("coverag@10")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with lists and one without."""
    folder = tmp_path_factory.mktemp("lists") / "results"
    with_lists(ranked(folder, "a", some_ranks(1, hit=0.4)))
    with_lists(ranked(folder, "a", some_ranks(3, hit=0.4), seed=1), seed=3)
    with_lists(ranked(folder, "b", some_ranks(2, hit=0.2)), seed=2)
    ranked(folder, "old", some_ranks(4))
    return folder


def test_a_report_shows_measures_of_lists(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    asked = "recall@10,coverage@10,popularity@5"
    assert main(["report", "--results", str(results), "--out", str(out), "--metrics", asked]) == 0
    table = out / "toy-minilm-paper.csv"
    rows = {row["label"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert 0.9 < float(rows["a"]["test_masked_coverage@10"]) <= 1
    assert float(rows["b"]["test_masked_popularity@5"]) > 1
    assert rows["old"]["test_masked_coverage@10"] == ""
    text = table.with_suffix(".md").read_text()
    assert "masked Cov@10" in text and "Cov@10: share of the catalogue" in text
    assert (
        "1 of 4 finished runs stored no lists of items, so that they have no coverage@10, popularity@5"
        in text
    )
    assert "R@10: each row against" in (out / f"{table.stem}-tests.md").read_text()


def test_the_long_table_has_measures_of_lists(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["results", "--results", str(results), "--metrics", "gini@10"]
    assert main(words) == 0
    shown = capsys.readouterr()
    rows = [row for row in csv.DictReader(shown.out.splitlines()) if row["measure"] == "gini@10"]
    assert [(row["method"], row["split"], row["kind"]) for row in rows] == [
        (method, "test_masked", "lists") for method in ("a", "a", "b")
    ]
    assert shown.err.count("\n") == 1 and "1 of 4 finished runs stored no lists" in shown.err


def test_explain_and_training_take_metrics_of_ranks_alone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.relative_to(results).as_posix().removesuffix(".json") for path in results.rglob("a/*.json")]
    assert main(["explain", *names, "--results", str(results), "--metrics", "coverage@10"]) == 2
    assert "is a measure of the lists of all users" in capsys.readouterr().err
