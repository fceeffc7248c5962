"""What a user asks of a grid, on the command line or from Python; what is left out follows from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from benchmark.config import Tune
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.grid.defaults import (
    EMBEDDED_LLM,
    default_datasets,
    default_protocols,
    default_results,
    default_tune,
)
from benchmark.grid.plan import GridPlan, expand, make_plan


@dataclass
class GridRequest:
    """Names and values as the user gave them; `plan` checks them."""

    datasets: Sequence[str] = ()
    """Empty: as `default_datasets`; likewise `protocols`."""
    llms: Sequence[str] = (EMBEDDED_LLM,)
    methods: Sequence[str] | None = None
    """None: those that run by default."""
    protocols: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    overrides: tuple[str, ...] = ()
    """`key=value` pairs on top of the protocols."""
    reading: FolderOptions = NO_OPTIONS
    tune: Tune | None = None
    """None: as `default_tune`."""
    trials: int | None = None
    folder: InitVar[Path | None] = None
    """Of the records; None: as `default_results`."""
    results: Path = field(init=False)

    def __post_init__(self, folder: Path | None) -> None:
        self.datasets = self.datasets or default_datasets(self.llms)
        self.protocols = self.protocols or default_protocols(self.llms)
        self.tune = self.tune or default_tune(self.llms, self.datasets, self.protocols)
        self.results = folder or default_results(self.datasets)

    def plan(self) -> GridPlan:
        """All runs and searches. Raises `UserError` for a name or value that cannot be."""
        specs = expand(
            self.datasets, self.llms, self.methods, self.protocols, self.seeds, self.overrides, self.reading
        )
        return make_plan(specs, self.tune, self.trials)
