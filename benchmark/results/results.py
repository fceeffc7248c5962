"""All results that a report shows, in the three forms that its sections read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from benchmark.results.comparable import RunGroup, groups, names_of
from benchmark.results.published import Source
from benchmark.results.record import METRICS
from benchmark.results.stored import StoredRun

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """Runs, and with the source `paper` or `both` the published figures."""

    runs: tuple[StoredRun, ...] = ()
    source: Source = "ours"
    metrics: tuple[str, ...] = METRICS
    """Rank metrics that were asked for."""

    @cached_property
    def figures(self) -> pd.DataFrame:
        """The long table, a figure a row, with the metrics that were asked for and those of every record.

        `benchmark.results.figures` explains its columns.
        """
        from benchmark.results.figures import table_of

        return table_of(self.runs, self.source, tuple(dict.fromkeys((*METRICS, *self.metrics))))

    @cached_property
    def figures_with_trials(self) -> pd.DataFrame:
        """The figures of the runs, with the test figures of trials that no search chose."""
        from benchmark.results.figures import measured

        return measured(self.runs, trials=True)

    @cached_property
    def groups(self) -> dict[str, RunGroup]:
        """File name -> runs that may stand in one table; one without a language model may be in several."""
        return names_of(groups(self.runs, self.figures, self.metrics))
