"""Sweeps, total cost and break-even, rank agreement: what they find in the records and what they draw."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from report_records import as_runs, failure, grouped, record, results_of, study, tuned

from benchmark.report import agreement, plots, sweeps, total_cost
from benchmark.results.figures import Results
from benchmark.results.record import Cost
from benchmark.results.schema import Environment, PeakMemory
from benchmark.results.tuning import Trial, Tuning
from benchmark.speed.record import SpeedRecord, Timed, Variant


def swept(values, name="depth", recall=lambda value: 0.1 + value / 100, **changes):
    """Runs of the method `m` that differ in one hyper-parameter."""
    made = []
    for value in values:
        pair = f"{name}={value}"
        overrides = sorted([pair, *changes.get("overrides", [])])
        parts = {**changes, "overrides": overrides}
        own = {"width": 8, **changes.get("hyperparameters", {}), name: value}
        made.append(record("m", recall(value), **{**parts, "hyperparameters": own}))
    return made


# --- sweeps


def test_three_values_of_one_setting_are_a_sweep_and_two_are_not():
    (sweep,) = sweeps.sweeps(results_of(swept([2, 1, 4])))
    assert (sweep.name, sweep.method, list(*sweep.lines.values())) == ("depth", "m", [1, 2, 4])
    assert sweeps.sweeps(results_of(swept([1, 2]))) == []


def test_what_else_differs_parts_the_lines():
    wide = {"width": 16}
    runs = [*swept([1, 2, 3]), *swept([1, 2], hyperparameters=wide, overrides=["width=16"])]
    (sweep,) = sweeps.sweeps(results_of(runs))
    assert [list(line) for line in sweep.lines.values()] == [[1, 2, 3]]
    runs += swept([3], hyperparameters=wide, overrides=["width=16"])
    (sweep,) = sweeps.sweeps(results_of(runs))
    assert list(sweep.lines) == ["minilm, width=8", "minilm, width=16"]


def test_language_models_are_lines_of_one_plot_and_datasets_and_protocols_are_not():
    runs = [*swept([1, 2, 3]), *swept([1, 2, 3], llm="bigger")]
    assert sweeps.sweeps(results_of(runs))[0].lines.keys() == {"minilm", "bigger"}
    runs += [*swept([1, 2, 3], dataset="other"), *swept([1, 2, 3], protocol="fair")]
    assert len(sweeps.sweeps(results_of(runs))) == 3


def test_only_whole_numbers_are_swept_and_failed_runs_do_not_count():
    assert sweeps.sweeps(results_of(swept([True, 0.1, 0.2, 0.3]))) == []
    runs = swept([1, 2])
    runs.append(failure("m", overrides=["depth=3"], hyperparameters={"width": 8, "depth": 3}))
    assert sweeps.sweeps(results_of(runs)) == []


def test_a_setting_that_came_after_a_record_has_its_default():
    old, *new = swept([1, 2, 3])
    for run in new:
        run.settings["chunk_tokens"] = 0
    (sweep,) = sweeps.sweeps(results_of([old, *new]))
    assert list(*sweep.lines.values()) == [1, 2, 3]


def test_the_value_to_choose_is_the_best_on_validation():
    runs = swept([1, 2, 3], recall=lambda value: value / 10)
    for run in runs:
        run.metrics["valid_masked"]["recall@10"] = 0.5 - abs(run.hyperparameters["depth"] - 2) / 10
    (section,) = sweeps.sections(results_of(runs))
    assert [row[1].text for row in section.blocks[0].rows] == ["1", "2 *", "3"]
    assert [line["test_masked_recall@10"] for line in section.lines] == pytest.approx([0.11, 0.22, 0.33])
    assert set(section.plots[0].forms) == {"png", "svg"}


def test_a_run_without_test_figures_has_its_place_on_validation():
    runs = swept([1, 2, 3])
    for name in ("test", "test_masked"):
        del runs[1].metrics[name]
    (section,) = sweeps.sections(results_of(runs))
    assert [row[4].text for row in section.blocks[0].rows] == [".1210", "n/a", ".1430"]


# --- cost


def costly(method, prepare, epoch, evaluation=0.0, tuned_llm=False, **changes):
    cost = Cost(
        prepare_seconds=prepare, epoch_seconds=epoch, eval_seconds=evaluation, train_seconds=12 * epoch,
        seconds_to_best=8 * epoch, encodings_per_epoch=100 if tuned_llm else None,
    )  # fmt: skip
    return record(method, cost=cost, **changes)


def test_break_even_by_hand():
    cached = total_cost.Course("c", prepare=100.0, epoch=2.0, tuned=False, epochs=10)
    dear = total_cost.Course("t", prepare=10.0, epoch=20.0, tuned=True, epochs=10)
    epochs = total_cost.break_even(cached, dear)
    assert epochs == pytest.approx(5.0)
    assert cached.after(epochs) == pytest.approx(dear.after(epochs))
    assert total_cost.in_words(epochs) == "after 5 epochs"
    quick = total_cost.Course("t", prepare=0.0, epoch=1.0, tuned=True, epochs=10)
    assert total_cost.break_even(cached, quick) is None
    later = total_cost.Course("t", prepare=200.0, epoch=20.0, tuned=True, epochs=10)
    assert total_cost.in_words(total_cost.break_even(cached, later)) == "from the start"
    assert total_cost.in_words(0.3) == "within the first epoch"


def test_the_whole_cost_of_a_run_part_by_part():
    run = costly("m", 30.0, 2.0)
    (section,) = total_cost.sections(results_of([run]))
    line = section.lines[0]
    assert line["preparation"] == 30.0
    assert (line["training to the best epoch"], line["training after it"]) == (16.0, 8.0)
    assert (line["validation"], line["checkpoints"]) == pytest.approx((12 * 0.3, 12 * 0.1))
    assert line["seconds"] == pytest.approx(30 + 24 + 12 * 0.4)


def test_seconds_below_one_are_not_rounded_away():
    costs = pd.DataFrame({"preparation": {"a": 0.2, "b": 1234.5}})
    drawn = total_cost.draw_costs("here", costs)["svg"].decode()
    assert ">0.2</text>" in drawn and ">1,234</text>" in drawn


def test_tuning_is_the_trials_that_are_no_run_of_the_row():
    def search(seed):
        trials = [Trial(overrides=[f"x={n}"], config_hash=n, status="ok", train_seconds=s)
                  for n, s in (("m-paper", 5.0), ("lost", 7.0))]  # fmt: skip
        return Tuning(mode="grid", chosen=["x=1"], seed=seed, trials=trials, train_seconds=12.0)

    for seed, seconds in ((0, 7.0), (3, 12.0)):  # seed 0 is a run of the row, seed 3 is not
        runs = [costly("m", 1.0, 1.0, seed=n, tuning=search(seed)) for n in range(2)]
        (section,) = total_cost.sections(results_of(runs))
        assert section.lines[0]["tuning"] == seconds


def test_cached_and_tuned_rows_follow_from_the_record():
    runs = [
        costly("reader", 100.0, 2.0, 1.0),
        costly("trainer", 10.0, 20.0, 1.0, tuned_llm=True),
        costly("control", None, 1.0, llm=None),
    ]
    (section,) = total_cost.sections(results_of(runs))
    pairs = [line for line in section.lines if line["kind"] == "break-even"]
    assert [(line["row"], line["against"]) for line in pairs] == [("reader", "trainer")]
    assert pairs[0]["break_even_epochs"] == pytest.approx(90 / 18)
    assert [plot.name for plot in section.plots] == ["costs", "break-even"]
    assert b"white dot: break-even" in section.plots[1].forms["svg"]


def test_no_dot_is_promised_where_nothing_breaks_even():
    runs = [costly("reader", 10.0, 2.0, 1.0), costly("trainer", 10.0, 20.0, 1.0, tuned_llm=True)]
    (section,) = total_cost.sections(results_of(runs))
    drawn = section.plots[1].forms["svg"]
    assert b"solid: cached; dashed: tuned" in drawn and b"break-even" not in drawn


def speed(folder, **changes):
    where = Environment(
        python="3", platform="L", packages={}, device="cpu", device_name="A CPU", threads=1, world_size=1,
        precision="no",
    )  # fmt: skip
    one = Variant(
        value="", status="ok", settings={"accumulation": 1}, hyperparameters={}, environment=where,
        batches_per_epoch=10, steps_per_epoch=10, chunk_tokens=64, evaluation=Timed(seconds=[4.0]),
        step=Timed(seconds=[6.0]), batches=[1],
        peak_memory={"train": PeakMemory()},
    )  # fmt: skip
    fields = {
        "command": "", "dataset": "toy", "data_key": "k1", "llm": "minilm", "llm_details": {},
        "method": "slow", "protocol": "paper", "overrides": ["max_tokens=8"], "vary": None,
        "steps": 1, "warm_up": 0, "passes": 1, "variants": [one], "created": "",
    }  # fmt: skip
    SpeedRecord(**{**fields, **changes}).write(folder / "speed" / "slow.json")


def test_a_speed_record_stands_in_where_no_run_trains_the_language_model(tmp_path):
    runs = [costly("reader", 64.0, 2.0, 1.0)]
    speed(tmp_path)
    (section,) = total_cost.sections(results_of(runs, tmp_path))
    line = section.lines[-1]
    assert (line["against"], line["source"]) == (
        "slow [speed/slow.json]",
        "1 step timed, under max_tokens=8",
    )
    assert line["break_even_epochs"] == pytest.approx(64 / (60 + 4 - 3))
    assert any("extrapolated" in note and "max_tokens=8" in note for note in section.notes)


@pytest.mark.parametrize(
    "unlike", [{"data_key": "k2"}, {"protocol": "fair"}, {"llm_details": {"digest": "x"}}]
)
def test_a_speed_record_of_something_else_does_not(tmp_path, unlike):
    speed(tmp_path, **unlike)
    (section,) = total_cost.sections(results_of([costly("reader", 64.0, 2.0)], tmp_path))
    assert [line["kind"] for line in section.lines] == ["cost"]


def test_a_tuned_run_replaces_speed_records_and_a_broken_one_is_reported(tmp_path):
    speed(tmp_path)
    (tmp_path / "speed" / "half.json").write_text(json.dumps({"command": ""}))
    runs = [costly("reader", 64.0, 2.0), costly("trainer", 1.0, 20.0, tuned_llm=True)]
    (section,) = total_cost.sections(results_of(runs, tmp_path))
    assert [line["against"] for line in section.lines if line["kind"] == "break-even"] == ["trainer"]
    assert any("speed/half.json was left out" in note for note in section.notes)


# --- rank agreement


def orders(**figures):
    """Protocol -> (recall of a, b, c, ...) as stored runs."""
    return as_runs(
        record(name, recall, protocol=protocol)
        for protocol, recalls in figures.items()
        for name, recall in zip("abcdef", recalls, strict=False)
    )


def between(records):
    (section,) = agreement.sections(Results(tuple(records)))
    return {
        line["metric"]: line for line in section.lines if (line["first"], line["second"]) == ("fair", "paper")
    }


def test_a_p_value_below_the_last_digit_is_no_zero():
    runs = [
        record(f"m{n}", 0.1 + 0.01 * n, protocol=protocol)
        for protocol in ("fair", "paper")
        for n in range(12)
    ]
    (section,) = agreement.sections(results_of(runs))
    texts = [cell.text for block in section.blocks for row in block.rows for cell in row]
    assert "<.0001" in texts and ".0000" not in texts


def test_kendalls_tau_by_hand():
    line = between(orders(fair=(0.4, 0.3, 0.2, 0.1), paper=(0.3, 0.4, 0.2, 0.1)))["recall@10"]
    assert line["tau_b"] == pytest.approx((5 - 1) / 6)
    assert (line["rows"], line["reversed"]) == (4, "a and b")
    assert between(orders(fair=(0.3, 0.2, 0.1), paper=(0.1, 0.2, 0.3)))["recall@10"]["tau_b"] == -1


def test_figures_that_print_alike_are_tied():
    line = between(orders(fair=(0.3, 0.2, 0.10001), paper=(0.3, 0.2, 0.20001)))["recall@10"]
    assert line["tau_b"] == pytest.approx(
        2 / (3 * 2) ** 0.5
    )  # tau-b: 2 agree, 0 disagree, 1 tied on one side
    assert line["reversed"] == ""
    tied = between(orders(fair=(0.2, 0.2, 0.2), paper=(0.3, 0.2, 0.1)))["recall@10"]
    assert tied["tau_b"] is None


def test_a_searched_row_is_matched_whatever_the_search_chose():
    records = orders(fair=(0.3, 0.2, 0.1), paper=(0.3, 0.2, 0.1))
    for run, chosen in zip((entry.record for entry in records[::3]), ("x=1", "x=2"), strict=True):
        run.overrides, run.config_hash = [chosen], f"{run.config_hash}-{chosen}"
        run.tuning = Tuning(mode="grid", chosen=[chosen], grid={"x": [1, 2]}, seed=0)
    line = between(records)["recall@10"]
    assert line["rows"] == 3 and line["first_figures"].startswith("a (tuned) 0.3300")


def test_fewer_than_three_rows_in_common_are_no_order():
    (section,) = agreement.sections(Results(tuple(orders(fair=(0.3, 0.2, 0.1), paper=(0.3, 0.2)))))
    assert {line["first"] for line in section.lines} == {"fair, raw"}
    assert agreement.sections(Results(tuple(orders(fair=(0.3, 0.2), paper=(0.3, 0.2))))) == []


def test_masking_can_turn_an_order_round():
    records = orders(fair=(0.3, 0.2, 0.1))
    records[0].record.metrics["test_masked"]["recall@10"] = 0.01
    (section,) = agreement.sections(Results(tuple(records)))
    assert [line["reversed"] for line in section.lines] == ["a and b; a and c", ""]


# --- all


def test_equal_records_give_equal_bytes_and_no_date():
    records = [*study(), *swept([1, 2, 3], dataset="toy2")]
    once, again = (
        [made for module in (sweeps, total_cost, agreement) for made in module.sections(results_of(records))]
        for _ in range(2)
    )
    assert [section.stem for section in once] == [section.stem for section in again]
    assert len({section.stem for section in once}) == len(once) == 3
    for one, other in zip(once, again, strict=True):
        for plot, same in zip(one.plots, other.plots, strict=True):
            assert plot.forms == same.forms
            assert not re.search(rb"<dc:date>|20\d\d-\d\d-\d\d", plot.forms["svg"])


def test_the_front_is_of_quality_time_and_memory():
    gib = 2**30
    runs = [
        record("best", 0.3, seconds=9.0, memory=PeakMemory(host=4 * gib)),
        record("lean", 0.2, seconds=9.5, memory=PeakMemory(host=gib)),
        record("quick", 0.1, seconds=1.0, memory=PeakMemory(host=4 * gib)),
        record("beaten", 0.1, seconds=9.5, memory=PeakMemory(host=4 * gib)),
        tuned("unknown", 0.15, seconds=9.8, memory=PeakMemory()),
    ]
    (group,) = grouped(runs)
    points, _ = plots.points_of(group)
    kept = {point.label for point in points if plots.not_dominated(point, points)}
    assert kept == {"best", "lean", "quick"}
    assert plots.front(points) == [
        (2.0, pytest.approx(0.11)), (18.0, pytest.approx(0.11)), (18.0, pytest.approx(0.33))
    ]  # fmt: skip
