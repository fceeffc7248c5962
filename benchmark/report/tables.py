"""Tables of runs: the figures of each row, how rows were tuned, and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from benchmark.escape import one_line
from benchmark.report import rendering
from benchmark.report.answer import advices
from benchmark.report.differences import seeds_of
from benchmark.report.plots import draw
from benchmark.report.section import Block, Cell, Plot, Section, configuration
from benchmark.report.tuning import trial_lines, trial_notes, trials_block
from benchmark.results.comparable import shortened
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, RunGroup, RunRow
from benchmark.results.measures import (
    MEASURES,
    NO_FIGURE,
    PRINTED,
    SEARCH,
    RunMeasure,
    peak_memory,
    quality,
    share,
    unlike_candidates,
)
from benchmark.results.metrics import measure, of_lists, of_ranks
from benchmark.results.record import RunRecord
from benchmark.results.schema import METRICS, TARGET_AGE, TARGET_GAP
from benchmark.results.statistics import SeedMean
from benchmark.results.store import StoredRun
from benchmark.results.targets import without_lists

PLOTS = {"curves": "Learning curves", "quality": "Quality, time and memory"}
"""Plot of a table -> its heading."""
CSV_SPLITS = [split + masked for split in ("test", "test_warm", "test_cold") for masked in ("", "_masked")]
CSV_COSTS = [
    *(
        MEASURES[name, ""]
        for name in (
            "epoch_seconds", "epoch_cpu_seconds", "prepare_seconds", "train_seconds", "best_epoch",
            "epochs_run", "trainable_parameters", "trials", "candidates", "encodings_per_epoch",
            "chunk_tokens", "chunk_halvings", "ranks_moved",
        )
    ),
    quality("valid", "recall@10"),
    quality("initial_valid", "recall@10"),
    MEASURES["peak_memory_bytes", ""],
]  # fmt: skip


def sections(results: Results) -> list[Section]:
    """A section for each table of runs, with its plots."""
    made = []
    for stem, group in results.groups.items():
        plots = [Plot(kind, heading, draw(group, kind)) for kind, heading in PLOTS.items()]
        made.append(replace(section(group, stem), plots=plots))
    return made


def section(group: RunGroup, stem: str = "") -> Section:
    """The tables of a group; each row names the configuration of its runs."""
    sources = {row.label: row.configuration for row in group.run_rows}
    tables = [
        replace(block, rows=[_linked(row, sources.get(row[0].text, "")) for row in block.rows])
        for block in blocks(group)
    ]
    records = {row.configuration: configuration(row.stored) for row in group.run_rows}
    return Section(stem, title(group), group.caption, tables, notes(group), (), csv_rows(group), records)


def _linked(row: list[Cell], record: str) -> list[Cell]:
    return [replace(cell, record=record) for cell in row]


def render(group: RunGroup, style: rendering.Style) -> str:
    """A group as text; the CSV has one line a row and nothing else."""
    return rendering.render(section(group), style)


def print_tables(runs: Iterable[StoredRun], metrics: Sequence[str] = METRICS) -> str:
    """The answer of each dataset, then all tables of the runs, with `metrics`, for a terminal."""
    results = Results(tuple(runs), metrics=tuple(metrics))
    answers = [rendering.paragraph(advice.sentence) for advice in advices(results)]
    return "\n".join([*answers, *(render(group, "text") for group in results.groups.values())])


def title(group: RunGroup) -> str:
    """What names the table to a reader, with what sets it apart from others of its name."""
    named, apart = group.key.title, [shortened(pair) for pair in group.differs]
    more = [f"and {len(apart) - 3} more"] if len(apart) > 3 else []
    return f"{named} ({', '.join(apart[:3] + more)})" if apart else named


def blocks(group: RunGroup) -> list[Block]:
    """The table of test metrics, masked and then raw, that of cost, and that of the trials of tuned rows."""
    splits = _warm_and_cold(group)
    figures = [
        *(quality("test_masked", metric) for metric in group.metrics),
        *(quality("test", metric) for metric in of_ranks(group.metrics)),
        *(quality(split, metric) for split in splits for metric in HEADLINE),
    ]
    seeds = [Cell(seeds_of(row)) for row in group.run_rows] + [Cell("")] * len(group.bounds)
    search = SEARCH if _tuned(group) else ()
    costs = [_cost_cells(group, column) for column in (*PRINTED, *search)]
    title = "Test, full catalogue: the user's history masked, and raw (not masked)"
    title += "; warm and cold targets, raw" if splits else ""
    heads = [_split_label(column) for column in figures]
    cost_heads = [column.label for column in (*PRINTED, *search)]
    qualities = [_quality_cells(group, column) for column in figures]
    return [
        _block(title, ["method", *heads, "seeds"], group, [*qualities, seeds]),
        _block("Cost", ["method", *cost_heads, "seeds"], group, [*costs, seeds], bounds=False),
        *trials_block(group),
    ]


def _block(
    title: str, heads: list[str], group: RunGroup, columns: Sequence[list[Cell]], bounds: bool = True
) -> Block:
    """Rows of the group under `heads`; `bounds` says whether those have figures here."""
    below = group.foot if bounds else group.controls
    labels = [Cell(row.label) for row in group.rows + below]
    return Block(title, heads, [list(row) for row in zip(labels, *columns, strict=bounds)], len(below))


def _split_label(column: RunMeasure) -> str:
    """`masked R@10`, `raw R@10`, `warm R@10`: the head of a column."""
    split = {"test": "raw"}.get(column.split, column.split.removeprefix("test_"))
    return f"{split} {column.label}"


def _figure(group: RunGroup, column: RunMeasure, row: RunRow) -> SeedMean | None:
    """The value of a row. Of rank metrics over all test users its interval is over users and seeds."""
    figure = column.mean(row)
    if figure and column.direction and column.split in ("test", "test_masked"):
        return replace(figure, half_width=group.compared.half_width(row.label, column.split, column.name))
    return figure


def _quality_cells(group: RunGroup, column: RunMeasure) -> list[Cell]:
    """Cells of all rows; bold are the best one and those whose difference from it is not shown."""
    bold: set[str] = set()
    if column.direction and column.split in ("test", "test_masked"):
        bold = group.compared.leaders(column.split, column.name)
    cells = []
    for row in group.run_rows:
        figure = _figure(group, column, row)
        if figure and column.split in ("test_warm", "test_cold"):
            figure = replace(figure, half_width=None)  # few users, whose ranks are not stored apart
        text = column.show(figure) if figure else NO_FIGURE if row.status == "ok" else row.status
        cells.append(Cell(text, "best" if row.label in bold else ""))
    return cells + [Cell(column.cell(bound)) for bound in group.bounds]


def _cost_cells(group: RunGroup, column: RunMeasure) -> list[Cell]:
    """Cells of all rows; what the search of a row cost is known where its own runs failed, too."""
    known = column in SEARCH
    return [Cell(column.cell(row) if known or row.status == "ok" else row.status) for row in group.run_rows]


def _warm_and_cold(group: RunGroup) -> list[str]:
    """`test_warm` and `test_cold` where runs report them."""
    return [
        split
        for split in ("test_warm", "test_cold")
        if any(split in run.metrics for row in group.rows for run in row.ok)
    ]


def notes(group: RunGroup) -> list[str]:
    """What the figures mean where that is not plain, and why runs failed."""
    columns = " ".join(f"{column.label}: {column.note}." for column in PRINTED if column.note)
    lines = [
        f"{columns} {NO_FIGURE}: not measured, or does not apply.",
        f"Time: {group.time or f'{TARGET_AGE}, {TARGET_GAP}: not in these records'}.",
        *_lists_notes(group),
        *_unlike_candidates_note(group),
        *trial_notes(group),
        *_control_notes(group),
    ]
    lines += _interval_notes(group)
    if group.key.llm is not None:
        none = [row.label for row in group.rows if row.runs[0].llm is None]
        lines += [f"Without a language model: {', '.join(none)}."] if none else []
    for row in group.run_rows:
        lines += [f"{row.label}: {pair}" for pair in row.runs[0].overrides if shortened(pair) != pair]
        for run in row.runs:
            lines += _fusion_notes(row.label, run)
            if run.cost.chunk_halvings and run.cost.chunk_tokens:
                lines.append(
                    f"{row.label}, seed {run.seed}: chunks of texts were halved to fit into memory "
                    f"({run.cost.chunk_halvings}x, to {run.cost.chunk_tokens:,} tokens)."
                )
            if run.status != "ok":
                reason = one_line(run.error or "no reason recorded")
                lines.append(f"{row.label}, seed {run.seed}: {run.status}: {reason}")
    return lines


def _fusion_notes(label: str, run: RunRecord) -> list[str]:
    """The weight of the control in a mixture, and the trained model alone."""
    if run.fusion is None:
        return []
    metrics = run.fusion.trained["test_masked"]
    figures = ", ".join(f"{measure(name).label} {share(metrics[name])}" for name in HEADLINE)
    return [
        f"{label}, seed {run.seed}: a mixture with the control {run.fusion.control}, whose weight "
        f"{run.fusion.weight:g} validation chose; the trained model alone: masked {figures}."
    ]


def _interval_notes(group: RunGroup) -> list[str]:
    """Of what the printed intervals are."""
    lines = []
    if group.compared.gains:
        single = [row.label for row in group.rows if seeds_of(row) == "1"]
        alone = f" Over users alone, since they have one seed: {', '.join(single)}." if single else ""
        lines.append(
            "± of masked and raw metrics: half the width of the 95 % bootstrap interval over users and "
            f"seeds; of controls, which have no seeds, over users.{alone}"
        )
    if len(group.compared.gains) > 1:
        lines.append(
            "A difference is shown where its corrected p, over all pairs of rows, is below .05: see the "
            "differences between methods."
        )
    if any(len(row.ok) > 1 for row in group.rows):
        lines.append(
            "± of other columns: half-width of the 95 % t interval over seeds. Of several seeds, memory is "
            "the largest."
        )
    return lines


def _lists_notes(group: RunGroup) -> list[str]:
    """What measures of lists are, and which runs have none; nothing where none were asked for."""
    columns = [quality("test_masked", metric) for metric in of_lists(group.metrics)]
    notes = [" ".join(f"{column.label}: {column.note}." for column in columns)]
    notes.append(without_lists([run for row in group.rows for run in row.runs], group.metrics))
    return [note for note in notes if note]


def _control_notes(group: RunGroup) -> list[str]:
    """What the controls are, how many settings each tried, and which it took."""
    rows = [row for row in group.rows + group.controls if row.untrained]
    if not rows:
        return []
    which = "Rows between the trained ones and the bounds" if group.controls else "All rows but the bounds"
    lines = [
        f"{which} are controls, recommenders without training. Each chooses its settings on validation, by "
        "Recall@10 with the user's history masked."
    ]
    chosen = [(row.label, row.tuning) for row in rows if row.tuning]
    lines += [f"{label}: {', '.join(own.chosen)}, of {len(own.trials)} trials." for label, own in chosen]
    if chosen and not group.controls:
        lines.append(
            f"{', '.join(column.label for column in SEARCH[1:])}: ranking validation under all trials."
        )
    return lines


def _unlike_candidates_note(group: RunGroup) -> list[str]:
    apart = [f"{size} candidates: {', '.join(rows)}" for size, rows in unlike_candidates(group).items()]
    warning = (
        "Rows differ in the number of softmax candidates, which affects quality independently of the method."
    )
    return [f"{warning} {'; '.join(apart)}."] if apart else []


def csv_rows(group: RunGroup) -> list[dict[str, Any]]:
    """A dictionary a row: what names table and row, and every figure in full precision; null is empty.

    Where rows were tuned, also how, and one a trial.
    """
    lines = []
    asked = dict.fromkeys((*METRICS, *of_ranks(group.metrics)))
    splits = [quality(split, metric) for split in CSV_SPLITS for metric in asked]
    splits += [quality("test_masked", metric) for metric in of_lists(group.metrics)]
    for row in group.rows + group.foot:
        first = row.runs[0] if row.runs else None
        line: dict[str, Any] = {
            **group.key._asdict(),
            "kind": "bound" if not first else "control" if first.untrained else "run",
            "label": row.label,
            "method": first.method if first else None,
            "overrides": " ".join(first.overrides) if first else None,
            "config_hash": first.config_hash if first else None,
            "status": row.status if first else None,
            "seeds": " ".join(str(run.seed) for run in row.ok),
            "seeds_not_ok": " ".join(str(run.seed) for run in row.runs if run.status != "ok"),
        }
        for column in (*splits, *CSV_COSTS):
            figure = _figure(group, column, row)
            line[column.head] = _whole(figure.mean) if figure else None
            line[f"{column.head}_half_width"] = figure.half_width if figure else None
        memory = peak_memory(row)
        del line["peak_memory_bytes_half_width"]
        line["peak_memory_kind"] = memory[1] if memory else ""
        if _tuned(group) and first:
            search = row.tuning
            figures = {column.name: column.mean(row) for column in SEARCH}
            line |= {"tuning": search and search.mode, "tuned": " ".join(search.chosen) if search else None}
            line |= {name: _whole(figure.mean) if figure else None for name, figure in figures.items()}
        lines.append(line)
    return lines + trial_lines(group)


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _tuned(group: RunGroup) -> bool:
    """Whether a search chose among trained trials, so that the table shows how."""
    return any(row.tuning for row in group.rows)
