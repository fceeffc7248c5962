"""Tests between the rows of a table: who is compared, with which users, and what is said of missing ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from report_ranks import ranked, some_ranks
from report_records import failure

from benchmark.report import differences
from benchmark.results.compared import compared, user_gains
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE
from benchmark.results.record import ranks_path
from benchmark.results.statistics import bootstrap, p_value
from benchmark.results.store import StoredRun

GOOD, MIDDLE, BAD = some_ranks(1, hit=0.45), some_ranks(2, hit=0.25), some_ranks(5, hit=0.25)


def sections_of(runs):
    return differences.sections(Results(tuple(runs)))


def lines(sections):
    (section,) = sections
    return {
        (line["a"], line["b"], line["metric"]): line
        for line in section.lines
        if line["split"] == "test_masked"
    }


def masked(ranks):
    """Masked ranks of `ranked` runs."""
    return np.maximum(ranks - 1, 1)


def test_each_pair_of_rows_under_both_metrics(tmp_path):
    records = [ranked(tmp_path, name, ranks) for name, ranks in (("a", GOOD), ("b", MIDDLE), ("c", BAD))]
    by_pair = lines(sections_of(records))
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(by_pair) == [(*pair, metric) for metric in HEADLINE for pair in pairs]
    line = by_pair["a", "c", "recall@10"]
    assert line["difference"] == pytest.approx(np.mean(masked(GOOD) <= 10) - np.mean(masked(BAD) <= 10))
    assert line["low"] < line["difference"] < line["high"]
    assert (line["users"], line["verdict"]) == (300, "a better")
    assert by_pair["b", "c", "recall@10"]["verdict"] == "no difference shown"
    assert all(line["p"] <= line["p_corrected"] <= 1 for line in by_pair.values())


def test_the_file_has_the_differences_without_masking_too(tmp_path):
    (section,) = sections_of([ranked(tmp_path, "a", GOOD), ranked(tmp_path, "b", BAD)])
    raw = [line for line in section.lines if line["split"] == "test"]
    assert [line["metric"] for line in raw] == list(HEADLINE)
    assert raw[0]["difference"] == pytest.approx(np.mean(GOOD <= 10) - np.mean(BAD <= 10))


def test_p_is_of_the_users_themselves(tmp_path):
    by_pair = lines(sections_of([ranked(tmp_path, "a", MIDDLE), ranked(tmp_path, "b", BAD)]))
    rows = [{0: (masked(ranks) <= 10).astype(float)[:, None]} for ranks in (MIDDLE, BAD)]
    samples = bootstrap(rows, 50_000, seed=1)[:, :, 0]
    p = p_value(samples[:, 0] - samples[:, 1])
    assert by_pair["a", "b", "recall@10"]["p"] == pytest.approx(p, abs=0.02)


def test_the_reference_is_the_best_on_validation_not_on_test(tmp_path):
    worse = ranked(tmp_path, "b", BAD, valid=0.3)
    worse.record.metrics["valid_masked"] = {**worse.record.metrics["valid_masked"], "recall@10": 0.3}
    (section,) = sections_of([ranked(tmp_path, "a", GOOD), worse])
    block = section.blocks[0]
    assert block.title == "Masked R@10: each row against b, the best on validation"
    assert [row[4].text for row in block.rows][1] == "reference"
    assert block.rows[0][4].text.startswith("+") and block.rows[0][-1].text == "a better"
    assert len(section.blocks) == 2  # all pairs would be the same pair again


def test_seeds_are_measures_of_the_same_users(tmp_path):
    again = some_ranks(9, hit=0.45)
    runs = [ranked(tmp_path, "a", GOOD), ranked(tmp_path, "a", again, seed=1), ranked(tmp_path, "b", BAD)]
    line = lines(sections_of(runs))["a", "b", "recall@10"]
    assert (line["users"], line["a_seeds"], line["b_seeds"]) == (300, "0 1", "0")
    both = [np.mean(masked(GOOD) <= 10), np.mean(masked(again) <= 10)]
    assert line["a_mean"] == pytest.approx(np.mean(both))
    assert line["a_seed_sd"] == pytest.approx(np.std(both, ddof=1))
    assert line["b_seed_sd"] is None
    twice = [runs[0], ranked(tmp_path, "a", GOOD, seed=1), runs[2]]
    alone = lines(sections_of([runs[0], runs[2]]))["a", "b", "recall@10"]
    same = lines(sections_of(twice))["a", "b", "recall@10"]
    for figure in ("low", "high", "p"):  # a second, equal seed proves nothing more
        assert same[figure] == pytest.approx(alone[figure], abs=1e-12)


def test_a_row_of_one_seed_is_named(tmp_path):
    runs = [ranked(tmp_path, "a", GOOD, seed) for seed in (0, 1)] + [ranked(tmp_path, "b", BAD)]
    (section,) = sections_of(runs)
    assert [row[2].text for row in section.blocks[0].rows] == ["2", "1"]
    assert section.notes[-1].startswith("One seed only") and section.notes[-1].endswith(": b.")


def test_missing_and_damaged_ranks_are_reported_and_the_rest_is_made(tmp_path):
    records = [ranked(tmp_path, name, some_ranks(7, hit=0.3)) for name in "abcdef"]
    files = [ranks_path(run.path) for run in records]
    files[2].unlink()
    files[3].write_bytes(b"PAR1 and then nothing")
    table = pd.read_parquet(files[4])
    table.iloc[::-1].to_parquet(files[4])  # any order will do
    table["rank"] += 1
    table.to_parquet(files[5])
    (section,) = sections_of(records)
    assert {line["a"] for line in section.lines} | {line["b"] for line in section.lines} == {"a", "b", "e"}
    notes = "\n".join(section.notes)
    assert "c: toy/minilm/c/c-paper-s0.ranks.parquet is missing." in notes
    assert "d: toy/minilm/d/d-paper-s0.ranks.parquet cannot be read" in notes
    assert "f: toy/minilm/f/f-paper-s0.ranks.parquet does not give the test metrics of its record." in notes


def test_ranks_of_other_users_are_not_compared(tmp_path):
    records = [ranked(tmp_path, "a", GOOD), ranked(tmp_path, "b", some_ranks(1, users=200))]
    (section,) = sections_of(records)
    assert not section.lines and not section.blocks
    assert "b: its ranks are of other users than those of a." in section.notes


def test_a_table_of_one_finished_row_has_no_tests(tmp_path):
    lost = failure("b")
    assert sections_of([ranked(tmp_path, "a", GOOD), StoredRun(tmp_path / "x/y/z/b-s0.json", lost)]) == []


def test_of_many_rows_each_meets_the_reference_alone(tmp_path):
    records = [ranked(tmp_path, f"m{n:02}", some_ranks(n), valid=n / 100) for n in range(12)]
    (section,) = sections_of(records)
    assert len(section.lines) == 66 * 4
    assert len(section.blocks) == len(HEADLINE)
    assert [len(block.rows) for block in section.blocks] == [12, 12]


def test_leaders_are_the_best_row_and_those_not_shown_to_differ_from_it(tmp_path):
    rows = {"a": GOOD, "b": BAD, "c": some_ranks(11, hit=0.44)}
    table = compared({name: [ranked(tmp_path, name, ranks)] for name, ranks in rows.items()}, HEADLINE)
    assert table.leaders("test_masked", "recall@10") == {"a", "c"}
    alone = compared({"a": [ranked(tmp_path, "a", GOOD)]}, HEADLINE)
    assert alone.leaders("test_masked", "recall@10") == set()


def test_a_difference_turned_round_has_the_other_sign(tmp_path):
    rows = {"a": GOOD, "b": BAD}
    table = compared({name: [ranked(tmp_path, name, ranks)] for name, ranks in rows.items()}, HEADLINE)
    there, back = (table.test(*pair, "test", "ndcg@10") for pair in (("a", "b"), ("b", "a")))
    assert (back.difference, back.low, back.high) == (-there.difference, -there.high, -there.low)
    assert back[3:] == there[3:]


def test_gains_of_no_usable_run_are_none(tmp_path):
    run = ranked(tmp_path, "a", GOOD)
    ranks_path(run.path).unlink()
    gains, faults = user_gains([run], HEADLINE)
    assert gains is None and len(faults) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.00314, "+.0031"), (-0.25, "-.2500"), (-0.00001, "+.0000"), (1.0, "+1.0000")]
)
def test_a_difference_is_printed_with_its_sign(value, text):
    assert differences.signed(value) == text
