"""Execute a plan, stage by stage, choose among the trials of its searches, and print the tables.

A search chooses by validation alone; the records of the chosen configuration hold how it was found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.config import SEARCHED
from benchmark.grid.executor import Executor
from benchmark.grid.plan import GridPlan, Search, configuration_name
from benchmark.grid.space import describe
from benchmark.process.exit_status import ExitCode
from benchmark.report.tables import print_tables
from benchmark.results.record import NO_LLM, RunRecord
from benchmark.results.schema import METRICS
from benchmark.results.store import as_stored, ignore, usable
from benchmark.results.tuning import Trial, Tuning, covers
from benchmark.run.spec import ResolvedRun
from methods.base import reads_llm


def bench(plan: GridPlan, executor: Executor, results: Path, metrics: Sequence[str] = METRICS) -> ExitCode:
    """Execute `plan`; `ExitCode.OK` if every requested run ended well, else `FAILED`.

    A failed trial is reported and is no failure; a search whose trials all failed is one. Finished runs are
    not repeated, whoever made them, so that a grid can grow and a crash costs nothing.
    """
    for line in plan.notes:
        _print(f"tuning: {line}")
    with executor:
        for warning in dict.fromkeys(line for run in plan.known_runs for line in run.prepared.warnings):
            _print(f"warning: {warning}")
        searches, records = _run_trials(plan, executor, results)
        for run, tuning in _with_sources(plan.origins, results).items():
            records |= write_tuning(tuning, [run], results)
        requested = [*plan.runs]
        repeats: dict[ResolvedRun, Tuning] = {}
        for search in searches:
            best = choose(search, records)
            tuning = search_tuning(search, records, best)
            _print_search(search, tuning)
            # if all trials failed, the first with a record, so that the method has a row
            kept = [best] if best else [trial for trial in search.trials if trial in records][:1]
            records |= write_tuning(tuning, kept, results, search.trials)
            requested += kept
            repeats |= dict.fromkeys(search.repeats(best) if best else (), tuning)
        if repeats:
            records |= executor.run(list(repeats))
    for run, tuning in repeats.items():
        records |= write_tuning(tuning, [run], results)
    ended = [records[run] for run in (*requested, *repeats) if run in records]
    if ended:
        print(print_tables([as_stored(record, results, metrics) for record in ended], metrics))
    total = len(plan.runs) + sum(1 + len(search.seeds) for search in plan.searches)
    if failed := total - sum(record.status == "ok" for record in ended):
        _print(f"{failed} of {total} runs did not finish; the same command tries them again.")
    return ExitCode.FAILED if failed else ExitCode.OK


def _run_trials(
    plan: GridPlan, executor: Executor, results: Path
) -> tuple[list[Search], dict[ResolvedRun, RunRecord]]:
    """Run what is known, then the trials that follow from results: one of each search at a time, those of
    several searches side by side. -> the searches with all their trials, and all records."""
    searches, records = list(plan.searches), dict[ResolvedRun, RunRecord]()
    runs = plan.known_runs
    while runs:
        try:
            records |= executor.run(runs, later=sum(search.later for search in searches))
        finally:  # where it is interrupted too: the row of an unfinished search states how far it came
            for search in searches:
                if search.space:
                    records |= _write_progress(search, records, results)
        runs = []
        for number, search in enumerate(searches):
            if search.unknown_trials:
                values = [(trial, selection(records.get(trial))) for trial in search.trials]
                searches[number] = search.advanced(values)
                runs += searches[number].trials[len(search.trials) :]
    return searches, records


def _write_progress(
    search: Search, records: Mapping[ResolvedRun, RunRecord], results: Path
) -> dict[ResolvedRun, RunRecord]:
    """Describe the trials that have a record in the record of the best one, as the search is so far."""
    known = {
        trial: record
        for trial in search.trials
        if (record := records.get(trial) or usable(trial.record_path(results), ignore))
    }
    search = replace(search, trials=tuple(known))
    best = choose(search, known)
    return write_tuning(search_tuning(search, known, best), [best], results, known) if best else {}


def _with_sources(origins: Mapping[ResolvedRun, Tuning], results: Path) -> dict[ResolvedRun, Tuning]:
    """`origins`, where values that the user gave also have the dataset of a search in `results` that chose
    the same ones for this method and language model; the search of the same dataset comes first."""
    found = dict(origins)
    chosen: dict[str, list[tuple[str, set[str]]]] = {}  # records are read once, not for each seed
    for run, tuning in origins.items():
        if tuning.mode != "given":
            continue
        # `fuse` gives a method without language model that of the control
        llm = run.record_path(results).parts[-3] if reads_llm(run.cls) else NO_LLM
        pattern = f"*/{llm}/{run.spec.method}/*-s*.json"
        if pattern not in chosen:
            chosen[pattern] = _chosen_values(sorted(results.glob(pattern)))
        sources = [dataset for dataset, values in chosen[pattern] if values == set(tuning.chosen)]
        if sources:
            own = run.prepared.name
            found[run] = tuning.model_copy(update={"source": own if own in sources else sources[0]})
    return found


def _chosen_values(paths: Iterable[Path]) -> list[tuple[str, set[str]]]:
    """Dataset and chosen values of each search in a shared space that is noted in the records at `paths`."""
    records = [record for path in paths if (record := usable(path, ignore))]
    tuned = [(record.dataset, record.tuning) for record in records if record.tuning]
    return [(dataset, set(tuning.chosen)) for dataset, tuning in tuned if tuning.mode == "search"]


def _print_search(search: Search, tuning: Tuning) -> None:
    """Print the outcome of a search, and each trial that failed."""
    name = configuration_name(search.untuned)
    for trial in tuning.trials:
        if trial.status != "ok":
            values = ", ".join(trial.overrides)
            _print(f"tuning: {name}: trial {values} did not finish: {trial.status}: {trial.error}")
    best = next((trial for trial in tuning.trials if trial.overrides == tuning.chosen), None)
    if best is None:
        _print(f"tuning: {name}: all {len(tuning.trials)} trials failed")
    else:
        value = best.recall if best.selection is None else best.selection
        _print(
            f"tuning: {name}: {', '.join(tuning.chosen)} is the best of {len(tuning.trials)} trials by "
            f"validation {tuning.select_by.capitalize()} ({value:.4f}, {tuning.select})"
        )


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


MISSING = "its process ended without a record"


def validation(record: RunRecord | None) -> float | None:
    """Validation Recall@10 of the run's own best epoch, masked or not as the run selected its epoch.

    None for a run that did not end well. All that a search knows of how good a trial is.
    """
    if record is None or record.status != "ok":
        return None
    split = "valid_masked" if record.settings.get("select") == "masked" else "valid"
    # of a mixture the trained row alone, which is what a search sets
    trained = record.fusion.trained if record.fusion else record.metrics
    return trained[split]["recall@10"]


def selection(record: RunRecord | None) -> float | None:
    """Validation metric that selects the epoch (`select_by`, `select`), at the run's best epoch.

    None for a run that did not end well. All that a search in the shared space knows of a trial.
    """
    if record is None or record.status != "ok":
        return None
    values = {epoch.epoch: epoch.selection for epoch in record.curve}
    return values[record.best_epoch or 0]


def choose(search: Search, records: Mapping[ResolvedRun, RunRecord]) -> ResolvedRun | None:
    """The best trial by `validation`, in the shared space by `selection`; of equal ones the first, and None
    if all failed."""
    quality = selection if search.space else validation
    known = {trial: value for trial in search.trials if (value := quality(records.get(trial))) is not None}
    return max(known, key=lambda trial: known[trial], default=None)


def search_tuning(
    search: Search, records: Mapping[ResolvedRun, RunRecord], chosen: ResolvedRun | None
) -> Tuning:
    """The search, for the records of the configuration `chosen`."""
    trials = [_trial(search, run, records.get(run)) for run in search.trials]
    untuned = search.untuned
    return Tuning(
        mode="search" if search.space else "grid",
        chosen=search.set_by(chosen) if chosen else [],
        fixed=dict(search.fixed),
        grid={key: list(values) for key, values in search.grid.items()},
        space=describe(search.space),
        budget=search.budget or None,
        select_by=untuned.settings.select_by if search.space else "recall@10",
        select=untuned.settings.select,
        seed=untuned.spec.seed,
        untuned=None if untuned.spec.protocol == SEARCHED else untuned.config_hash,
        trials=trials,
        train_seconds=sum(trial.train_seconds for trial in trials),
        train_cpu_seconds=sum(trial.train_cpu_seconds for trial in trials),
    )


def _trial(search: Search, run: ResolvedRun, record: RunRecord | None) -> Trial:
    curve = record.curve if record else []
    return Trial(
        overrides=search.set_by(run),
        config_hash=run.config_hash,
        status=record.status if record else "missing",
        error=record.error if record else MISSING,
        recall=validation(record),
        selection=selection(record) if search.space else None,
        best_epoch=record.best_epoch if record else None,
        epochs_run=record.epochs_run if record else 0,
        train_seconds=sum(epoch.train_seconds for epoch in curve),
        train_cpu_seconds=sum(epoch.train_cpu_seconds for epoch in curve),
    )


def write_tuning(
    tuning: Tuning, runs: Sequence[ResolvedRun], results: Path, trials: Iterable[ResolvedRun] = ()
) -> dict[ResolvedRun, RunRecord]:
    """Write `tuning` into the records of `runs` that exist in `results`, and nothing else.

    A record keeps its note of a search that tried all of these trials and more: the larger number of
    trials is the true one. Published and given values never replace a search. Of the `trials` of the search,
    those that it chose when it was not as far lose that note.
    """
    tuning = Tuning.model_validate(tuning.model_dump())  # every field set
    written = {}
    for run in dict.fromkeys((*runs, *trials)):
        path, chosen = run.record_path(results), run in runs
        record = usable(path)
        if record is None:
            continue
        old, mixed = record.tuning, record.fusion.trials if record.fusion else 0
        if chosen and old != tuning and not (old and covers(old, tuning)):
            tried = (len(tuning.trials) or 1) + mixed
            record = record.model_copy(update={"tuning": tuning, "trials": tried})
        elif not chosen and old and old.trials and covers(tuning, old):
            record = record.model_copy(update={"tuning": None, "trials": 1 + mixed})
        if record.tuning != old:
            # a record of an older version gains no other field
            record.write(path, exclude_unset=True)
        written[run] = record
    return written
