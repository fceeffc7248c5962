"""Sections of the runs themselves: the tables of a dataset, language model and protocol, and their plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.report import tables
from benchmark.report.behind import configuration, name_of
from benchmark.report.names import stems_of
from benchmark.report.plots import Kind, draw
from benchmark.report.rows import Group, groups
from benchmark.report.section import Plot, Section
from benchmark.results.record import METRICS, Stored

PLOTS: dict[Kind, str] = {"curves": "Learning curves", "quality": "Quality, time and memory"}


def sections(records: Sequence[Stored], metrics: Sequence[str] = METRICS) -> list[Section]:
    """A section for each table of runs."""
    paths = {id(run): path for path, run in records}
    found = groups((run for _, run in records), metrics)
    return [_section(stem, group, paths) for stem, group in stems_of(found).items()]


def _section(stem: str, group: Group, paths: Mapping[int, Path]) -> Section:
    behind: dict[str, tuple[str, Any]] = {}
    for row in group.rows:
        stored = [(paths[id(run)], run) for run in row.runs]
        behind[row.label] = (name_of(stored[0]), configuration(stored))
    plots = [Plot(kind, heading, draw(group, kind)) for kind, heading in PLOTS.items()]
    return replace(tables.section(group, stem, behind), plots=plots)
