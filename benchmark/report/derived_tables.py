"""The section "Derived figures": what the paper derives from its tables, computed from its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmark.report.derived import Derived, claims, other_definitions, table1, table5
from benchmark.report.measured import Study
from benchmark.report.section import Section
from benchmark.report.study_tables import fixed
from benchmark.report.styles import Block, Cell
from benchmark.results.published import Published

HEADS = ["figure", "computed", "printed", "difference", "inputs' rounding allows", "verdict", "where, remark"]
NOTES = (
    "Means are over the five datasets, unweighted; s: the proposed method's figure, b: the baseline's. "
    "Improvement: mean of 100 (s / b - 1). Speedup: mean of b / s. Reduction: 100 (1 - s / b). Share: "
    "100 s / b.",
    "These definitions were found by trying: mean ratios give all of Table 5 and both speedups to the digit; "
    "ratios of means give 8 of the 60 figures of Table 5, and speedups of 31.5 and 31.8.",
    "Agrees: equal as printed. Within rounding: unequal, but what the printed inputs were rounded from may "
    "give it. Differs: it may not, so that the paper's statement and its table contradict each other.",
)
CONFLICT = (
    "The last table computes by other definitions those improvements that differ under that of Table 5. "
    "Weighted by interactions per user three of the four are as printed, and the fourth is within what the "
    "inputs' rounding allows; but the paper names no weights and Table 5 has none. These weights were found "
    "by trying; a change of Table 8 after the text was written would explain the gap as well."
)


def section(paper: Published, studies: Sequence[Study]) -> Section:
    """Every derived figure: computed, printed, and whether they agree."""
    known = {study.llm: study for study in studies}
    said, improvements, per = claims(paper, known), table5(paper, known), table1(paper)
    blocks = [
        _block("Statements of the text", said),
        _block("Table 5 from Tables 2, 3 and 4", improvements),
        _block("Averages of Table 1 from its counts", per),
    ]
    notes = list(NOTES)
    if others := _others(paper, known):
        blocks.append(others)
        notes.append(CONFLICT)
    every = [*said, *improvements, *per]
    counts = Counter(one.verdict for one in every)
    caption = (
        f"What {paper.layout.source} says of its tables, computed anew from them. Of {len(every)} figures "
        f"{counts['agrees']} agree, {counts['within rounding']} agree within rounding, {counts['differs']} "
        "do not."
    )
    lines = [_line(one) for one in every]
    return Section("paper-derived", "Derived figures", caption, blocks, notes, (), lines)


def _block(title: str, found: Sequence[Derived]) -> Block:
    rows = []
    for one in found:
        digits = one.digits
        exact = one.low == one.high
        allows = "-" if exact else f"{fixed(one.low, digits + 1)} to {fixed(one.high, digits + 1)}"
        texts = [
            one.what,
            f"{one.computed:.{digits + 2 if digits else 0}f}",
            one.printed,
            fixed(one.difference, digits, "+"),
            allows,
            one.verdict,
            "; ".join(part for part in (one.where, one.remark) if part),
        ]
        rows.append([Cell(text) for text in texts])
    return Block(title, HEADS, rows)


def _others(paper: Published, studies: dict[str, Study]) -> Block | None:
    """The statements of improvement that differ, by other definitions of a mean."""
    differ = [
        (claim, one)
        for claim, one in zip(paper.layout.claims, claims(paper, studies), strict=True)
        if claim.kind == "improvement" and one.verdict == "differs"
    ]
    if not differ:
        return None
    tried = [other_definitions(paper, studies[claim.llm], claim) for claim, _ in differ]
    rows = [
        [Cell(one.what), Cell(one.printed), *(Cell(f"{value:.2f}") for value in values.values())]
        for (_, one), values in zip(differ, tried, strict=True)
    ]
    return Block(
        "Other definitions of the mean improvement (by: weighted by)", ["figure", "printed", *tried[0]], rows
    )


def _line(one: Derived) -> dict[str, Any]:
    return {
        "figure": one.what,
        "computed": one.computed,
        "printed": one.printed,
        "difference": one.computed - float(one.printed),
        "low": one.low,
        "high": one.high,
        "verdict": one.verdict,
        "where": one.where,
    }
