"""Runs a plan, stage by stage, and prints the tables of what was asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.grid.executor import Executor
from benchmark.grid.plan import Plan, Search, where
from benchmark.grid.tune import choose, note, searched, taken_from_paper
from benchmark.report.tables import print_tables
from benchmark.results.record import METRICS, RunRecord, Tuning
from benchmark.results.store import as_stored
from benchmark.run.spec import RunSpec, resolve_run


def bench(plan: Plan, executor: Executor, results: Path, metrics: Sequence[str] = METRICS) -> int:
    """Run `plan`; returns 0 where every cell that was asked for ended well, else 1.

    A lost trial is told and no failure; a search that lost all of them is one. Finished cells are not run
    again, whoever made them, so that a grid can grow and a crash costs nothing.
    """
    for line in plan.notes:
        _say(f"tuning: {line}")
    first, *more = plan.stages
    with executor:
        _warn(first.cells)
        found = executor.run(first.cells, later=sum(len(stage) for stage in more))
        for published in plan.published:
            found |= note(taken_from_paper(published), [published.cell], results)
        chosen = [(search, choose(search, found)) for search in plan.searches]
        tunings = [_told(search, best, found) for search, best in chosen]
        wanted = [*plan.cells]
        for (search, best), tuning in zip(chosen, tunings, strict=True):
            # of a search that lost all its trials the first with a record, so that the method has a row
            kept = [best] if best else [trial for trial in search.trials if trial in found][:1]
            found |= note(tuning, kept, results)
            wanted += kept
        repeats = {
            cell: n for n, (search, best) in enumerate(chosen) if best for cell in search.repeats(best)
        }
        if repeats:
            found |= executor.run(list(repeats))
    for cell, n in repeats.items():
        found |= note(tunings[n], [cell], results)
    return _conclude(plan, [found[cell] for cell in (*wanted, *repeats) if cell in found], results, metrics)


def _warn(cells: Sequence[RunSpec]) -> None:
    """Say once what each dataset is to be used with care for."""
    for warning in dict.fromkeys(told for cell in cells for told in resolve_run(cell).prepared.warnings):
        _say(f"warning: {warning}")


def _conclude(plan: Plan, records: list[RunRecord], results: Path, metrics: Sequence[str]) -> int:
    """Print the tables; the exit status."""
    if records:
        print(print_tables([as_stored(record, results, metrics) for record in records], metrics))
    asked = len(plan.cells) + sum(1 + len(search.seeds) for search in plan.searches)
    failed = asked - sum(record.status == "ok" for record in records)
    if failed:
        _say(f"{failed} of {asked} cells did not finish; the same command tries them again.")
    return 1 if failed else 0


def _told(search: Search, best: RunSpec | None, found: dict[RunSpec, RunRecord]) -> Tuning:
    """What the search came to; said in a line, and in one for each trial that it lost."""
    tuning, place = searched(search, found, best), where(search.untuned)
    for trial in tuning.trials:
        if trial.status != "ok":
            _say(
                f"tuning: {place}: trial {', '.join(trial.overrides)} is lost: {trial.status}: {trial.error}"
            )
    if best is None:
        _say(f"tuning: {place}: all {len(tuning.trials)} trials are lost")
    else:
        top = next(trial for trial in tuning.trials if trial.overrides == tuning.chosen)
        _say(
            f"tuning: {place}: {', '.join(tuning.chosen)} is the best of {len(tuning.trials)} trials by "
            f"validation Recall@10 ({top.recall:.4f}, {tuning.select})"
        )
    return tuning


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
