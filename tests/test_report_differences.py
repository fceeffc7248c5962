"""Tests between the rows of a table: who is compared, with which users, and what is said of missing ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from report_ranks import ranked, some_ranks
from report_records import failure

from benchmark.report import differences
from benchmark.results.record import ranks_path
from benchmark.results.results import Results
from benchmark.results.statistics import paired_t, randomisation
from benchmark.results.stored import StoredRun, user_gains

GOOD, MIDDLE, BAD = some_ranks(1, hit=0.45), some_ranks(2, hit=0.25), some_ranks(5, hit=0.25)


def sections_of(runs):
    return differences.sections(Results(tuple(runs)))


def lines(sections):
    (section,) = sections
    return {(line["a"], line["b"], line["metric"]): line for line in section.lines}


def test_each_pair_of_rows_under_both_metrics(tmp_path):
    records = [ranked(tmp_path, name, ranks) for name, ranks in (("a", GOOD), ("b", MIDDLE), ("c", BAD))]
    found = lines(sections_of(records))
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(found) == [(*pair, metric) for metric in differences.COMPARED for pair in pairs]
    line = found["a", "c", "recall@10"]
    assert line["difference"] == pytest.approx(np.mean(GOOD <= 10) - np.mean(BAD <= 10))
    assert line["low"] < line["difference"] < line["high"]
    assert (line["users"], line["family"], line["verdict"]) == (300, 6, "a better")
    assert found["b", "c", "recall@10"]["verdict"] == "no difference shown"
    assert all(line["p_randomisation"] <= line["p_holm"] <= 1 for line in found.values())


def test_p_is_of_the_users_themselves(tmp_path):
    found = lines(sections_of([ranked(tmp_path, "a", MIDDLE), ranked(tmp_path, "b", BAD)]))
    values = np.stack([MIDDLE <= 10, BAD <= 10], axis=1).astype(float)
    (p,) = randomisation(values, [(0, 1)], 100_000)
    assert found["a", "b", "recall@10"]["p_randomisation"] == pytest.approx(p, abs=0.02)


def test_the_reference_is_the_best_on_validation_not_on_test(tmp_path):
    records = [ranked(tmp_path, "a", GOOD, valid=0.1), ranked(tmp_path, "b", BAD, valid=0.3)]
    (section,) = sections_of(records)
    block = section.blocks[0]
    assert block.title == "R@10: each row against b, the best on validation"
    assert [row[4].text for row in block.rows][1] == "reference"
    assert block.rows[0][4].text.startswith("+") and block.rows[0][-1].text == "a better"
    assert len(section.blocks) == 2  # all pairs would be the same pair again


def test_seeds_are_averaged_user_by_user_not_stacked(tmp_path):
    again = some_ranks(9, hit=0.45)
    one = [ranked(tmp_path, "a", GOOD), ranked(tmp_path, "a", again, seed=1), ranked(tmp_path, "b", BAD)]
    line = lines(sections_of(one))["a", "b", "recall@10"]
    assert (line["users"], line["a_seeds"], line["b_seeds"]) == (300, "0 1", "0")
    both = [np.mean(GOOD <= 10), np.mean(again <= 10)]
    assert line["a_mean"] == pytest.approx(np.mean(both))
    assert line["a_seed_sd"] == pytest.approx(np.std(both, ddof=1))
    assert line["b_seed_sd"] is None
    assert line["p_wilcoxon"] is None  # one side is a mean of two
    twice = [*one[:1], ranked(tmp_path, "a", GOOD, seed=1), one[2]]
    alone = lines(sections_of([one[0], one[2]]))["a", "b", "recall@10"]
    same = lines(sections_of(twice))["a", "b", "recall@10"]
    assert same["p_randomisation"] == alone["p_randomisation"]  # a second, equal seed proves nothing more


def test_a_test_over_seeds_only_from_five_matched_ones(tmp_path):
    def table(seeds):
        runs = [ranked(tmp_path, "a", some_ranks(seed + 10), seed) for seed in range(6)]
        return runs + [ranked(tmp_path, "b", some_ranks(seed + 30, hit=0.1), seed) for seed in seeds]

    assert lines(sections_of(table(range(2, 6))))["a", "b", "recall@10"]["p_over_seeds"] is None
    line = lines(sections_of(table(range(1, 6))))["a", "b", "recall@10"]
    d = [np.mean(some_ranks(s + 10) <= 10) - np.mean(some_ranks(s + 30, hit=0.1) <= 10) for s in range(1, 6)]
    assert line["p_over_seeds"] == pytest.approx(paired_t(d)[1])


def test_missing_and_damaged_ranks_are_told_and_the_rest_goes_on(tmp_path):
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
    said = "\n".join(section.notes)
    assert "c: toy/minilm/c/c-paper-s0.ranks.parquet is missing." in said
    assert "d: toy/minilm/d/d-paper-s0.ranks.parquet cannot be read" in said
    assert "f: toy/minilm/f/f-paper-s0.ranks.parquet does not give the test metrics of its record." in said


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
    assert len(section.lines) == 11 * len(differences.COMPARED)
    assert {line["b"] for line in section.lines} == {"m11"}
    assert len(section.blocks) == len(differences.COMPARED)


def test_enough_flips_for_holm_to_reject():
    for family in (2, 90, 5_000):
        assert family / (differences.flips_for(family) + 1) < differences.ALPHA


def test_gains_of_no_usable_run_are_none(tmp_path):
    run = ranked(tmp_path, "a", GOOD)
    ranks_path(run.path).unlink()
    found, faults = user_gains([run], differences.COMPARED)
    assert found is None and len(faults) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.00314, "+.0031"), (-0.25, "-.2500"), (-0.00001, "+.0000"), (1.0, "+1.0000")]
)
def test_a_difference_is_printed_with_its_sign(value, text):
    assert differences.signed(value) == text
