"""How many runs fit into host memory side by side: by the measured peak of the first of each kind.

A run that exceeds the memory is killed by the system, and hours of work with it. Runs of one kind, which
share data, language model, method and protocol, take about as much memory; so the first of a kind is measured
up to the end of its first epoch before another one of a kind that is not measured starts beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.run.spec import ResolvedRun

MARGIN = 1.1
"""Factor on a measured peak: runs of one kind differ, and the test pass comes last."""
Kind = tuple[str, str, str, str]


def kind_of(run: ResolvedRun) -> Kind:
    """What runs that take about as much memory have in common."""
    spec = run.spec
    return spec.dataset, spec.llm, spec.method, spec.protocol


@dataclass
class Held:
    """Memory of a run that is under way, in bytes."""

    peak: int
    """The largest so far."""
    now: int
    measured: bool
    """Whether its first epoch is over, so that it will hardly grow."""


@dataclass
class MemoryPlan:
    """Says whether one more run fits."""

    peaks: dict[Kind, int] = field(default_factory=dict)
    """Kind -> largest measured bytes of a run."""

    def learn(self, run: ResolvedRun, peak: int | None) -> None:
        """Remember what a run held at most."""
        if peak:
            self.peaks[kind_of(run)] = max(peak, self.peaks.get(kind_of(run), 0))

    def fits(self, run: ResolvedRun, running: Mapping[ResolvedRun, Held], free: float) -> bool:
        """Whether `run` may start beside those that are `running`, with `free` bytes left.

        The only run always may: what it needs cannot be known otherwise.
        """
        if not running:
            return True
        if kind_of(run) not in self.peaks and any(
            not self._known(other, held) for other, held in running.items()
        ):
            return False
        growth = sum(max(0.0, self._expected(other, held) - held.now) for other, held in running.items())
        return self._need(run) + growth <= free

    def _known(self, run: ResolvedRun, held: Held) -> bool:
        return held.measured or kind_of(run) in self.peaks

    def _need(self, run: ResolvedRun) -> float:
        """Bytes that a run will hold: by its own kind, else by the largest of any."""
        return MARGIN * self.peaks.get(kind_of(run), max(self.peaks.values(), default=0))

    def _expected(self, run: ResolvedRun, held: Held) -> float:
        return MARGIN * held.peak if held.measured else max(MARGIN * held.peak, self._need(run))
