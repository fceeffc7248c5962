"""Total cost of each row of a table, and the epoch from which preparation has paid for itself.

A *cached* row reads what the language model computed once (`cost.prepare_seconds`) and runs it no more; a
*tuned* row runs it in every epoch (`cost.encodings_per_epoch`). Where a table has no tuned row, speed records
of the same data, language model, protocol and machine stand in, and are named as what they are:
extrapolations from a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmark.report.drawing import COLOURS, columns, forms, look_of, style
from benchmark.report.provenance import configuration
from benchmark.report.section import Block, Cell, Plot, Section
from benchmark.results.comparable import RunGroup, RunRow
from benchmark.results.generations import mark, newest, note, oldest
from benchmark.results.measures import count
from benchmark.results.record import RunRecord, Tuning
from benchmark.results.results import Results
from benchmark.results.stored import StoredRun
from benchmark.speed.record import SpeedRecord, read_speed
from methods.errors import UserError

SPEED = "speed"
"""Folder of speed records below that of the results."""


PARTS: dict[str, Callable[[RunRecord], float | None]] = {
    "preparation": lambda run: run.cost.prepare_seconds or 0.0,
    "training to the best epoch": lambda run: run.cost.seconds_to_best,
    "training after it": lambda run: (run.cost.train_seconds or 0.0) - (run.cost.seconds_to_best or 0.0),
    "validation": lambda run: sum(epoch.eval_seconds for epoch in run.curve),
    "checkpoints": lambda run: sum(epoch.save_seconds for epoch in run.curve),
}
"""Wall seconds of a run, apart; the one test pass is not timed."""
COLUMNS = (*PARTS, "tuning")
HATCHES = ("", "", "///", "---", "xx", "\\\\\\")
"""Of the bars of COLUMNS."""


@dataclass(frozen=True)
class Costs:
    """What the finished runs of a row cost."""

    label: str
    runs: tuple[StoredRun, ...]
    search: Tuning | None

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each of COLUMNS: means over the runs, and the search once."""
        own = {name: fmean(of(run.record) or 0.0 for run in self.runs) for name, of in PARTS.items()}
        return {**own, "tuning": self._tuning()}

    def _tuning(self) -> float:
        """Training seconds of the trials, save the one that is among the runs."""
        if self.search is None:
            return 0.0
        mine = {(run.record.config_hash, run.record.seed) for run in self.runs}
        seed = self.search.seed
        return sum(
            trial.train_seconds for trial in self.search.trials if (trial.config_hash, seed) not in mine
        )

    @property
    def name(self) -> str:
        """As `Cell.record` says it."""
        return self.runs[0].configuration


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
        rows = [Costs(row.label, row.finished, row.tuning) for row in _timed(group)]
        if rows:
            made.append(_section(stem, group, rows, _courses(group, speeds), faults))
    return made


def _timed(group: RunGroup) -> list[RunRow]:
    return [row for row in group.rows if row.ok and all(run.cost.seconds_to_best for run in row.ok)]


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
        costs = [run.cost for run in row.ok]
        tuned = any(cost.encodings_per_epoch for cost in costs)
        if not tuned and not all(cost.prepare_seconds for cost in costs):
            continue  # reads no language model
        epoch = fmean((cost.epoch_seconds or 0.0) + (cost.eval_seconds or 0.0) for cost in costs)
        prepare = fmean(cost.prepare_seconds or 0.0 for cost in costs)
        epochs = fmean(run.epochs_run for run in row.ok)
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
    rows: Sequence[Costs],
    courses: Sequence[Course],
    faults: Sequence[str],
) -> Section:
    key = group.key
    where = f"{key.dataset}, {key.llm or 'no language model'}, protocol {key.protocol}"
    pairs = _pairs(courses)
    blocks = [_costs(rows)]
    plots = [Plot("costs", f"Total cost: {where}", draw_costs(where, {row.label: row.parts for row in rows}))]
    if pairs:
        blocks.append(_break_evens(pairs))
        plots.append(Plot("break-even", f"Cost over epochs: {where}", draw_epochs(where, courses, pairs)))
    return Section(
        f"{stem}-total-cost",
        f"Total cost and break-even: {where}",
        f"Wall seconds from an empty cache to the end of training, means over seeds. {group.caption}",
        blocks,
        [*_notes(rows, courses), *_mixed(group, courses), *faults],
        plots,
        [*_lines(group, rows), *_pair_lines(group, pairs)],
        {row.name: configuration(row.runs) for row in rows},
    )


def _pairs(courses: Sequence[Course]) -> list[Pair]:
    """Each cached course beside each tuned one, and their break-even."""
    return [(a, b, break_even(a, b)) for b in courses if b.tuned for a in courses if not a.tuned]


def _costs(rows: Sequence[Costs]) -> Block:
    body = []
    for row in rows:
        cells = [Cell(count(value)) for value in row.parts.values()]
        total = Cell(count(sum(row.parts.values())), record=row.name)
        body.append([Cell(row.label), *cells, total, Cell(str(len(row.runs)))])
    return Block("Wall seconds", ["row", *COLUMNS, "total", "seeds"], body)


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


def _notes(rows: Sequence[Costs], courses: Sequence[Course]) -> list[str]:
    notes = [
        "preparation: what the language model computes once, from an empty cache; methods and seeds that "
        "read the same layers share it, yet each row counts all of it. validation: one pass an epoch. The "
        "test pass is not timed. Wall seconds mislead where other programs ran on the machine."
    ]
    if any(row.parts["tuning"] for row in rows):
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


def _lines(group: RunGroup, rows: Sequence[Costs]) -> list[dict[str, Any]]:
    return [
        {**group.key._asdict(), "kind": "cost", "row": row.label, "against": None, **row.parts,
         "seconds": sum(row.parts.values()), "seeds": len(row.runs),
         "break_even_epochs": None, "source": "run"}
        for row in rows
    ]  # fmt: skip


def _pair_lines(group: RunGroup, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {**group.key._asdict(), "kind": "break-even", "row": a.label, "against": b.label,
         **dict.fromkeys(COLUMNS), "seconds": None, "seeds": None, "break_even_epochs": epochs,
         "source": b.source or "run"}
        for a, b, epochs in pairs
    ]  # fmt: skip


def draw_costs(where: str, rows: Mapping[str, Mapping[str, float]]) -> dict[str, bytes]:
    """A bar a row, stacked by what the seconds went to: `png` and `svg`."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(7.5, 1.6 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(where, loc="left")
        labels = list(rows)
        left = [0.0] * len(labels)
        for place, part in enumerate(next(iter(rows.values()))):
            width = [rows[label][part] for label in labels]
            if any(width):
                look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place]}
                axes.barh(labels, width, left=left, height=0.68, label=part, edgecolor="white", **look)
            left = [a + b for a, b in zip(left, width, strict=True)]
        for row, total in enumerate(left):
            axes.annotate(count(total), (total, row), (4, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("wall seconds")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside lower left", ncols=3, handlelength=2.4)
        return forms(figure)


def draw_epochs(where: str, courses: Sequence[Course], pairs: Sequence[Pair]) -> dict[str, bytes]:
    """Seconds spent by each epoch, both axes logarithmic; a dot where a cached row has paid for itself."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    crossings = [(epochs, a) for a, _, epochs in pairs if epochs]
    last = max([course.epochs for course in courses] + [2 * epochs for epochs, _ in crossings] + [10.0])
    first = min([0.1] + [epochs / 2 for epochs, _ in crossings])
    wide = columns(course.label for course in courses)
    with style():
        figure = Figure(figsize=(7.5, 4.0 + 0.24 / wide * len(courses)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(where, loc="left")
        at = [first * (last / first) ** (step / 200) for step in range(201)]
        for place, course in enumerate(courses):
            colour, _, marker = look_of(place)
            look: dict[str, Any] = {"color": colour, "linestyle": (0, (5, 1.5)) if course.tuned else "-"}
            seconds = [course.after(epochs) for epochs in at]
            ends: dict[str, Any] = {"marker": marker, "markevery": [(37 * place) % 150 + 25], "markersize": 6}
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
        shown: dict[str, Any] = {"title": title, "alignment": "left", "handlelength": 3.4}
        figure.legend(loc="outside lower left", ncols=wide, **shown)
        return forms(figure)
