"""Tables of run records: the figures of each row, the best marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmark.report import forms, trials
from benchmark.report.rows import Group, Row, groups, shortened
from benchmark.report.section import Section
from benchmark.report.shown import count, gibibytes, seconds, share, with_interval
from benchmark.report.styles import Block, Cell, Mark, one_line
from benchmark.results.metrics import measure
from benchmark.results.record import METRICS, RunRecord
from benchmark.results.stored import StoredRun

__all__ = ["Group", "Row", "groups", "print_tables", "render", "seconds", "section", "share", "with_interval"]

COST_HEADS = ["cand.", "s/epoch", "CPU s/epoch", "best / epochs", "prep. s", "peak GiB", "trainable", "seeds"]
ALIKE = 1.05
"""Numbers of candidates up to this factor apart count as one: masking false negatives takes a few away."""
CSV_SPLITS = [split + masked for split in ("test", "test_warm", "test_cold") for masked in ("", "_masked")]


def peak_memory(row: Row) -> tuple[float, str] | None:
    """Peak in training over the seeds, in bytes, and its kind: `GPU` (allocated) or else `host` (RSS)."""
    for kind, name in (("GPU", "allocated"), ("host", "host")):
        figure = row.figure(lambda run, name=name: getattr(run.cost.peak_memory.get("train"), name, None))  # type: ignore[misc]
        if figure is not None and figure.n == len(row.ok):
            return figure.largest, kind
    return None


COST: dict[str, Callable[[RunRecord], float | None]] = {
    "epoch_seconds": lambda run: run.cost.epoch_seconds,
    "epoch_cpu_seconds": lambda run: run.cost.epoch_cpu_seconds,
    "prepare_seconds": lambda run: run.cost.prepare_seconds,
    "train_seconds": lambda run: run.cost.train_seconds,
    "best_epoch": lambda run: run.best_epoch,
    "epochs_run": lambda run: run.epochs_run,
    "trainable_parameters": lambda run: run.cost.trainable_parameters,
    "trials": lambda run: run.trials,
    "candidates": lambda run: run.cost.candidates,
    "encodings_per_epoch": lambda run: run.cost.encodings_per_epoch,
    "chunk_tokens": lambda run: run.cost.chunk_tokens,
    "chunk_halvings": lambda run: run.cost.chunk_halvings,
    "ranks_moved": lambda run: run.liveness.ranks_moved if run.liveness else None,
    "valid_recall@10": lambda run: run.metrics.get("valid", {}).get("recall@10"),
    "initial_valid_recall@10": lambda run: run.initial.get("valid", {}).get("recall@10"),
}


def _cost_cells(row: Row) -> list[str]:
    """Cells of COST_HEADS."""
    if not row.runs:
        return [""] * len(COST_HEADS)
    epoch, cpu = row.figure(COST["epoch_seconds"]), row.figure(COST["epoch_cpu_seconds"])
    ready = row.figure(COST["prepare_seconds"])
    best, last = row.figure(COST["best_epoch"]), row.figure(COST["epochs_run"])
    memory, weights = peak_memory(row), row.figure(COST["trainable_parameters"])
    pool = row.figure(COST["candidates"])
    figures = [
        count(pool.mean) if pool else "n/a",
        seconds(epoch) if epoch else "n/a",
        seconds(cpu) if cpu else "n/a",
        f"{best.mean:g} / {last.mean:g}" if best and last else "n/a",
        seconds(replace(ready, half_width=None)) if ready else "n/a",
        f"{gibibytes(memory[0])} {memory[1]}" if memory else "n/a",
        f"{weights.largest:,.0f}" if weights else "n/a",
    ]
    if row.status != "ok":
        figures = [row.status] * len(figures)
    return [
        *figures,
        f"{len(row.ok)} of {len(row.runs)}" if len(row.ok) < len(row.runs) else str(len(row.ok)),
    ]


def _quality_column(group: Group, split: str, metric: str) -> list[Cell]:
    """Cells of all rows, the best and the second marked; equal as printed is equal."""
    figures = [row.quality(split, metric) for row in group.rows]
    printed = sorted({share(figure.mean) for figure in figures if figure}, key=float, reverse=True)
    marks: dict[str, Mark] = dict(zip(printed, ("best", "second"), strict=False)) if len(printed) > 1 else {}
    cells = []
    for row, figure in zip(group.rows, figures, strict=True):
        shown = with_interval(figure, share) if figure else "n/a" if row.status == "ok" else row.status
        cells.append(Cell(shown, marks.get(share(figure.mean), "") if figure else ""))
    limits = [bound.quality(split, metric) for bound in group.bounds]
    return cells + [Cell(share(limit.mean) if limit else "n/a") for limit in limits]


def _splits(group: Group) -> list[str]:
    """`test_warm` and `test_cold` where runs report them."""
    return [
        split
        for split in ("test_warm", "test_cold")
        if any(split in run.metrics for row in group.rows for run in row.ok)
    ]


def blocks(group: Group) -> list[Block]:
    """The main table (test metrics and cost), the one of masked metrics and of warm and cold targets, and
    where rows were tuned that of their trials."""
    rows = [*group.rows, *group.bounds]
    labels = [Cell(row.label) for row in rows]
    main = [_quality_column(group, "test", metric) for metric in group.metrics]
    search = trials.tuned(group)
    costs = [
        [Cell(text) for text in (*_cost_cells(row), *(trials.search_cells(row) if search else []))]
        for row in rows
    ]
    body = [[label, *cells, *cost] for label, *cells, cost in zip(labels, *main, costs, strict=True)]
    heads = ["method", *(measure(metric).label for metric in group.metrics), *COST_HEADS]
    heads += trials.SEARCH_HEADS if search else []
    asked = [("test_masked", metric) for metric in group.metrics]
    asked += [(split, metric) for split in _splits(group) for metric in ("recall@10", "ndcg@10")]
    names = ["method"] + [f"{split.removeprefix('test_')} {measure(metric).label}" for split, metric in asked]
    other = zip(labels, *(_quality_column(group, *what) for what in asked), strict=True)
    title = "Test, the user's history masked" + (
        "; warm and cold targets, unmasked" if _splits(group) else ""
    )
    return [
        Block("Test, full catalogue, and cost", heads, body, len(group.bounds)),
        Block(title, names, [list(cells) for cells in other], len(group.bounds)),
        *trials.trials_block(group),
    ]


def notes(group: Group) -> list[str]:
    """What the figures mean where that is not plain, and why runs failed."""
    said = [
        "cand.: mean number of candidates of a prediction in the training loss, its positive included. "
        "s/epoch: median training seconds, without evaluation and the first epoch. prep. s: what the frozen "
        "language model, or its frozen lower layers, compute once. peak GiB: in training, GPU (allocated by "
        "torch) or else host (resident). n/a: not measured, or does not apply.",
        *_pools(group),
        *trials.trial_notes(group),
    ]
    if any(len(row.ok) > 1 for row in group.rows):
        said.append(
            "±: half-width of the 95 % t interval over seeds. Of several seeds, memory is the largest."
        )
    if group.key.llm is not None:
        none = [row.label for row in group.rows if row.runs[0].llm is None]
        said += [f"Without a language model: {', '.join(none)}."] if none else []
    for row in group.rows:
        said += [f"{row.label}: {pair}" for pair in row.runs[0].overrides if shortened(pair) != pair]
        for run in row.runs:
            if run.cost.chunk_halvings and run.cost.chunk_tokens:
                said.append(
                    f"{row.label}, seed {run.seed}: chunks of texts were halved for want of memory "
                    f"({run.cost.chunk_halvings}x, to {run.cost.chunk_tokens:,} tokens)."
                )
            if run.status != "ok":
                reason = one_line(run.error or "no reason recorded")
                said.append(f"{row.label}, seed {run.seed}: {run.status}: {reason}")
    return said


def unlike_pools(group: Group) -> dict[str, list[str]]:
    """Number of candidates -> the rows trained against it; empty where it is the same for all."""
    sizes = [(pool.mean, row.label) for row in group.rows if (pool := row.figure(COST["candidates"]))]
    if not sizes or max(sizes)[0] <= ALIKE * min(sizes)[0]:
        return {}
    labels: dict[str, list[str]] = {}
    for size, label in sorted(sizes):
        labels.setdefault(count(size), []).append(label)
    return labels


def _pools(group: Group) -> list[str]:
    """Says so where rows were trained against unlike numbers of candidates."""
    apart = [f"{size} candidates: {', '.join(rows)}" for size, rows in unlike_pools(group).items()]
    said = "Rows are trained against different numbers of candidates, which tells beside the method."
    return [f"{said} {'; '.join(apart)}."] if apart else []


def csv_rows(group: Group) -> list[dict[str, Any]]:
    """A dictionary a row: what names table and row, and every figure in full precision; null is empty.

    Where rows were tuned, also how, and one a trial.
    """
    found = []
    tuned, measures = trials.tuned(group), dict.fromkeys((*METRICS, *group.metrics))
    for row in (*group.rows, *group.bounds):
        line: dict[str, Any] = {
            **group.key._asdict(),
            "kind": "run" if row.runs else "bound",
            "label": row.label,
        }
        first = row.runs[0] if row.runs else None
        line |= {
            "method": first.method if first else None,
            "overrides": " ".join(first.overrides) if first else None,
            "config_hash": first.config_hash if first else None,
            "status": row.status if first else None,
            "seeds": " ".join(str(run.seed) for run in row.ok),
            "seeds_not_ok": " ".join(str(run.seed) for run in row.runs if run.status != "ok"),
        }
        figures = {f"{split}_{m}": row.quality(split, m) for split in CSV_SPLITS for m in measures}
        figures |= {name: row.figure(of) for name, of in COST.items()}
        for name, figure in figures.items():
            line[name] = _whole(figure.mean) if figure else None
            line[f"{name}_half_width"] = figure.half_width if figure else None
        memory = peak_memory(row)
        line["peak_memory_bytes"], line["peak_memory_kind"] = (
            (_whole(memory[0]), memory[1]) if memory else ("", "")
        )
        found.append(line | (trials.search_line(row) if tuned else {}))
    return found + trials.trial_lines(group)


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def title(group: Group) -> str:
    """What names the table to a reader, with what sets it apart from others of its name."""
    key, apart = group.key, [shortened(pair) for pair in group.differs]
    more = [f"and {len(apart) - 3} more"] if len(apart) > 3 else []
    named = f"{key.dataset}, {key.llm or 'no language model'}, protocol {key.protocol}"
    return f"{named} ({', '.join(apart[:3] + more)})" if apart else named


def section(group: Group, stem: str, provenance: Mapping[str, tuple[str, Any]]) -> Section:
    """The tables of a group. `provenance`: label of a row -> name and configuration of its runs."""
    tables = [
        replace(block, rows=[_linked(row, provenance.get(row[0].text)) for row in block.rows])
        for block in blocks(group)
    ]
    records = dict(provenance.values())
    return Section(stem, title(group), group.caption, tables, notes(group), (), csv_rows(group), records)


def _linked(row: list[Cell], provenance: tuple[str, Any] | None) -> list[Cell]:
    return [replace(cell, record=provenance[0]) for cell in row] if provenance else row


def render(group: Group, style: forms.Style) -> str:
    """A group as text; the CSV has one line a row and nothing else."""
    return forms.render(section(group, "", {}), style)


def print_tables(records: Iterable[StoredRun], metrics: Sequence[str] = METRICS) -> str:
    """All tables of the records, with `metrics`, for a terminal."""
    return "\n".join(render(group, "text") for group in groups(records, metrics))
