"""One run cannot stand for several seeds of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from benchmark.results.metrics import Ranks
from benchmark.results.record import RunRecord
from benchmark.verify.opened import BundledRun
from methods.errors import UserError


class SeedOfRow(NamedTuple):
    """A run, as one seed of its row."""

    name: str
    """For messages."""
    record: RunRecord
    ranks: str
    """Digest of its ranks."""


def seeds(runs: Sequence[BundledRun]) -> None:
    """No two seeds of a row that trained have the same ranks or the same curve."""
    check_seeds(SeedOfRow(run.name, run.record, _digest(run)) for run in runs if not run.record.untrained)


def check_seeds(found: Iterable[SeedOfRow]) -> None:
    """Raise `UserError` where two seeds of a row that trained are one run.

    Controls draw nothing, and have one seed.
    """
    rows: dict[Hashable, list[SeedOfRow]] = {}
    for seed in found:
        record = seed.record
        if not record.untrained:
            rows.setdefault((record.dataset, record.llm, record.method, record.config_hash), []).append(seed)
    for row in rows.values():
        _check_distinct("curve", row, _curve)
        # of a mixture that is the control alone, training has no part in the ranks
        mixed = [seed for seed in row if not (seed.record.fusion and seed.record.fusion.weight == 1)]
        _check_distinct("ranks", mixed, lambda seed: seed.ranks)


def _check_distinct(what: str, row: Sequence[SeedOfRow], of: Callable[[SeedOfRow], Hashable]) -> None:
    first: dict[Hashable, SeedOfRow] = {}
    for seed in row:
        other = first.setdefault(of(seed), seed)
        if other.record.seed != seed.record.seed:
            raise UserError(
                f"{other.name} and {seed.name} are of the seeds {other.record.seed} and {seed.record.seed}, "
                f"and have the same {what}: one run stands for two."
            )


def _curve(seed: SeedOfRow) -> Hashable:
    """Losses and validation metrics of all epochs."""
    return tuple(
        (point.loss, *sorted(point.valid.items()), *sorted(point.valid_masked.items()))
        for point in seed.record.curve
    )


def _digest(run: BundledRun) -> str:
    """Of the ranks themselves, however they are stored."""
    digest = hashlib.sha256()
    for found in run.splits.values():
        for values in (found.best, found.tied) if isinstance(found, Ranks) else (found,):
            digest.update(values.tobytes())
    return digest.hexdigest()
