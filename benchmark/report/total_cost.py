"""Total cost of each row of a table, and the epoch from which preparation has paid for itself.

A *cached* row reads what the language model computed once (`cost.prepare_seconds`) and runs it no more; a
*tuned* row runs it in every epoch (`cost.encodings_per_epoch`). Where a table has no tuned row, speed records
of the same data, language model, protocol and machine stand in, and are named as what they are:
extrapolations from a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmark.report.drawing import (
    COLOURS,
    forms,
    further_inches,
    legend_below,
    look_of,
    new_figure,
    wrapped,
    wrapped_title,
)
from benchmark.report.section import Block, Cell, Plot, Section, configuration
from benchmark.results.advice import Clock
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, RunGroup, RunRow, mark, newest, note, oldest
from benchmark.results.measures import count, quality
from benchmark.speed.record import SpeedRecord, read_speed
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SPEED = "speed"
"""Folder of speed records below that of the results."""


PARTS = {
    "preparation": "prepare_seconds",
    "training to the best epoch": "seconds_to_best",
    "training after it": "seconds_after_best",
    "validation": "validation_seconds",
    "checkpoints": "checkpoint_seconds",
}
"""Wall seconds of a run, apart, and their measures; the one test pass is not timed."""
COLUMNS = (*PARTS, "tuning")
QUALITY = tuple(quality("test_masked", metric) for metric in HEADLINE)
"""What stands before the seconds."""
BAR = 190.0
"""Points that the label of a bar may be wide."""
HATCHES = ("", "", "///", "---", "xx", "\\\\\\")
"""Of the bars of COLUMNS."""


def _mean(row: RunRow, measure: str) -> float:
    mean = row.mean(measure)
    return mean.mean if mean else 0.0


def _costs_of(rows: Sequence[RunRow]) -> pd.DataFrame:
    """Seconds of each of COLUMNS, a line a row: means over the seeds, and the search once."""
    import pandas as pd

    parts = {row.label: {part: _mean(row, name) for part, name in PARTS.items()} for row in rows}
    return pd.DataFrame(parts).T.assign(tuning=[Clock(on_cpu=False).search(row) for row in rows])


@dataclass(frozen=True)
class Course:
    """What epochs cost one way: `prepare + epochs x epoch` seconds."""

    label: str
    prepare: float
    """Seconds before the first epoch."""
    epoch: float
    """Seconds of an epoch: training and validation."""
    tuned: bool
    epochs: float
    """Epochs run; of a speed record 0, it ran none."""
    source: str = ""
    """Where the figures are from, if not from a run; empty for a run."""
    generation: int = 0
    """Of the harness that took them, the oldest of its runs."""

    def after(self, epochs: float) -> float:
        """Seconds spent by the end of an epoch."""
        return self.prepare + epochs * self.epoch


Pair = tuple[Course, Course, float | None]
"""A cached course, a tuned one, and their break-even in epochs."""


def break_even(cached: Course, tuned: Course) -> float | None:
    """Epochs from which `cached` has cost less, 0 where it does from the start; None where it never does."""
    ahead = cached.prepare - tuned.prepare
    if cached.epoch >= tuned.epoch:
        return 0.0 if ahead < 0 and cached.epoch == tuned.epoch else None
    return max(0.0, ahead / (tuned.epoch - cached.epoch))


def sections(results: Results) -> list[Section]:
    """A section for each table that has finished runs."""
    speeds, faults = _speed_records({run.path.parents[3] for run in results.runs})
    made = []
    for stem, group in results.groups.items():
        if rows := _timed(group):
            made.append(_section(stem, group, rows, _courses(group, speeds), faults))
    return made


def _timed(group: RunGroup) -> list[RunRow]:
    best = [(row, row.mean("seconds_to_best")) for row in group.rows]
    return [row for row, seconds in best if seconds and seconds.least > 0 and seconds.n == len(row.ok)]


def _speed_records(results: set[Path]) -> tuple[list[tuple[str, SpeedRecord]], list[str]]:
    """All speed records beside the runs, by file name, and what is wrong with files that are none."""
    records, faults = [], []
    for folder in sorted(results):
        for path in sorted((folder / SPEED).glob("*.json")):
            try:
                records.append((f"{SPEED}/{path.name}", read_speed(path)))
            except UserError as error:
                faults.append(f"{SPEED}/{path.name} was left out: {str(error).partition(': ')[2]}")
    return records, faults


def _courses(group: RunGroup, speeds: Sequence[tuple[str, SpeedRecord]]) -> list[Course]:
    """Cached and tuned rows of a table; speed records where it has no tuned one."""
    courses = []
    for row in _timed(group):
        tuned, prepare = _mean(row, "encodings_per_epoch") > 0, _mean(row, "prepare_seconds")
        if tuned or prepare:  # else it reads no language model
            epoch = _mean(row, "epoch_seconds") + _mean(row, "eval_seconds")
            epochs = _mean(row, "epochs_run")
            courses.append(Course(row.label, prepare, epoch, tuned, epochs, generation=oldest(row.ok, 0)))
    if not any(course.tuned for course in courses):
        courses += [course for name, speed in speeds for course in _stand_ins(group, name, speed)]
    last = max(
        [newest(run for row in _timed(group) for run in row.ok), *(course.generation for course in courses)]
    )
    return [replace(course, label=mark(course.label, course.generation < last)) for course in courses]


def _stand_ins(group: RunGroup, name: str, speed: SpeedRecord) -> list[Course]:
    """Variants of a speed record that ran the language model, on the data and machine of the table."""
    key = group.key
    digests = {run.llm_details.get("digest") for row in group.rows for run in row.ok if run.llm}
    if (speed.data_key, speed.protocol) != (key.data_key, key.protocol):
        return []
    if speed.llm_details.get("digest") not in digests:
        return []
    courses = []
    for variant in speed.variants:
        environment = variant.environment
        if variant.status != "ok" or variant.chunk_tokens is None or environment is None:
            continue
        if (environment.device_name, environment.world_size, environment.precision) != key[-3:]:
            continue
        label = f"{speed.method} ({speed.vary}={variant.value})" if speed.vary else speed.method
        timed = f"{speed.steps} step{'s' if speed.steps > 1 else ''} timed"
        under = f", under {' '.join(speed.overrides)}" if speed.overrides else ""
        epoch = median(variant.epochs.seconds) + median(variant.evaluation.seconds)
        source = f"{timed}{under}"
        courses.append(Course(f"{label} [{name}]", 0.0, epoch, True, 0.0, source, speed.generation))
    return courses


def _section(
    stem: str,
    group: RunGroup,
    rows: Sequence[RunRow],
    courses: Sequence[Course],
    faults: Sequence[str],
) -> Section:
    where, costs = group.key.title, _costs_of(rows)
    pairs = _pairs(courses)
    blocks = [_costs(rows, costs)]
    plots = [Plot("costs", f"Total cost: {where}", draw_costs(where, costs))]
    if pairs:
        blocks.append(_break_evens(pairs))
        plots.append(Plot("break-even", f"Cost over epochs: {where}", draw_epochs(where, courses, pairs)))
    return Section(
        f"{stem}-total-cost",
        f"Total cost and break-even: {where}",
        f"Wall seconds from an empty cache to the end of training, means over seeds. {group.caption}",
        blocks,
        [*_notes(costs, courses), *_mixed(group, courses), *faults],
        plots,
        _lines(group, rows, costs, pairs),
        {row.configuration: configuration(row.finished) for row in rows},
    )


def _pairs(courses: Sequence[Course]) -> list[Pair]:
    """Each cached course beside each tuned one, and their break-even."""
    return [(a, b, break_even(a, b)) for b in courses if b.tuned for a in courses if not a.tuned]


def _costs(rows: Sequence[RunRow], costs: pd.DataFrame) -> Block:
    body = []
    for row, values in zip(rows, costs.to_numpy().tolist(), strict=True):
        total = Cell(count(sum(values)), record=row.configuration)
        seconds = [Cell(count(value)) for value in values]
        figures = [Cell(column.cell(row).partition(" ±")[0]) for column in QUALITY]
        body.append([Cell(row.label), *figures, *seconds, total, Cell(str(len(row.ok)))])
    heads = ["row", *(f"masked {column.label}" for column in QUALITY), *COLUMNS, "total", "seeds"]
    return Block("Wall seconds", heads, body)


def _break_evens(pairs: Sequence[Pair]) -> Block:
    body = []
    for cached, tuned, epochs in pairs:
        figures = [cached.prepare - tuned.prepare, cached.epoch, tuned.epoch]
        body.append(
            [
                Cell(f"{cached.label} against {tuned.label}"),
                *[Cell(count(value)) for value in figures],
                Cell("never" if epochs is None else f"{epochs:.2g}"),
                Cell(in_words(epochs)),
            ]
        )
    heads = ["pair", "more preparation, s", "s/epoch, cached", "s/epoch, tuned", "epochs", "cheaper in total"]
    return Block("Break-even: the epoch from which the cached row has cost less", heads, body)


def in_words(epochs: float | None) -> str:
    """A break-even as a reader says it."""
    if epochs is None:
        return "never"
    if epochs == 0:
        return "from the start"
    return "within the first epoch" if epochs <= 1 else f"after {math.ceil(epochs):,} epochs"


def _notes(costs: pd.DataFrame, courses: Sequence[Course]) -> list[str]:
    notes = [
        "preparation: what the language model computes once, from an empty cache; methods and seeds that "
        "read the same layers share it, yet each row counts all of it. validation: one pass an epoch. The "
        "test pass is not timed. Wall seconds mislead where other programs ran on the machine."
    ]
    if costs.tuning.any():
        notes.append(
            "tuning: training seconds of the trials that are not among the row's runs, once, not a seed; "
            "their preparation and validation are not in it."
        )
    if any(not course.tuned for course in courses) and any(course.tuned for course in courses):
        notes.append("Break-even counts preparation, and training and validation of each epoch (medians).")
    if not any(course.tuned for course in courses):
        notes.append("No row or speed record here trains the language model: there is no break-even to show.")
    if sources := sorted({f"{course.label}, {course.source}" for course in courses if course.source}):
        notes.append(
            "No run of this table trains the language model; its break-even is against speed records, whose "
            f"epochs are extrapolated, and whose preparation, if any, is not known: {'; '.join(sources)}."
        )
    return notes


def _mixed(group: RunGroup, courses: Sequence[Course]) -> list[str]:
    """What the mark means, where speed records bring in a generation that no run of the table is of."""
    runs = {run.generation for row in group.rows for run in row.ok}
    return [
        f"{sentence}." for sentence in note({course.generation for course in courses} | runs) if len(runs) < 2
    ]


def _lines(
    group: RunGroup, rows: Sequence[RunRow], costs: pd.DataFrame, pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    key = group.key._asdict()
    lines: list[dict[str, Any]] = [
        {**key, "kind": "cost", "row": row.label, "against": None,
         **dict(zip(COLUMNS, values, strict=True)), "seconds": sum(values),
         "seeds": len(row.ok), "break_even_epochs": None, "source": "run"}
        for row, values in zip(rows, costs.to_numpy().tolist(), strict=True)
    ]  # fmt: skip
    return lines + [
        {**key, "kind": "break-even", "row": a.label, "against": b.label, "break_even_epochs": epochs,
         "source": b.source or "run"}
        for a, b, epochs in pairs
    ]  # fmt: skip


def draw_costs(where: str, costs: pd.DataFrame) -> dict[str, bytes]:
    """A bar a line of `costs`, stacked by its columns: `png` and `svg`."""
    labels = [wrapped(label, BAR) for label in costs.index]
    with new_figure(1.6 + 0.32 * len(costs) + further_inches(labels)) as figure:
        axes = figure.add_subplot()
        figure.suptitle(wrapped_title(where), x=0.01, ha="left", fontsize="large")
        ends = costs.cumsum(axis=1)
        for place, part in enumerate(costs):
            if costs[part].any():
                look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place]}
                look |= {"left": ends[part] - costs[part], "height": 0.68, "edgecolor": "white"}
                axes.barh(range(len(costs)), costs[part], label=part, **look)
        for place, total in enumerate(ends.iloc[:, -1]):
            axes.annotate(count(total), (total, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(costs)), labels)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("wall seconds")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside lower left", ncols=3, handlelength=2.4)
        return forms(figure)


def draw_epochs(where: str, courses: Sequence[Course], pairs: Sequence[Pair]) -> dict[str, bytes]:
    """Seconds spent by each epoch, both axes logarithmic; a dot where a cached row has paid for itself."""
    from matplotlib.ticker import FuncFormatter

    crossings = [(epochs, a) for a, _, epochs in pairs if epochs]
    last = max([course.epochs for course in courses] + [2 * epochs for epochs, _ in crossings] + [10.0])
    first = min([0.1] + [epochs / 2 for epochs, _ in crossings])
    with new_figure(4.0) as figure:
        axes = figure.add_subplot()
        axes.set_title(wrapped_title(where), loc="left")
        at = [first * (last / first) ** (step / 200) for step in range(201)]
        for place, course in enumerate(courses):
            look = look_of(place) | {"linestyle": (0, (5, 1.5)) if course.tuned else "-"}
            seconds = [course.after(epochs) for epochs in at]
            ends: dict[str, Any] = {"markevery": [(37 * place) % 150 + 25], "markersize": 6}
            axes.plot(at, seconds, label=course.label, linewidth=1.5, **look, **ends)
        for epochs, cached in crossings:
            dot: dict[str, Any] = {"mec": "black", "mfc": "white", "markersize": 5, "zorder": 5}
            axes.plot([epochs], [cached.after(epochs)], "o", **dot)
        axes.set(xscale="log", yscale="log", xlabel="epochs", ylabel="total wall seconds")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        )
        title = "solid: cached; dashed: tuned" + ("\nwhite dot: break-even" if crossings else "")
        legend_below(figure, *axes.get_legend_handles_labels(), title)
        return forms(figure)
