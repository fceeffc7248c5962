"""Tuned rows in the tables: what stands there, what the search cost, and which runs are only trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import pytest
from report_records import failure, grouped, record

from benchmark.report.tables import blocks, render
from benchmark.results.record import RunRecord
from benchmark.results.tuning import Trial, Tuning


def search(sizes: Mapping[int, float | None], chosen: int | None, **changes: Any) -> Tuning:
    """A search over batch sizes: validation Recall@10 by size, None for one that ran out of memory."""
    lost: dict[str, Any] = {"status": "oom", "error": "no memory"}
    trials = [
        Trial(
            overrides=[f"batch_size={size}"],
            config_hash=f"h{size}",
            recall=recall,
            best_epoch=8,
            epochs_run=12,
            train_seconds=size,
            train_cpu_seconds=2 * size,
            **({"status": "ok"} if recall is not None else lost),
        )
        for size, recall in sizes.items()
    ]
    fields = {
        "mode": "grid", "chosen": [f"batch_size={chosen}"] if chosen else [], "seed": 0, "untuned": "h256",
        "grid": {"batch_size": list(sizes)}, "trials": trials, "train_seconds": sum(sizes),
        "train_cpu_seconds": 2 * sum(sizes),
    }  # fmt: skip
    return Tuning(**{**fields, **changes})


def run(size: int, recall: float, tuning: Tuning | None = None, seed: int = 0, **changes: Any) -> RunRecord:
    """A run of that batch size, as a search makes it."""
    overrides = changes.pop("overrides", [f"batch_size={size}"])
    trials = len(tuning.trials) if tuning else 1
    fields = {"config_hash": f"h{size}", "overrides": overrides, "tuning": tuning, "trials": trials}
    return record("tmoe", recall, seed, **{**fields, **changes})


SIZES: dict[int, float | None] = {32: 0.2, 64: 0.3, 128: None}


def labels(runs: list[RunRecord]) -> list[str]:
    (group,) = grouped(runs)
    return [row.label for row in group.rows]


def test_a_tuned_row_states_what_was_chosen_and_other_trials_have_no_row() -> None:
    tuning = search(SIZES, 64)
    runs = [run(32, 0.9), run(64, 0.1, tuning), run(64, 0.2, tuning, 1), record("id", 0.05, llm=None)]
    (group,) = grouped(runs)
    assert [row.label for row in group.rows] == ["tmoe (tuned: batch_size=64)", "id"]
    _, cost, trials = blocks(group)
    assert cost.heads[-4:] == ["trials", "search s", "search CPU s", "seeds"]
    assert [[cell.text for cell in row[-4:]] for row in cost.rows] == [
        ["3", "224", "448", "2"],
        ["1", "n/a", "n/a", "1"],
    ]
    assert [[cell.text for cell in row] for row in trials.rows] == [
        ["tmoe: batch_size=32", ".2000", "", "8 / 12", "32.0", "64.0"],
        ["tmoe: batch_size=64", ".3000", "yes", "8 / 12", "64.0", "128"],
        ["tmoe: batch_size=128", "n/a", "", "oom", "128", "256"],
    ]
    page = render(group, "markdown")
    assert ".9000" not in page, "a test figure of a trial that lost"
    assert "tmoe: batch_size=128: oom: no memory" in page and "trials ran with seed 0" in page


def test_trials_stand_in_the_csv_without_test_figures() -> None:
    (group,) = grouped([run(32, 0.9), run(64, 0.1, search(SIZES, 64))])
    lines = list(csv.DictReader(io.StringIO(render(group, "csv"))))
    assert [(line["kind"], line["config_hash"], line["tuned"] + line["chosen"]) for line in lines] == [
        ("run", "h64", "batch_size=64"),
        ("trial", "h32", "no"),
        ("trial", "h64", "yes"),
        ("trial", "h128", "no"),
    ]
    assert [line["valid_recall@10"] for line in lines] == ["0.1", "0.2", "0.3", ""]
    assert not any(value for line in lines[1:] for name, value in line.items() if name.startswith("test"))
    assert (lines[0]["trials"], lines[0]["search_train_seconds"]) == ("3", "224")


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_searches_the_one_that_tried_more_counts(order: int) -> None:
    small = run(64, 0.3, search({32: 0.2, 64: 0.3}, 64))
    large = run(128, 0.2, search({32: 0.2, 64: 0.3, 128: 0.4}, 128))
    assert labels([small, large][::order]) == ["tmoe (tuned: batch_size=128)"]
    beside = run(128, 0.2, search({64: 0.3, 128: 0.4}, 128))
    assert len(labels([small, beside][::order])) == 2, "neither tried all that the other did"
    grown = run(64, 0.3, search(SIZES, 64), seed=1)
    (group,) = grouped([small, grown][::order])
    assert group.rows[0].tuning == grown.tuning, "seeds of before the grid grew"


def test_what_the_protocol_itself_has_keeps_its_row() -> None:
    sizes = {64: 0.3, 256: 0.2}
    assert labels([run(256, 0.3), run(64, 0.3, search(sizes, 64))]) == ["tmoe", "tmoe (tuned: batch_size=64)"]
    by_hand = run(256, 0.3, search(sizes, 256), overrides=[])
    assert labels([by_hand, run(64, 0.4)]) == ["tmoe (tuned: batch_size=256)"], "reused, and chosen"


def test_labels_distinguish_values_of_the_user_and_of_the_search() -> None:
    pairs = ["batch_size=64", "ids=add"]
    tuned = run(64, 0.3, search(SIZES, 64), overrides=pairs)
    printed = labels([tuned, record("tmoe", 0.2, overrides=["batch_size=64"])])
    assert printed == ["tmoe (batch_size=64)", "tmoe (ids=add; tuned: batch_size=64)"]
    paper = Tuning(mode="paper", chosen=["batch_size=64"], source="distilbert/sci")
    (group,) = grouped([run(64, 0.3, paper)])
    assert group.rows[0].label == "tmoe (published: batch_size=64)" and "every row" not in group.caption
    text = render(group, "text")
    assert "Trials" not in text and "values of the paper's distilbert/sci" in text


def test_a_search_that_lost_everything_is_one_row() -> None:
    lost = search({32: None, 64: None}, None)
    runs = [
        failure("tmoe", "oom", config_hash=f"h{size}", overrides=[f"batch_size={size}"], tuning=tuning)
        for size, tuning in ((32, lost), (64, None))
    ]
    assert labels([*runs, record("id", 0.1, llm=None)]) == ["tmoe (tuned: all 2 trials lost)", "id"]


def test_tables_without_tuning_have_no_column_of_it() -> None:
    (group,) = grouped([record("tmoe", 0.1)])
    assert "search s" not in render(group, "markdown") and "search" not in render(group, "csv")
