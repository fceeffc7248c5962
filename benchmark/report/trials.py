"""What a table says of tuning: the cost of each row's search, and its trials, by validation only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmark.report.rows import Group, Row
from benchmark.report.shown import seconds, share
from benchmark.report.stats import Estimate
from benchmark.report.styles import Block, Cell, one_line
from benchmark.results.record import Trial, Tuning

SEARCH_HEADS = ["trials", "search s", "search CPU s"]
TRIAL_HEADS = ["trial", "valid R@10", "chosen", "best / epochs", "s", "CPU s"]


def tuned(group: Group) -> bool:
    """Whether any row was tuned."""
    return any(row.tuning for row in group.rows)


def search_cells(row: Row) -> list[str]:
    """Cells of SEARCH_HEADS."""
    if not row.runs:
        return [""] * len(SEARCH_HEADS)
    search = row.tuning
    if search is None or not search.trials:
        return ["1", "n/a", "n/a"]
    return [str(len(search.trials)), _time(search.train_seconds), _time(search.train_cpu_seconds)]


def trials_block(group: Group) -> list[Block]:
    """The trials of all rows, each search's in the order of its grid; none where nothing was searched."""
    rows = [
        [
            Cell(_label(row, trial)),
            Cell(share(trial.recall), "best" if chosen else "") if trial.recall is not None else Cell("n/a"),
            Cell("yes" if chosen else ""),
            Cell(
                f"{trial.best_epoch} / {trial.epochs_run}" if trial.status == "ok" else trial.status
            ),
            Cell(_time(trial.train_seconds)),
            Cell(_time(trial.train_cpu_seconds)),
        ]
        for row, search, trial in _trials(group)
        for chosen in [_chosen(search, trial)]
    ]  # fmt: skip
    return [Block("Trials, by validation only", TRIAL_HEADS, rows)] if rows else []


def trial_notes(group: Group) -> list[str]:
    """How rows were tuned, and why trials were lost."""
    if not tuned(group):
        return []
    said = [
        "tuned: the best of so many trials by validation Recall@10, each at its own best epoch; the other "
        "trials have no row, save the values of the protocol itself. search s, search CPU s: training of all "
        "trials, without evaluation and preparation. published: the paper's best values."
    ]
    for row in group.rows:
        if row.tuning is None:
            continue
        if row.tuning.trials:
            said.append(
                f"{row.label}: trials ran with seed {row.tuning.seed}, chosen by {row.tuning.select} ranks."
            )
        if row.tuning.source:
            said.append(f"{row.label}: values of the paper's {row.tuning.source}.")
        said += [f"{row.label}: {name} was not tuned: {why}." for name, why in row.tuning.fixed.items()]
    for row, _, trial in _trials(group):
        if trial.status != "ok":
            why = one_line(trial.error or "no reason recorded")
            said.append(f"{_label(row, trial)}: {trial.status}: {why}")
    return said


def search_line(row: Row) -> dict[str, Any]:
    """Columns of a row in the CSV."""
    if not row.runs:
        return {}
    search = row.tuning
    return {
        "trials": max(1, len(search.trials)) if search else 1,
        "tuning": search.mode if search else None,
        "tuned": " ".join(search.chosen) if search else None,
        "search_train_seconds": search.train_seconds if search and search.trials else None,
        "search_train_cpu_seconds": search.train_cpu_seconds if search and search.trials else None,
    }


def trial_lines(group: Group) -> list[dict[str, Any]]:
    """A line of the CSV for each trial: no test figures."""
    return [
        {
            **group.key._asdict(),
            "kind": "trial",
            "label": _label(row, trial),
            "method": row.runs[0].method,
            "overrides": " ".join(trial.overrides),
            "config_hash": trial.config_hash,
            "status": trial.status,
            "seeds": str(search.seed),
            "train_seconds": trial.train_seconds,
            "train_cpu_seconds": trial.train_cpu_seconds,
            "best_epoch": trial.best_epoch,
            "epochs_run": trial.epochs_run,
            "valid_recall@10": trial.recall if search.select == "raw" else None,
            "valid_masked_recall@10": trial.recall if search.select == "masked" else None,
            "chosen": "yes" if _chosen(search, trial) else "no",
        }
        for row, search, trial in _trials(group)
    ]


def _trials(group: Group) -> Iterator[tuple[Row, Tuning, Trial]]:
    for row in group.rows:
        if row.tuning:
            for trial in row.tuning.trials:
                yield row, row.tuning, trial


def _chosen(search: Tuning, trial: Trial) -> bool:
    return bool(search.chosen) and trial.overrides == search.chosen


def _label(row: Row, trial: Trial) -> str:
    return f"{row.runs[0].method}: {', '.join(trial.overrides)}"


def _time(value: float) -> str:
    return seconds(Estimate(value, None, 1, value))
