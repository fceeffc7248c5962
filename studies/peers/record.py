"""The record of one comparison: every round of each row, ours and the peers'."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import ClassVar

from pydantic import Field

from benchmark.files import write_atomically
from benchmark.results.schema import Part, Versioned
from benchmark.speed.record import Timed, Variant, read_json
from benchmark.speed.tables import SHARES, figures

PRECISIONS = {"no": "fp32"}
"""Precision in a record -> its name in a table, where that is another."""


class Lap(Part):
    """One row in one round."""

    seconds: float
    """Of an epoch."""
    cpu_seconds: float
    peak_host: int | None
    """Bytes of the largest resident set of the process in training."""
    load_average: float | None
    """One-minute load of the machine when the measurement began."""


class PeerReport(Part):
    """What the peer's process wrote in one round."""

    anomaly_mode: bool
    """Whether autograd's anomaly mode was on, as RecBole's import leaves it."""
    parameters: int
    """Numbers that train."""
    width: int
    items: int
    places: int
    """Items that a padded history has."""
    predictions_per_epoch: int
    batch_size: int
    predictions: list[int]
    """Of each timed batch."""
    batches: Timed
    """The timed batches, without the warm-up."""
    peak_host: int | None
    load_average: float | None
    losses: tuple[float, float] | None
    """Loss of a fixed batch with its padding and without; null where the padding stays."""
    versions: dict[str, str]

    @property
    def lap(self) -> Lap:
        """The batches scaled to the predictions of an epoch."""
        scale = self.predictions_per_epoch / sum(self.predictions)
        return Lap(
            seconds=scale * sum(self.batches.seconds),
            cpu_seconds=scale * sum(self.batches.cpu_seconds),
            peak_host=self.peak_host,
            load_average=self.load_average,
        )


class OurRow(Part):
    """A method of this project under one protocol and precision."""

    method: str
    protocol: str
    precision: str
    rounds: list[Variant] = Field(default_factory=list)
    """The first round also counts operations and measures the matrix rate."""

    @property
    def name(self) -> str:
        """Its label in a table."""
        return f"{self.method}, {self.protocol}, {PRECISIONS.get(self.precision, self.precision)}"

    @property
    def laps(self) -> list[Lap]:
        """Medians of the whole epochs of each round."""
        return [
            Lap(
                seconds=median(variant.epochs.seconds),
                cpu_seconds=median(variant.epochs.cpu_seconds),
                peak_host=variant.peak_memory["train"].host,
                load_average=variant.environment and variant.environment.load_average,
            )
            for variant in self.rounds
        ]

    @property
    def least(self) -> float | None:
        """CPU seconds that the products of an epoch take at the measured matrix rates of their precisions."""
        for variant in self.rounds:
            share = figures(variant).get(SHARES[1])
            if isinstance(share, float):
                return share / 100 * median(variant.epochs.cpu_seconds)
        return None


class PeerRow(Part):
    """A peer's model, as published or without padding."""

    key: str
    """What `--rows` calls it."""
    name: str
    rounds: list[PeerReport] = Field(default_factory=list)

    @property
    def laps(self) -> list[Lap]:
        """An epoch of each round."""
        return [report.lap for report in self.rounds]


class PeersRecord(Versioned):
    """All rows, measured in turn on one machine."""

    reads: ClassVar[tuple[int, ...]] = (1,)
    schema_version: int = 1
    generation: int
    """`GENERATION` of the harness that took it."""
    command: str
    dataset: str
    data_key: str
    llm: str
    llm_width: int
    overrides: list[str]
    """Settings of our rows."""
    threads: int
    predictions: int
    """Of an epoch."""
    unisrec_commit: str | None
    ours: list[OurRow]
    peers: list[PeerRow]
    created: str
    """UTC, ISO 8601, when it began."""

    @property
    def rows(self) -> list[OurRow | PeerRow]:
        """All rows that were measured."""
        every: list[OurRow | PeerRow] = [*self.ours, *self.peers]
        return [row for row in every if row.rounds]

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def read(path: Path) -> PeersRecord:
    """Read and validate one record; raises `UserError` naming the file and the first fault."""
    return read_json(path, PeersRecord, "record of peers", "`python studies peers --json FILE` writes one.")
