"""Figures beyond the tables of runs: sweeps, whole cost, rank agreement."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.report import agreement, ledger, sweeps
from benchmark.report.section import Section
from benchmark.results.stored import StoredRun


def sections(records: Sequence[StoredRun]) -> list[Section]:
    """All of them, as a reader asks: which setting, at what cost, and does the protocol change the order."""
    return [*sweeps.sections(records), *ledger.sections(records), *agreement.sections(records)]
