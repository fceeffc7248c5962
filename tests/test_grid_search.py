"""`--tune search`: the space, the draws, protocol `tuned`, resuming, and what records and tables state."""

from __future__ import annotations

import csv
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data_folders import write_folder
from forked import die, ended, fork
from report_records import grouped, write
from test_grid_tuning import ITEMS, USERS, Fake

from benchmark.cli import main
from benchmark.config import PROTOCOLS, SEARCHED, SPACE, TRIALS, held
from benchmark.grid.bench import bench, search_tuning
from benchmark.grid.plan import GridPlan, expand, make_plan
from benchmark.grid.space import STARTUP, value_of
from benchmark.report.build import build_report
from benchmark.report.tables import render
from benchmark.results.groups import RunGroup
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import iter_runs
from benchmark.results.tuning import Tuning
from benchmark.run.spec import ResolvedRun
from methods.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {item: f"thing {item} {item * 3}" for item in ITEMS}
    return write_folder(tmp_path_factory.mktemp("data") / "small", USERS, texts)


def plan_of(
    folder: Path, methods: str, *sets: str, tune: Any = None, trials: int | None = 8, seeds: Any = (0,),
    protocols: Any = (SEARCHED,),
) -> GridPlan:  # fmt: skip
    specs = expand([str(folder)], ["random-tiny"], methods.split(","), protocols, seeds, sets)
    return make_plan(specs, tune, trials)


class Searched(Fake):
    """Runs that train nothing; a run is the better the nearer its learning rate is to 1e-3."""

    def __init__(self, results: Path, fail: Any = lambda run: False) -> None:
        super().__init__(results, lambda run: "oom" if fail(run) else quality(run))

    def _make(self, run: ResolvedRun) -> RunRecord | None:
        record = super()._make(run)
        for epoch in record.curve if record else []:
            epoch.selection = epoch.valid_masked["recall@10"]
        return record


def quality(run: ResolvedRun) -> float:
    return 0.5 + abs(run.settings.learning_rate - 1e-3)  # masked figures run the other way here


def searches_of(results: Path) -> dict[str, Tuning]:
    return {run.record.method: run.record.tuning for run in iter_runs(results) if run.record.tuning}


def tables_of(results: Path) -> list[RunGroup]:
    return grouped(run.record for run in iter_runs(results))


def test_every_row_has_the_same_budget_and_starts_from_the_protocol(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, "id,ssna,tmlp", seeds=(0, 1))
    assert not plan.runs and {search.budget for search in plan.searches} == {8}
    assert len(plan.known_runs) == 3 * STARTUP and {search.later for search in plan.searches} == {2 + 1}
    for search in plan.searches:
        first = search.trials[0]
        assert first.config_hash == search.untuned.config_hash, "the protocol's own values"
        assert len({trial.config_hash for trial in search.trials}) == STARTUP
        for trial in search.trials:
            assert set(search.set_by(trial)) == set(trial.spec.overrides), "everything is written down"
    shared = [
        [tuple(trial.spec.overrides[:6]) for trial in search.trials if trial.settings.weight_decay == 0]
        for search in plan.searches
    ]
    assert shared[0] and shared[0] == shared[1] == shared[2], "rows are offered the same random values"
    fake = Searched(tmp_path)
    assert bench(plan, fake, tmp_path) == 0
    assert len(fake.made) == 3 * (8 + 1), "trials, and the second seed of each best"
    tunings = searches_of(tmp_path)
    assert {name: len(tuning.trials) for name, tuning in tunings.items()} == dict.fromkeys(
        ["id", "ssna", "tmlp"], 8
    )


def test_values_lie_in_the_space(folder: Path, tmp_path: Path) -> None:
    (search,) = plan_of(folder, "ssna", trials=STARTUP).searches
    names = {dimension.name for dimension in search.space}
    assert names == {*(dimension.name for dimension in SPACE), "top_layers"}, "batch_size is the protocol's"
    for trial in search.trials[1:]:
        for dimension in search.space:
            value = value_of(trial, dimension.name)
            if dimension.when and value_of(trial, dimension.when[0]) != dimension.when[1]:
                continue
            if dimension.values:
                assert value in dimension.values
            else:
                assert dimension.low <= value <= dimension.high or (dimension.or_zero and value == 0)
    assert "batch_size" in held(SEARCHED) and "batch_size" not in names
    (control,) = plan_of(folder, "id", trials=1).searches
    assert {"dropout", "init"}.isdisjoint({dimension.name for dimension in control.space})


def test_an_interrupted_search_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, "id,tmlp", trials=9)
    whole = Searched(tmp_path / "whole")
    bench(plan, whole, whole.results)

    class Interrupted(Searched):
        def _make(self, run: ResolvedRun) -> RunRecord | None:
            if len(self.made) == 14:
                raise KeyboardInterrupt
            return super()._make(run)

    parts = Interrupted(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        bench(plan_of(folder, "id,tmlp", trials=9), parts, parts.results)
    rest = Searched(tmp_path / "parts")
    bench(plan_of(folder, "id,tmlp", trials=9), rest, rest.results)
    assert parts.made + rest.made == whole.made, "the same trials in the same order, none repeated"
    assert searches_of(parts.results) == searches_of(whole.results)

    bench(plan_of(folder, "id,tmlp", trials=11), rest, rest.results)
    assert len(rest.made) == 2 * 11 - 14, "a larger budget adds trials"
    tables = tables_of(rest.results)
    assert [[row.label for row in table.rows] for table in tables] == [
        ["tmlp (tuned, best of 11)", "id (tuned, best of 11)"]
    ], "one table though rows differ in what is searched; no trial that lost has a row"


def killed_after(count: int, folder: Path, results: Path, fail: Any = lambda run: False) -> None:
    """A search of `tmlp` with 9 trials whose bench is killed when so many have ended."""

    class Killed(Searched):
        def _make(self, run: ResolvedRun) -> RunRecord | None:
            if len(self.made) == count:
                die()
            return super()._make(run)

    process = fork(lambda: bench(plan_of(folder, "tmlp", trials=9), Killed(results, fail), results))
    assert ended(process) == -signal.SIGKILL


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_row_of_an_unfinished_search_has_its_number_of_trials(
    folder: Path, tmp_path: Path, count: int
) -> None:
    """Killed among the trials that depend on no result, and later."""
    killed_after(count, folder, tmp_path)
    (group,) = tables_of(tmp_path)
    assert [row.label for row in group.rows] == [f"tmlp (tuned, best of {count} of 9 trials)"]
    rates = [run.record.settings["learning_rate"] for run in iter_runs(tmp_path)]
    (best,) = group.rows[0].runs
    assert len(rates) == count and best.settings["learning_rate"] == min(rates, key=lambda x: abs(x - 1e-3))
    page = render(group, "markdown")
    assert "the search is not finished" in page and "not tuned here" not in page
    rest = Searched(tmp_path)
    bench(plan_of(folder, "tmlp", trials=9), rest, tmp_path)
    (group,) = tables_of(tmp_path)
    assert [row.label for row in group.rows] == ["tmlp (tuned, best of 9)"] and len(rest.made) == 9 - count
    assert "the search is not finished" not in render(group, "markdown")


def test_an_unfinished_search_whose_trials_all_failed_is_one_row(folder: Path, tmp_path: Path) -> None:
    killed_after(2, folder, tmp_path, lambda run: True)
    (group,) = tables_of(tmp_path)
    assert [row.label for row in group.rows] == ["tmlp (tuned: 2 of 9 trials lost)"]


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_failed_trial_that_ends_well_later_changes_no_other_trial(
    folder: Path, tmp_path: Path, place: int
) -> None:
    """The later trials were drawn without its result; drawn again they would be others."""
    failed = plan_of(folder, "tmlp", trials=10).searches[0].trials[place]
    bench(plan_of(folder, "tmlp", trials=10), Searched(tmp_path, lambda run: run == failed), tmp_path)
    first = [trial.config_hash for trial in searches_of(tmp_path)["tmlp"].trials]
    again = Searched(tmp_path)
    bench(plan_of(folder, "tmlp", trials=10), again, tmp_path)
    assert again.made == [failed]
    assert [trial.config_hash for trial in searches_of(tmp_path)["tmlp"].trials] == first
    assert [row.label for row in tables_of(tmp_path)[0].rows] == ["tmlp (tuned, best of 10)"]


def test_two_notes_of_one_search_are_one_row(folder: Path, tmp_path: Path) -> None:
    """Records of an earlier version: a repeated bench drew the last trial otherwise, and chose it."""
    search, other = (plan_of(folder, "tmlp", trials=STARTUP, seeds=(seed,)).searches[0] for seed in (0, 1))
    last = other.trials[-1].with_seed(0)
    fake = Searched(tmp_path)
    records = fake.run([*search.trials, last])
    for trials in (search.trials, (*search.trials[:-1], last)):
        tried = replace(search, trials=trials)
        tuning = search_tuning(tried, records, trials[-1])
        path = trials[-1].record_path(tmp_path)
        write(records[trials[-1]].model_copy(update={"tuning": tuning, "trial_of": None}), path)
    for trial in search.trials[:-1]:
        write(records[trial].model_copy(update={"trial_of": None}), trial.record_path(tmp_path))
    label = f"tmlp (tuned, best of {STARTUP + 1})"
    assert [row.label for row in tables_of(tmp_path)[0].rows] == [label]
    again = Searched(tmp_path)
    bench(plan_of(folder, "tmlp", trials=STARTUP), again, tmp_path)
    assert not again.made and len(searches_of(tmp_path)["tmlp"].trials) == STARTUP + 1
    assert [row.label for row in tables_of(tmp_path)[0].rows] == [label]


def test_a_search_with_failed_trials_counts_those_that_ended(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, "tmlp", trials=STARTUP)
    failed = plan.searches[0].trials[:2]
    bench(plan, Searched(tmp_path, lambda run: run in failed), tmp_path)
    assert [row.label for row in tables_of(tmp_path)[0].rows] == ["tmlp (tuned, best of 4 of 6 trials)"]
    bench(plan, Searched(tmp_path), tmp_path)
    assert [row.label for row in tables_of(tmp_path)[0].rows] == ["tmlp (tuned, best of 6)"], "tried again"


def test_values_of_another_dataset_are_transferred_and_not_tuned(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bench(plan_of(folder, "tmlp", trials=7), Searched(tmp_path), tmp_path)
    chosen = searches_of(tmp_path)["tmlp"].chosen
    other = write_folder(tmp_path / "other", dict(list(USERS.items())[:12]), {item: item for item in ITEMS})
    plan = plan_of(other, "tmlp,id", *chosen, tune="none", trials=None, seeds=(0, 1))
    assert bench(plan, Searched(tmp_path), tmp_path) == 0
    (table,) = [table for table in tables_of(tmp_path) if table.key.dataset == "other"]
    assert [row.label for row in table.rows] == [
        "tmlp (transferred from small, not tuned here)", "id (not tuned here)",
    ]  # fmt: skip
    assert "tmlp (transferred from small, not tuned here)" in capfd.readouterr().out
    for row in table.rows:
        for record in row.runs:
            assert record.tuning and record.tuning.mode == "given" and record.trials == 1
    page = render(table, "markdown")
    assert f"the search on small chose {', '.join(chosen)}." in page
    assert "not tuned here: no search on this dataset chose the values." in page

    bench(plan_of(folder, "tmlp", *chosen, tune="none", trials=None), Searched(tmp_path), tmp_path)
    assert "best of 7" in "".join(row.label for table in tables_of(tmp_path) for row in table.rows), (
        "the values of the search itself stay tuned"
    )


def test_values_of_a_search_under_another_setting_are_named_so(folder: Path, tmp_path: Path) -> None:
    bench(plan_of(folder, "tmlp", trials=7), Searched(tmp_path), tmp_path)
    chosen = searches_of(tmp_path)["tmlp"].chosen
    plan = plan_of(folder, "tmlp", *chosen, "fuse=popularity", tune="none", trials=None)
    bench(plan, Searched(tmp_path), tmp_path)
    labels = {row.label for table in tables_of(tmp_path) for row in table.rows}
    assert labels == {"tmlp (tuned, best of 7)", "tmlp (fuse=popularity; values of another search here)"}


def test_a_run_by_hand_under_tuned_is_not_tuned(folder: Path, tmp_path: Path) -> None:
    (run,) = plan_of(folder, "tmlp", "width=64", tune="none", trials=None).runs
    Searched(tmp_path).run([run])
    (table,) = tables_of(tmp_path)
    assert [row.label for row in table.rows] == ["tmlp (not tuned here)"] and table.shared == ("width=64",)
    assert "not tuned here: no search on this dataset" in render(table, "markdown")


def test_another_seed_searches_elsewhere(folder: Path) -> None:
    one, same, other = (plan_of(folder, "id", seeds=(seed,)).searches[0].trials for seed in (0, 0, 1))
    assert one == same
    values = [[trial.spec.overrides for trial in trials] for trials in (one, other)]
    assert values[0][0] == values[1][0] and values[0][1:] != values[1][1:]


def test_validation_alone_chooses_and_the_record_states_how(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(folder, "tmlp", "ids=add", trials=8, seeds=(3, 4))
    assert bench(plan, Searched(tmp_path), tmp_path) == 0
    tuning = searches_of(tmp_path)["tmlp"]
    rates = [float(trial.overrides[0].partition("=")[2]) for trial in tuning.trials]
    best = min(range(8), key=lambda place: abs(rates[place] - 1e-3))
    assert tuning.chosen == tuning.trials[best].overrides
    assert (tuning.mode, tuning.budget, tuning.seed, tuning.select) == ("search", 8, 3, "masked")
    assert tuning.untuned is None and tuning.select_by == "recall@10" and not tuning.grid
    assert tuning.trials[best].selection == max(trial.selection or 0 for trial in tuning.trials)
    assert tuning.space[0] == {"name": "learning_rate", "low": 1e-4, "high": 3e-3, "log": True}
    assert tuning.trials[0].epochs_run == 4 and tuning.train_seconds == 8 * 8.0
    printed = capfd.readouterr()
    assert "is the best of 8 trials by validation Recall@10" in printed.err
    (table,) = tables_of(tmp_path)
    assert [row.label for row in table.rows] == ["tmlp (tuned, best of 8)"] and table.shared == ("ids=add",)
    assert len(table.rows[0].ok) == 2


def test_what_set_gives_is_fixed_and_another_row(folder: Path, tmp_path: Path) -> None:
    for sets in ((), ("ids=add", "width=64")):
        bench(plan_of(folder, "id", *sets, trials=2), Searched(tmp_path), tmp_path)
    tunings = [run.record.tuning for run in iter_runs(tmp_path) if run.record.tuning]
    assert sorted(len(tuning.fixed) for tuning in tunings if tuning) == [0, 1]
    fixed = next(tuning for tuning in tunings if tuning and tuning.fixed)
    assert fixed.fixed == {"width": "--set fixes it"}
    assert not any("width=" in pair for trial in fixed.trials for pair in trial.overrides)
    (table,) = tables_of(tmp_path)
    assert len(table.rows) == 2


def test_failed_trials_lose_and_a_small_space_ends_early(folder: Path, tmp_path: Path) -> None:
    everything = [f"{dimension.name}=0.1" for dimension in SPACE if not dimension.values]
    sets = [pair for pair in dict.fromkeys(everything) if not pair.startswith("dropout")]
    plan = plan_of(folder, "id", *sets, trials=20)
    fake = Searched(tmp_path, lambda run: run.settings.width == 64)
    assert bench(plan, fake, tmp_path) == 0
    tuning = searches_of(tmp_path)["id"]
    assert len(tuning.trials) == len(fake.made) == 2 * 3, "similarity and width have no more combinations"
    assert {trial.status for trial in tuning.trials} == {"ok", "oom"}
    assert "width=64" not in tuning.chosen
    (table,) = tables_of(tmp_path)
    assert [row.label for row in table.rows] == ["id (tuned, best of 4 of 6 trials)"]
    assert "the search is not finished" not in render(table, "markdown")


def test_protocols_and_ways_of_tuning_fit_together(folder: Path) -> None:
    plan = plan_of(folder, "id", protocols=("fair", SEARCHED), trials=None)
    assert [run.spec.protocol for run in plan.runs] == ["fair"]
    assert [search.budget for search in plan.searches] == [TRIALS]
    as_given = plan_of(folder, "id", "learning_rate=0.001", tune="none", trials=None)
    assert [run.settings.learning_rate for run in as_given.runs] == [0.001] and not as_given.searches
    for arguments, message in (
        ({"trials": 0}, "--trials must be 1 or more, got 0"),
        ({"protocols": ("fair",)}, "--trials is the number of trials of a search; give --protocols tuned"),
        ({"tune": "none"}, "--trials is the number of trials of a search"),
        ({"tune": "grid", "trials": None}, "--tune grid does not fit protocol tuned"),
        ({"tune": "search", "protocols": ("paper",)}, "--tune search needs --protocols tuned"),
    ):
        with pytest.raises(UserError, match=message):
            plan_of(folder, "id", **arguments)
    fixed = [f"{dimension.name}=0.1" for dimension in SPACE if not dimension.values]
    fixed = [pair for pair in dict.fromkeys(fixed) if not pair.startswith("dropout")]
    with pytest.raises(UserError, match=r"--set fixes everything that a search of .* id tuned would set"):
        plan_of(folder, "id", *fixed, "similarity=dot", "width=64")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trials", "0"], "--trials must be 1 or more, got 0."),
        (["--trials", "two"], "argument --trials: invalid int value: 'two'"),
        (["--methods", "popularity"], "--trials: a control tries all settings of its own"),
        (["--metrics", "recal@10"], "unknown metric 'recal@10'"),
        (["--set", "learning_rte=0.1"], "'learning_rte'. Did you mean 'learning_rate'?"),
        (
            ["--set", "similarity=euclid"],
            "similarity in --set: 'euclid'. Allowed: cosine, dot.",
        ),
        (["--set", "select_by=recal@10"], "unknown metric 'recal@10'"),
        (
            ["--set", "learning_rate=0"],
            "--set: learning_rate=0 is not valid: ",
        ),
        (["--methods", "id,blend", "--set", "powr=2"], "'powr'. Did you mean 'power'?"),
        (["--methods", "id,blend", "--set", "geometry=round"], "unknown value of geometry in --set: 'round'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    command = [
        "bench", "--datasets", str(folder), "--llms", "random-tiny", "--methods", "id",
        "--protocols", "tuned", "--trials", "2", "--results", str(tmp_path / "results"), *more,
    ]  # fmt: skip
    assert main(command) == 2
    printed = capfd.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "results").exists()


def test_fair_and_paper_stay_as_they_are(folder: Path) -> None:
    assert PROTOCOLS["paper"] == {"candidates": "batch", "batch_size": 256, "init": "paper"}
    assert PROTOCOLS["fair"] == {"candidates": "auto", "batch_size": 2048, "init": "standardised"}
    for protocol, alike in (("fair", False), (SEARCHED, True)):
        hashes = {
            run.protocol_hash
            for sets in ((), ("learning_rate=0.002",))
            for run in plan_of(folder, "id", *sets, tune="none", trials=None, protocols=(protocol,)).runs
        }
        assert len(hashes) == (1 if alike else 2)


def test_a_missing_optuna_is_one_clear_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"--tune search needs Optuna.*pip install 'adaptrec\[search\]'"):
        plan_of(folder, "id")


@pytest.mark.usefixtures("in_process")
def test_a_search_through_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        "bench", "--datasets", str(folder), "--llms", "random-tiny", "--methods", "tmlp", "--protocols",
        "tuned", "--trials", "2", "--epochs", "1", "--results", str(tmp_path),
    ]  # fmt: skip
    assert main([*command, "--dry-run"]) == 0
    assert "2 runs: 0 finished, 0 to resume, 2 to do" in capfd.readouterr().out
    assert main(command) == 0
    assert "tmlp (tuned, best of 2)" in capfd.readouterr().out
    (path,) = [path for path in tmp_path.glob("*/*/*/*-s0.json") if read_record(path).tuning]
    tuning = read_record(path).tuning
    assert tuning and all(trial.selection is not None for trial in tuning.trials)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/*-s0.json")}
    asked_by = [read_record(path).trial_of for path in made]
    assert {part.number for part in asked_by if part} == {1, 2}
    assert all(part and part.search.space == tuning.space and not part.search.chosen for part in asked_by)
    assert main(command) == 0
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/*-s0.json")}


def test_the_report_shows_the_searches(folder: Path, tmp_path: Path) -> None:
    bench(plan_of(folder, "id,tmlp", trials=7), Searched(tmp_path / "results"), tmp_path / "results")
    build_report(tmp_path / "results", tmp_path / "out")
    (page,) = (tmp_path / "out").glob("*-search.md")
    (plot,) = (tmp_path / "out").glob("*-search-best-so-far.png")
    assert plot.stat().st_size > 1000 and plot.name in page.read_text()
    with page.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines] == [*"1234567"] * 2
    for name in ("id", "tmlp"):
        values = [float(line["best_so_far"]) for line in lines if line["row"] == name]
        assert values == sorted(values)
    assert "Chosen values" in page.read_text() and "learning_rate" in page.read_text()
