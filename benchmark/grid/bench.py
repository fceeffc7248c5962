"""Execute a plan, stage by stage, choose among the trials of its searches, and print the tables.

A search chooses by validation alone; the records of the chosen configuration hold how it was found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.escape import visible_line
from benchmark.grid.executor import Executor
from benchmark.grid.plan import GridPlan
from benchmark.grid.search import Search, configuration_name
from benchmark.process.exit_status import ExitCode
from benchmark.report.tables import print_tables
from benchmark.results.index import keep_indexed
from benchmark.results.record import NO_LLM, RunRecord
from benchmark.results.schema import METRICS
from benchmark.results.searches import as_trial, selection, validation
from benchmark.results.store import StoredRun, as_stored, ignore, usable
from benchmark.results.tuning import Trial, Tuning, covers, with_trials
from benchmark.run.spec import ResolvedRun
from methods.base import reads_llm


@dataclass(frozen=True)
class GridOutcome:
    """What a bench ended with."""

    records: list[RunRecord]
    """Of the requested runs, the chosen trials, and the further seeds of these; one that ended with a mistake
    of the user has none."""
    total: int
    """How many there should be."""

    @property
    def failed(self) -> int:
        """Runs that did not end well."""
        return self.total - sum(record.status == "ok" for record in self.records)

    def runs(self, results: Path, metrics: Sequence[str] = METRICS) -> list[StoredRun]:
        """The runs as they are stored below `results`, with `metrics`."""
        return [as_stored(record, results, metrics) for record in self.records]


def bench(plan: GridPlan, executor: Executor, results: Path, metrics: Sequence[str] = METRICS) -> ExitCode:
    """Execute `plan` and print the tables; `ExitCode.OK` if every requested run ended well, else `FAILED`."""
    outcome = execute(plan, executor, results)
    show(outcome, results, metrics)
    return ExitCode.FAILED if outcome.failed else ExitCode.OK


def show(outcome: GridOutcome, results: Path, metrics: Sequence[str] = METRICS) -> None:
    """Print the tables of the runs, and how many did not finish."""
    if outcome.records:
        print(print_tables(outcome.runs(results, metrics), metrics))
    if outcome.failed:
        _print(f"{outcome.failed} of {outcome.total} runs did not finish; the same command tries them again.")


def execute(plan: GridPlan, executor: Executor, results: Path) -> GridOutcome:
    """Execute `plan`; its progress is printed on stderr.

    A failed trial is reported and is no failure; a search whose trials all failed is one. Finished runs are
    not repeated, whoever made them, so that a grid can grow and a crash costs nothing.
    """
    plan = plan.continued(results)
    for line in plan.notes:
        _print(f"tuning: {line}")
    with executor:
        for warning in dict.fromkeys(line for run in plan.known_runs for line in run.prepared.warnings):
            _print(f"warning: {warning}")
        searches, records = _run_trials(plan, executor)
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
    return GridOutcome(ended, len(plan.runs) + sum(1 + len(search.seeds) for search in plan.searches))


def _run_trials(plan: GridPlan, executor: Executor) -> tuple[list[Search], dict[ResolvedRun, RunRecord]]:
    """Run what is known, then the trials that follow from results: one of each search at a time, those of
    several searches side by side. -> the searches with all their trials, and all records."""
    searches, records = list(plan.searches), dict[ResolvedRun, RunRecord]()
    runs = plan.known_runs
    while runs:
        records |= executor.run(runs, later=sum(search.later for search in searches))
        runs = []
        for number, search in enumerate(searches):
            if search.unknown_trials:
                values = [(trial, selection(records.get(trial))) for trial in search.trials]
                searches[number] = search.advanced(values)
                runs += searches[number].trials[len(search.trials) :]
    return searches, records


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
    print(visible_line(line), file=sys.stderr, flush=True)


MISSING = "its process ended without a record"


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
    return with_trials(
        search.described,
        [_trial(search, run, records.get(run)) for run in search.trials],
        search.set_by(chosen) if chosen else [],
    )


def _trial(search: Search, run: ResolvedRun, record: RunRecord | None) -> Trial:
    overrides = search.set_by(run)
    if record:
        return as_trial(record, overrides, in_space=bool(search.space))
    return Trial(overrides=overrides, config_hash=run.config_hash, status="missing", error=MISSING)


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
            keep_indexed(path)
            # a record of an older version gains no other field
            record.write(path, exclude_unset=True)
        written[run] = record
    return written
