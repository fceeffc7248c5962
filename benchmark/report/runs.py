"""Sections of the runs themselves: the tables of a dataset, language model and protocol, and their plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.report import tables
from benchmark.report.names import stems_of
from benchmark.report.plots import Kind, draw
from benchmark.report.provenance import configuration
from benchmark.report.rows import Group, groups
from benchmark.report.section import Plot, Section
from benchmark.results.record import METRICS
from benchmark.results.stored import StoredRun

PLOTS: dict[Kind, str] = {"curves": "Learning curves", "quality": "Quality, time and memory"}


def sections(records: Sequence[StoredRun], metrics: Sequence[str] = METRICS) -> list[Section]:
    """A section for each table of runs."""
    return [_section(stem, group) for stem, group in stems_of(groups(records, metrics)).items()]


def _section(stem: str, group: Group) -> Section:
    provenance = {row.label: (row.stored[0].configuration, configuration(row.stored)) for row in group.rows}
    plots = [Plot(kind, heading, draw(group, kind)) for kind, heading in PLOTS.items()]
    return replace(tables.section(group, stem, provenance), plots=plots)
