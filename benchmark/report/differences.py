"""Differences between the rows of a table, with intervals and p-values from stored ranks.

docs/statistics.md explains each figure; `benchmark.results.compared` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.report.section import Block, Cell, Section, configuration
from benchmark.results.compared import shown
from benchmark.results.figures import Results
from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.measures import quality, share
from benchmark.results.statistics import DRAWS, PairTest

ALL_PAIRS = 10
"""Rows up to which all pairs are printed; above, each with the reference alone."""
MASKED = "test_masked"
HEADS = ["difference", "95 % interval", "p", "corrected p", "verdict"]


def sections(results: Results) -> list[Section]:
    """A section for each table of two rows or more whose runs came to their end."""
    return [
        _section(stem, group)
        for stem, group in results.groups.items()
        if sum(bool(row.finished) for row in group.run_rows) > 1
    ]


def _section(stem: str, group: RunGroup) -> Section:
    rows = [row for row in group.run_rows if row.label in group.compared.gains]
    blocks = []
    if len(rows) > 1:
        best = reference(rows)
        blocks = [_against_reference(group, rows, best, metric) for metric in group.tested]
        if 2 < len(rows) <= ALL_PAIRS:
            blocks += [_all_pairs(group, metric) for metric in group.tested]
    return Section(
        f"{stem}-tests",
        f"Differences between methods: {group.key.title}",
        f"Test metrics over the full catalogue, the user's history masked, user by user. {group.caption}",
        blocks,
        [*_notes(group, rows), *group.compared.faults],
        lines=_lines(group, rows) if blocks else [],
        records={row.configuration: configuration(row.finished) for row in rows},
    )


def reference(rows: Sequence[RunRow]) -> RunRow:
    """The row that is best on validation, by masked Recall@10 averaged over seeds; the first of equals."""

    def valid(row: RunRow) -> float:
        mean = row.mean("recall@10", "valid_masked")
        return mean.mean if mean else 0.0

    return max(rows, key=valid)


def seeds_of(row: RunRow) -> str:
    """How many seeds finished, of how many where some did not; a control without training has none."""
    if row.ok and len(row.runs) == 1 and row.untrained:
        return "n/a"
    return f"{len(row.ok)} of {len(row.runs)}" if len(row.ok) < len(row.runs) else str(len(row.ok))


def _cells(a: str, b: str, test: PairTest) -> list[Cell]:
    """Cells of HEADS: the difference of row `a` less row `b`."""
    texts = [signed(test.difference), f"{signed(test.low)} to {signed(test.high)}"]
    texts += [p_value(test.p), p_value(test.p_corrected), _verdict(a, b, test)]
    return [Cell(text) for text in texts]


def _verdict(a: str, b: str, test: PairTest) -> str:
    return f"{a if test.difference > 0 else b} better" if shown(test) else "no difference shown"


def _against_reference(group: RunGroup, rows: Sequence[RunRow], best: RunRow, metric: str) -> Block:
    body = []
    for row in rows:
        gains = group.compared.gains[row.label]
        spread = gains.spread(MASKED, metric)
        head = [
            Cell(row.label),
            Cell(share(float(gains.values(MASKED, metric).mean())), record=row.configuration),
            Cell(seeds_of(row)),
            Cell("n/a" if spread is None else share(spread)),
        ]
        if row is best:
            tail = [Cell("reference"), *[Cell("")] * (len(HEADS) - 1)]
        else:
            test = group.compared.test(row.label, best.label, MASKED, metric)
            tail = _cells(row.label, best.label, test)
        body.append([*head, *tail])
    label = f"masked {quality(MASKED, metric).label}"
    title = f"{label[0].upper()}{label[1:]}: each row against {best.label}, the best on validation"
    return Block(title, ["row", label, "seeds", "SD over seeds", *HEADS], body)


def _all_pairs(group: RunGroup, metric: str) -> Block:
    rows = [
        [Cell(f"{a} - {b}"), *_cells(a, b, test)]
        for (a, b), test in group.compared.tests(MASKED, metric).items()
    ]
    return Block(f"Masked {quality(MASKED, metric).label}: all pairs", ["pair", *HEADS], rows)


def _notes(group: RunGroup, rows: Sequence[RunRow]) -> list[str]:
    if len(rows) < 2:
        return ["Fewer than two rows have ranks that can be compared."]
    users = len(group.compared.gains[rows[0].label].user)
    pairs = len(rows) * (len(rows) - 1) // 2
    notes = [
        f"difference: mean over {users:,} users and over the seeds of a row. 95 % interval: percentile "
        f"bootstrap, {DRAWS:,} samples; each draws users, the same for all rows, and seeds, the same for "
        "rows with the same seeds. p: two-sided, below .05 where the interval excludes 0, and only there.",
        f"corrected p: for all {pairs} pairs of rows, by the largest deviation of any pair in each sample "
        "(Westfall and Young); below .05 one row is called better.",
        "The CSV has all pairs, and the differences with the history not masked.",
    ]
    if len(rows) > ALL_PAIRS:
        notes.append(f"Of more than {ALL_PAIRS} rows, each is printed against the reference alone.")
    single = [row.label for row in rows if seeds_of(row) == "1"]
    if single:
        notes.append(
            "One seed only, so that intervals cover users but not how training varies between seeds: "
            f"{', '.join(single)}."
        )
    return notes


def _lines(group: RunGroup, rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """A line of the CSV for each pair and metric, with the history masked and raw."""
    by_label = {row.label: row for row in rows}
    lines = []
    for split in (MASKED, "test"):
        for metric in group.tested:
            for (a, b), test in group.compared.tests(split, metric).items():
                line: dict[str, Any] = {**group.key._asdict(), "split": split, "metric": metric}
                for name, label in (("a", a), ("b", b)):
                    gains = group.compared.gains[label]
                    line |= {
                        name: label,
                        f"{name}_config_hash": by_label[label].runs[0].config_hash,
                        f"{name}_seeds": " ".join(str(seed) for seed in gains.by_seed),
                        f"{name}_mean": float(gains.values(split, metric).mean()),
                        f"{name}_seed_sd": gains.spread(split, metric),
                    }
                line |= {"users": len(gains.user), **test._asdict(), "verdict": _verdict(a, b, test)}
                lines.append(line)
    return lines


def signed(value: float) -> str:
    """A difference of metrics to four digits, with its sign and without the zero before the point."""
    return f"{round(value, 4) + 0.0:+.4f}".replace("0.", ".", 1)


def p_value(value: float | None) -> str:
    """A p-value to four digits."""
    if value is None:
        return "n/a"
    return "<.0001" if value < 0.0001 else "1" if value >= 0.99995 else share(value)
