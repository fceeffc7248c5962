"""The mark of figures that an older generation of the harness made, where a table mixes generations.

A figure is older where `RunRecord.generation` of its run, or of one of its seeds, is less than the largest
among the finished runs beside it. docs/records.md says what generations are.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.results.record import RunRecord

MARK = " \N{DAGGER}"
"""Ends the label of a row that is older."""


def newest(runs: Iterable[RunRecord]) -> int:
    """The largest generation of the finished runs; 0 where there is none."""
    return max((run.generation for run in runs if run.status == "ok"), default=0)


def oldest(runs: Iterable[RunRecord], other: int) -> int:
    """The least generation of the finished runs; `other` where there is none."""
    return min((run.generation for run in runs if run.status == "ok"), default=other)


def mark(label: str, older: bool) -> str:
    """The label, with the mark where its figures are older."""
    return label + MARK if older and not label.endswith(MARK) else label


def bare(label: str) -> str:
    """The label without the mark."""
    return label.removesuffix(MARK)


def note(generations: Iterable[int]) -> list[str]:
    """What the mark means, a sentence; nothing where all figures are of one generation."""
    known = sorted(set(generations))
    if len(known) < 2:
        return []
    older = " and ".join(map(str, known[:-1]))
    return [
        f"{MARK.strip()}: measured by generation {older} of the harness, the newest here is {known[-1]}; "
        "generations differ in how they measure (docs/records.md), which may explain a part of a difference"
    ]
