"""Tuning: plans, the choice by validation, what records say of it, and a search through the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data_folders import write_folder
from report_records import ENVIRONMENT, curve, grouped, metrics, write

from benchmark.cli import main
from benchmark.config import held
from benchmark.grid.bench import bench, choose
from benchmark.grid.plan import GridPlan, expand, make_plan
from benchmark.report.tables import render
from benchmark.results.figures import Results
from benchmark.results.record import Cost, RunRecord, is_as_written, read_record
from benchmark.results.schema import Environment
from benchmark.results.store import finished, iter_runs
from benchmark.results.tuning import Tuning
from benchmark.run.describe import blank
from benchmark.run.spec import ResolvedRun
from methods import registry
from methods.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ITEMS = "abcdefghijkl"
USERS = {f"u{n}": " ".join(ITEMS[(n * 5 + step) % 12] for step in range(6)) for n in range(16)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {item: f"thing {item} {item * 3}" for item in ITEMS}
    return write_folder(tmp_path_factory.mktemp("data") / "small", USERS, texts)


def plan_of(
    folder: Path, methods: str, *sets: str, tune: Any = "grid", protocol: str = "paper", seeds: Any = (0,)
) -> GridPlan:
    specs = expand([str(folder)], ["random-tiny"], methods.split(","), [protocol], seeds, sets)
    return make_plan(specs, tune)


class Fake:
    """An executor that trains nothing: `outcome` gives a run's validation Recall@10, a status, or None."""

    def __init__(
        self, results: Path, outcome: Callable[[ResolvedRun], float | str | None], test: float = 0.1
    ):
        self.results, self.outcome, self.test = results, outcome, test
        self.made: list[ResolvedRun] = []
        self.later: list[int] = []

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, runs: Sequence[ResolvedRun], later: int = 0) -> dict[ResolvedRun, RunRecord]:
        self.later.append(later)
        found = {}
        for run in runs:
            path = run.record_path(self.results)
            record = finished(path, run.code)
            if record is None and (record := self._make(run)):
                write(record, path)
            if record:
                found[run] = record
        return found

    def _make(self, run: ResolvedRun) -> RunRecord | None:
        self.made.append(run)
        outcome = self.outcome(run)
        if outcome is None:
            return None
        record = blank(run, Environment(**ENVIRONMENT))
        record.data = {**record.data, "fingerprint": {}}  # which counts fewer users than the made-up ranks
        ended = "ok" if isinstance(outcome, float) else outcome
        record = record.model_copy(
            update={"status": ended, "error": None if ended == "ok" else f"so {ended}"}
        )
        record.curve = curve(0.1, 4, 3, 2.0)
        record.epochs_run, record.cost = 4, Cost(train_seconds=8.0)
        if isinstance(outcome, float):
            record.best_epoch = 3
            record.metrics = {name: metrics(self.test) for name in ("test", "test_masked")}
            best = record.curve[2]
            best.valid, best.valid_masked = metrics(outcome), metrics(1 - outcome)
            record.metrics |= {"valid": best.valid, "valid_masked": best.valid_masked}
        return record


def by_overrides(values: dict[str, float | str | None], other: float = 0.01) -> Callable[[ResolvedRun], Any]:
    """An outcome by the last override of a run."""
    return lambda run: values.get(run.spec.overrides[-1], other) if run.spec.overrides else other


def tuning_of(run: ResolvedRun, results: Path) -> Tuning | None:
    return read_record(run.record_path(results)).tuning


def test_a_plan_has_trials_and_what_follows_from_them(folder: Path) -> None:
    plan = plan_of(folder, "id,ssna", seeds=(3, 1, 2))
    (search,) = plan.searches
    pairs = [(f"batch_size={size}", f"top_layers={top}") for size in (32, 64, 128, 256) for top in (2, 3)]
    assert [trial.spec.overrides for trial in search.trials] == pairs, "in the order of the grid"
    assert {trial.spec.seed for trial in search.trials} == {3} and search.seeds == (1, 2)
    assert [(run.spec.method, run.spec.seed) for run in plan.runs] == [("id", 3), ("id", 1), ("id", 2)]
    assert plan.known_runs == [*plan.runs, *search.trials] and search.later == 2
    assert [repeat.spec.seed for repeat in search.repeats(search.trials[5])] == [1, 2]
    assert str(search).endswith("ssna paper: the best of 8 with seeds 1, 2")
    assert plan.notes == ["id has nothing to tune and runs as it is"]
    assert plan_of(folder, "ssna").searches[0].later == 0, "one seed: nothing follows"


def test_without_tuning_runs_run_as_they_are(folder: Path) -> None:
    plan = plan_of(folder, "id,ssna", tune="none", seeds=(0, 1))
    assert len(plan.known_runs) == 4 and not plan.searches and not plan.notes
    with pytest.raises(UserError, match=r"unknown value of --tune: 'gird'. Did you mean 'grid'\?"):
        plan_of(folder, "id", tune="gird")


def test_what_the_user_sets_is_not_searched(folder: Path) -> None:
    plan = plan_of(folder, "ssna,tmoe", "batch_size=64", "width=8", seeds=(0, 1))
    (search,) = plan.searches
    assert [trial.spec.overrides for trial in search.trials] == [
        ("batch_size=64", "width=8", f"top_layers={top}") for top in (2, 3)
    ]
    assert search.fixed == {"batch_size": "--set fixes it"}
    assert [run.spec.method for run in plan.runs] == ["tmoe", "tmoe"], "nothing of its grid is left"
    assert "tmoe: batch_size is not tuned: --set fixes it" in plan.notes


def test_a_fair_protocol_is_not_searched_out_of_its_equal_conditions(folder: Path) -> None:
    plan = plan_of(folder, "ssna,tmoe,tmlp", protocol="fair")
    assert [dict(search.grid) for search in plan.searches] == [
        {"top_layers": (2, 3)},
        {"mlp_layers": (1, 2, 3)},
    ]
    assert [run.spec.method for run in plan.runs] == ["tmoe"]
    assert "tmoe: batch_size is not tuned: protocol fair holds it the same for all methods" in plan.notes
    assert held("paper") == set() and {"batch_size", "accumulation", "init"} <= held("fair")


def test_values_that_a_language_model_is_too_shallow_for_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(folder, "full")
    assert [trial.spec.overrides for trial in plan.searches[0].trials] == [("layers=2",)]
    assert sum("is left out: layers=" in note for note in plan.notes) == 2
    monkeypatch.setattr(registry.get("full"), "grid", {"layers": (4, 6)})
    with pytest.raises(UserError, match="layers=4 is too much for this language model"):
        plan_of(folder, "full")


def test_an_override_that_is_not_valid_is_a_mistake(folder: Path) -> None:
    with pytest.raises(UserError, match="dropout=2 is not valid"):
        plan_of(folder, "ssna", "dropout=2")


def test_a_grid_value_must_survive_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get("tmlp"), "grid", {"mlp_layers": (2.5, True)})
    with pytest.raises(UserError):
        plan_of(folder, "tmlp")
    monkeypatch.setattr(registry.get("tmlp"), "grid", {"mask_false_negatives": ("yes",)})
    with pytest.raises(UserError, match="mask_false_negatives='yes' reads as True in --set"):
        plan_of(folder, "tmlp")


def test_the_best_by_validation_is_chosen_and_runs_with_the_other_seeds(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(folder, "id,ssna", "batch_size=64", seeds=(0, 1, 2))
    fake = Fake(tmp_path, by_overrides({"top_layers=3": 0.4, "top_layers=2": 0.3}))
    assert bench(plan, fake, tmp_path) == 0
    assert [(run.spec.method, run.spec.overrides[-1], run.spec.seed) for run in fake.made[3:]] == [
        ("ssna", "top_layers=2", 0), ("ssna", "top_layers=3", 0),
        ("ssna", "top_layers=3", 1), ("ssna", "top_layers=3", 2),
    ]  # fmt: skip
    assert fake.later == [2, 0]
    best = plan.searches[0].trials[1]
    tunings = [tuning_of(run, tmp_path) for run in (best, *plan.searches[0].repeats(best))]
    assert tunings[0] == tunings[1] == tunings[2]
    tuning = tunings[0]
    assert tuning and (tuning.mode, tuning.chosen, tuning.seed) == ("grid", ["top_layers=3"], 0)
    assert tuning.grid == {"top_layers": [2, 3]} and tuning.fixed == {"batch_size": "--set fixes it"}
    assert [(trial.overrides, trial.recall) for trial in tuning.trials] == [
        (["top_layers=2"], 0.3), (["top_layers=3"], 0.4),
    ]  # fmt: skip
    assert (tuning.trials[0].best_epoch, tuning.trials[0].epochs_run) == (3, 4)
    assert (tuning.train_seconds, tuning.train_cpu_seconds) == (16.0, 32.0)
    assert read_record(best.record_path(tmp_path)).trials == 2
    assert tuning_of(plan.searches[0].trials[0], tmp_path) is None, "a trial that lost says nothing"
    output = capfd.readouterr()
    assert "top_layers=3 is the best of 2 trials by validation Recall@10 (0.4000, raw)" in output.err
    assert "ssna (tuned: top_layers=3)" in output.out and "Trials, by validation only" in output.out


def test_the_choice_reads_no_test_figure(folder: Path, tmp_path: Path) -> None:
    (search,) = plan_of(folder, "ssna").searches
    values = [0.2, 0.3, 0.25, 0.31, 0.1, 0.31, 0.3, 0.05]
    outcome = dict(zip(search.trials, values, strict=True))
    found = Fake(tmp_path, outcome.get).run(search.trials)
    assert choose(search, found) == search.trials[3], "of equal ones the first in the grid"
    for place, record in enumerate(found.values()):
        for split in ("test", "test_masked"):
            record.metrics[split] = metrics((place * 5 % 8) / 8)
    assert choose(search, found) == search.trials[3]
    for record in found.values():
        del record.metrics["test"], record.metrics["test_masked"]
        record.metrics["test_cold"] = metrics(1.0)
    assert choose(search, found) == search.trials[3]
    for record in found.values():
        record.settings["select"] = "masked"
    assert choose(search, found) == search.trials[7], "masked figures run the other way here"


def test_failed_trials_are_reported_and_not_chosen(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(folder, "tmlp", "batch_size=64", seeds=(0, 1))
    fake = Fake(tmp_path, by_overrides({"mlp_layers=1": "oom", "mlp_layers=2": 0.001, "mlp_layers=3": None}))
    assert bench(plan, fake, tmp_path) == 0, "the method has its result"
    output = capfd.readouterr()
    assert "trial mlp_layers=1 did not finish: oom: so oom" in output.err
    assert "trial mlp_layers=3 did not finish: missing: its process ended without a record" in output.err
    tuning = tuning_of(plan.searches[0].trials[1], tmp_path)
    assert tuning and tuning.chosen == ["mlp_layers=2"]
    assert [(trial.status, trial.recall) for trial in tuning.trials] == [
        ("oom", None), ("ok", 0.001), ("missing", None),
    ]  # fmt: skip
    assert tuning.train_seconds == 16.0, "what the lost ones cost counts"
    assert "tmlp: mlp_layers=1: oom: so oom" in output.out.replace("\n", " ")


def test_a_method_whose_trials_are_all_lost_has_failed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(folder, "id,tmlp", "batch_size=64", seeds=(0, 1))
    outcome: dict[str, float | str | None] = {f"mlp_layers={n}": "failed" for n in (1, 2, 3)}
    fake = Fake(tmp_path, by_overrides(outcome))
    assert bench(plan, fake, tmp_path) == 1
    output = capfd.readouterr()
    assert "tmlp paper: all 3 trials failed" in output.err and "2 of 4 runs did not finish" in output.err
    assert "tmlp (tuned: all 3 trials lost)" in output.out and len(fake.made) == 2 + 3
    fake.outcome = lambda run: 0.2
    assert bench(plan, fake, tmp_path) == 0, "the same command tries them again"
    assert "tmlp (tuned: mlp_layers=1)" in capfd.readouterr().out


def test_finished_trials_are_reused_whoever_made_them_and_a_grid_grows(folder: Path, tmp_path: Path) -> None:
    outcome = by_overrides({"top_layers=2": 0.2, "top_layers=3": 0.3, "batch_size=64": 0.15})
    (by_hand,) = plan_of(folder, "ssna", "top_layers=3", "batch_size=64", tune="none").runs
    fake = Fake(tmp_path, outcome)
    fake.run([by_hand])
    small = plan_of(folder, "ssna", "batch_size=64", seeds=(0, 1))
    assert bench(small, fake, tmp_path) == 0
    assert len(fake.made) == 1 + 1 + 1, "by hand, top_layers=2, which wins, and its second seed"
    assert tuning_of(small.searches[0].trials[0], tmp_path) is not None
    large = plan_of(folder, "ssna", seeds=(0, 1))
    fake.outcome = lambda run: 0.5 if "batch_size=128" in run.spec.overrides else 0.1
    fake.made.clear()
    assert bench(large, fake, tmp_path) == 0
    assert len(fake.made) == 6 + 1
    (table,) = Results(tuple(iter_runs(tmp_path))).groups.values()
    untuned, tuned = table.rows
    assert (untuned.label, tuned.label) == ("ssna", "ssna (tuned: batch_size=128, top_layers=2)")
    assert [run.seed for run in tuned.runs] == [0, 1]
    assert (
        untuned.runs[0].settings["batch_size"] == 256 and untuned.runs[0].hyperparameters["top_layers"] == 3
    )


def test_doing_it_again_changes_no_byte(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, "ssna", "batch_size=64", seeds=(0, 1))
    fake = Fake(tmp_path, by_overrides({"top_layers=2": 0.2}))
    bench(plan, fake, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    fake.made.clear()
    assert bench(plan, fake, tmp_path) == 0 and not fake.made
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_only_the_tuning_of_a_record_is_written(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, "ssna", "batch_size=64")
    fake = Fake(tmp_path, by_overrides({"top_layers=2": 0.2}))
    fake.run(plan.known_runs)
    path = plan.searches[0].trials[0].record_path(tmp_path)
    before = json.loads(path.read_text())
    assert (before.pop("tuning"), before.pop("trials"), before.pop("initial")) == (None, 1, {})
    del before["checksum"]
    path.write_text(json.dumps(before))  # as one of before these fields came
    bench(plan, fake, tmp_path)
    after = json.loads(path.read_text())
    assert is_as_written(path) and after.pop("checksum")
    tuning = after.pop("tuning")
    assert tuning.keys() == Tuning.model_fields.keys() and after.pop("trials") == 2
    assert after == before and list(after) == list(before)


def test_a_record_keeps_the_larger_search(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = plan_of(folder, "ssna"), plan_of(folder, "ssna", "batch_size=64")
    fake = Fake(
        tmp_path, lambda run: 0.4 if {"batch_size=64", "top_layers=2"} <= set(run.spec.overrides) else 0.1
    )
    bench(large, fake, tmp_path)
    best = large.searches[0].trials[2]
    assert (tuning := tuning_of(best, tmp_path)) and len(tuning.trials) == 8
    bench(small, fake, tmp_path)
    assert tuning_of(best, tmp_path) == tuning
    published(monkeypatch, "ssna", {"batch_size": 64, "top_layers": 2})
    bench(plan_of(folder, "ssna", tune="paper"), fake, tmp_path)
    assert tuning_of(best, tmp_path) == tuning, "published values never hide a search"


def published(monkeypatch: pytest.MonkeyPatch, method: str, values: dict[str, Any]) -> None:
    """Pretend that the paper has `values` of `method` for random-tiny, and that any data are its sci."""
    best = {method: {("random-tiny", "sci"): values}}
    monkeypatch.setattr("benchmark.grid.plan.best_values", lambda name: best.get(name, {}))
    monkeypatch.setattr("benchmark.grid.plan.dataset_of", lambda fingerprint: "sci")


def test_published_values_are_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    published(monkeypatch, "ssna", {"batch_size": 128, "top_layers": 2})
    plan = plan_of(folder, "id,ssna", tune="paper", seeds=(0, 1))
    assert len(plan.known_runs) == 4
    assert [run.spec.overrides for run in plan.runs[2:]] == [("batch_size=128", "top_layers=2")] * 2
    assert bench(plan, Fake(tmp_path, lambda run: 0.2), tmp_path) == 0
    tuning = tuning_of(plan.runs[3], tmp_path)
    assert tuning and (tuning.mode, tuning.source, tuning.trials) == ("paper", "random-tiny/sci", [])
    assert read_record(plan.runs[3].record_path(tmp_path)).trials == 1
    assert "ssna (published: batch_size=128, top_layers=2)" in capfd.readouterr().out
    plan = plan_of(folder, "ssna", "top_layers=3", tune="paper", protocol="fair")
    assert [run.spec.overrides for run in plan.runs] == [("top_layers=3",)] and not plan.origins
    assert len(plan.notes) == 2, "--set fixes the one, the protocol the other"


def test_a_method_of_a_package_declares_its_published_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, "none", {})
    monkeypatch.setattr(registry.get("ssna"), "paper", {("random-tiny", "sci"): {"top_layers": 2}})
    (run,) = plan_of(folder, "ssna", tune="paper").runs
    assert run.spec.overrides == ("top_layers=2",)


def test_without_published_values_one_line_names_where_there_are_some(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"no published values of method 'tmoe' for language model 'random-tiny' and dataset 'small'; .*"
    with pytest.raises(UserError, match=message + r"distilbert, .* on sci, pantry, .*\. Use --tune grid\."):
        plan_of(folder, "id,tmoe", tune="paper")
    monkeypatch.setattr("benchmark.grid.plan.best_values", lambda name: {})
    monkeypatch.setattr(registry.get("tmoe"), "paper", {})
    with pytest.raises(UserError, match=r"; there are none\. Use --tune grid\."):
        plan_of(folder, "tmoe", tune="paper")


def test_the_processed_scientific_is_the_papers_sci(real_data: Path) -> None:
    cells = expand(["scientific"], ["random-tiny"], ["tmoe"], ["paper"], [0], [])
    with pytest.raises(UserError, match=r"and dataset 'scientific' \(the paper's sci\)"):
        make_plan(cells, "paper")


@pytest.mark.usefixtures("in_process")
def test_a_search_through_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["width=8", "sasrec_inner=8", "precision=no", "epochs=1", "batch_size=16", "learning_rate=0.01"]
    command = ["bench", "--datasets", str(folder), "--llms", "random-tiny", "--methods", "ssna"]
    command += ["--seeds", "0,1", "--tune", "grid", "--results", str(tmp_path), "--set", *small]
    assert main(command) == 0
    output = capfd.readouterr()
    records = [read_record(path) for path in sorted(tmp_path.glob("*/*/*/*.json"))]
    assert len(records) == 3 and all(record.status == "ok" for record in records)
    tuned = [record for record in records if record.tuning]
    assert [record.seed for record in tuned] == [0, 1] and tuned[0].config_hash == tuned[1].config_hash
    tuning = tuned[0].tuning
    assert tuning and len(tuning.trials) == tuned[0].trials == 2 and tuning.train_seconds > 0
    best = max(tuning.trials, key=lambda trial: trial.recall or 0)
    assert tuning.chosen == best.overrides and best.config_hash == tuned[0].config_hash
    assert tuned[0].metrics["valid"]["recall@10"] == best.recall
    assert f"ssna (tuned: {tuning.chosen[0]})" in output.out and "the best of 2 trials" in output.err
    (table,) = grouped(records)
    lines = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    trials = [line for line in lines if line["kind"] == "trial"]
    assert [line["chosen"] for line in trials].count("yes") == 1 and len(trials) == 2
    assert not any(line["test_recall@10"] for line in trials)
    assert all(line["search_train_seconds"] for line in lines if line["tuning"] == "grid")
