"""How rows were tuned: the trials in a table of runs, and a section for searches in a space of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from benchmark.config import SEARCHED
from benchmark.escape import one_line
from benchmark.report.drawing import forms, legend_below, look_of, new_figure, wrapped_title
from benchmark.report.section import Block, Cell, Plot, Section, configuration
from benchmark.results.figures import Results
from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.measures import NO_FIGURE, SEARCH, seconds, share
from benchmark.results.statistics import SeedMean
from benchmark.results.tuning import Trial, Tuning

TUNING_NOTES = {
    "search": "tuned, best of N: of N trials in one space for all rows, the one with the best validation "
    "value of the metric that selects the epoch. Other trials have no row, not even the protocol's values.",
    "grid": "tuned: of all combinations of the method's grid, the one with the best validation Recall@10, "
    "each at its best epoch. Other trials have no row, except the one with the protocol's own values.",
    "paper": "published: the paper's best values.",
    "given": "not tuned here: no search on this dataset chose the values. The user gave them. values of "
    "another search here: a search on this dataset chose them for the same method under other settings, such "
    "as without `fuse`.",
}
"""`Tuning.mode` -> what it means in a table."""
TRIAL_HEADS = ["trial", "valid R@10", "chosen", "best / epochs", "s", "CPU s"]
NONE = ""
"""Cell of a setting that a row does not have."""
SearchedRow = tuple[RunRow, Tuning]


# --- In a table of runs -------------------------------------------------------------------------------------


def _trials(rows: Sequence[RunRow]) -> list[tuple[RunRow, Tuning, Trial]]:
    """The trials of all rows, each search's in the order of its grid."""
    return [(row, row.tuning, trial) for row in rows if row.tuning for trial in row.tuning.trials]


def trials_block(group: RunGroup) -> list[Block]:
    """The trials, with figures of validation alone; nothing where nothing was searched."""
    rows = []
    for row, search, trial in _trials(group.rows):
        if search.mode == "search":
            continue  # whose trials have a section of their own
        epochs = f"{trial.best_epoch} / {trial.epochs_run}" if trial.epochs_run else NO_FIGURE
        texts = [
            _trial_label(row, trial),
            NO_FIGURE if trial.recall is None else share(trial.recall),
            "yes" if trial is search.best else "",
            epochs if trial.status == "ok" else trial.status,
        ]
        times = (trial.train_seconds, trial.train_cpu_seconds)
        texts += [seconds(SeedMean(time, None, 1, time, time)) for time in times]
        rows.append([Cell(text) for text in texts])
    return [Block("Trials, by validation only", TRIAL_HEADS, rows)] if rows else []


def trial_notes(group: RunGroup) -> list[str]:
    """How rows were tuned, and why trials were lost."""
    trained = [row for row in group.rows if not row.untrained]
    tuned = [(row.label, row.tuning) for row in trained if row.tuning]
    modes = {search.mode for _, search in tuned}
    lines = [note for mode, note in TUNING_NOTES.items() if mode in modes]
    if group.key.protocol == SEARCHED and len(tuned) < len(trained):
        lines.append(TUNING_NOTES["given"])
    if any(search.trials for _, search in tuned):
        lines.append(f"{', '.join(column.label for column in SEARCH[1:])}: {SEARCH[1].note} and preparation.")
    for label, search in tuned:
        if search.trials:
            lines.append(f"{label}: trials ran with seed {search.seed}, chosen by {search.select} ranks.")
        if search.budget and len(search.trials) < search.budget:
            lines.append(f"{label}: the search is not finished; the command that began it continues it.")
        if search.mode == "paper":
            lines.append(f"{label}: values of the paper's {search.source}.")
        elif search.mode == "given":
            by = f"the search on {search.source} chose" if search.source else "the user gave"
            lines.append(f"{label}: {by} {', '.join(search.chosen)}.")
        lines += [f"{label}: {name} was not tuned: {why}." for name, why in search.fixed.items()]
    for row, _, trial in _trials(group.rows):
        if trial.status != "ok":
            why = one_line(trial.error or "no reason recorded")
            lines.append(f"{_trial_label(row, trial)}: {trial.status}: {why}")
    return lines


def trial_lines(group: RunGroup) -> list[dict[str, Any]]:
    """A line of the CSV for each trial: no test figures."""
    return [
        {
            **group.key._asdict(),
            "kind": "trial",
            "label": _trial_label(row, trial),
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
            "chosen": "yes" if trial is search.best else "no",
        }
        for row, search, trial in _trials(group.run_rows)
    ]


def _trial_label(row: RunRow, trial: Trial) -> str:
    return f"{row.runs[0].method}: {', '.join(trial.overrides)}"


# --- Searches in the shared space ---------------------------------------------------------------------------


def sections(results: Results) -> list[Section]:
    """A section for each table in which rows were searched in the shared space."""
    made = []
    for stem, group in results.groups.items():
        rows = [(row, row.tuning) for row in group.rows if row.tuning and row.tuning.mode == "search"]
        if rows:
            made.append(_section(group, stem, rows))
    return made


def _section(group: RunGroup, stem: str, rows: Sequence[SearchedRow]) -> Section:
    title = f"Search of {group.key.title}"
    names = list(dict.fromkeys(str(dimension["name"]) for _, search in rows for dimension in search.space))
    budgets = sorted({search.budget or len(search.trials) for _, search in rows})
    notes = [
        "Each row was searched in the same space, with its method's own grid, and chosen by validation "
        "alone. The first trial has the values of the protocol. hours: training, without evaluation.",
    ]
    if len({len(search.trials) for _, search in rows}) > 1:
        notes.append("Rows differ in their number of trials, so that their conditions are not equal.")
    notes += [
        f"{row.label}: trial {number} {trial.status}: {trial.error or 'no reason recorded'}."
        for row, search in rows
        for number, trial in enumerate(search.trials, 1)
        if trial.status != "ok"
    ]
    heading = f"Best validation value by trial: {group.key.title}"
    return Section(
        f"{stem}-search",
        title,
        f"{group.caption} Trials a row: {', '.join(map(str, budgets))}.",
        [_chosen_block(rows, names), _trials_block(rows, names)],
        notes,
        [Plot("best-so-far", heading, draw(group, rows))],
        _lines(rows),
        {row.configuration: configuration(row.stored) for row, _ in rows},
    )


def _values(overrides: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in overrides)}


def _chosen_block(rows: Sequence[SearchedRow], names: Sequence[str]) -> Block:
    """A row of the table: what its search chose, from how many trials, at what cost."""
    cells = []
    for row, search in rows:
        chosen, best = _values(search.chosen), search.best
        texts = [
            row.label,
            *(chosen.get(name, NONE) for name in names),
            f"{search.trials.index(best) + 1} of {len(search.trials)}" if best else "none",
            share(best.selection or 0.0) if best else NONE,
            f"{search.train_seconds / 3600:.2f}",
            f"{search.train_cpu_seconds / 3600:.2f}",
        ]
        cells.append([Cell(text, record=row.configuration) for text in texts])
    return Block("Chosen values", ["row", *names, "trial", "validation", "hours", "CPU hours"], cells)


def _trials_block(rows: Sequence[SearchedRow], names: Sequence[str]) -> Block:
    """Every trial, with figures of validation alone."""
    cells = []
    for row, search in rows:
        for number, trial in enumerate(search.trials, 1):
            values = _values(trial.overrides)
            reached = trial.status if trial.selection is None else share(trial.selection)
            cells.append(
                [
                    Cell(f"{_name(row)}, trial {number}"),
                    *(Cell(values.get(name, NONE)) for name in names),
                    Cell(reached),
                    Cell("yes" if trial is search.best else ""),
                    Cell(f"{trial.best_epoch} / {trial.epochs_run}" if trial.status == "ok" else NONE),
                    Cell(f"{trial.train_seconds:.0f}"),
                ]
            )
    return Block("Trials", ["trial", *names, "validation", "chosen", "best / epochs", "s"], cells)


def _name(row: RunRow) -> str:
    """The label without what the heading of the section states already."""
    name = row.label.partition("tuned, best of")[0].rstrip("( ;") or row.label
    return name + ")" * (name.count("(") - name.count(")"))


def _lines(rows: Sequence[SearchedRow]) -> list[dict[str, Any]]:
    """A line of the CSV for each trial."""
    return [
        {
            "row": _name(row),
            "config_hash": trial.config_hash,
            "trial": number,
            "seed": search.seed,
            "overrides": " ".join(trial.overrides),
            "status": trial.status,
            "metric": f"{search.select} {search.select_by}",
            "validation": trial.selection,
            "best_so_far": best,
            "best_epoch": trial.best_epoch,
            "epochs_run": trial.epochs_run,
            "train_seconds": trial.train_seconds,
            "train_cpu_seconds": trial.train_cpu_seconds,
        }
        for row, search in rows
        for number, (trial, best) in enumerate(zip(search.trials, best_so_far(search), strict=True), 1)
    ]


def best_so_far(search: Tuning) -> list[float]:
    """The best validation value of the first k trials, for each k; 0 before the first that ended well."""
    return list(accumulate((trial.selection or 0.0 for trial in search.trials), max))


def draw(group: RunGroup, rows: Sequence[SearchedRow]) -> dict[str, bytes]:
    """The best validation value by trial, a line a row: `png` and `svg`."""
    from matplotlib.ticker import MaxNLocator

    with new_figure(3.2) as figure:
        axes = figure.add_subplot()
        axes.set_title(wrapped_title(group.key.title), loc="left")
        for place, (row, search) in enumerate(rows):
            values = [value or float("nan") for value in best_so_far(search)]
            look = {**look_of(place), "markersize": 4, "drawstyle": "steps-post"}
            axes.plot(range(1, len(values) + 1), values, label=_name(row), **look)
        axes.set_xlabel("trial")
        metrics = dict.fromkeys(f"{search.select} {search.select_by}" for _, search in rows)
        axes.set_ylabel(f"best validation {', '.join(metrics)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_below(figure, *axes.get_legend_handles_labels())
        return forms(figure)
