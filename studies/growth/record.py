"""The records of the study. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import ClassVar, Literal

from pydantic import ValidationError

from benchmark.files import write_atomically
from benchmark.results.schema import Environment, Part, Versioned, not_valid
from benchmark.speed.record import Timed, Variant
from methods.errors import UserError

FLAT = 0.15
"""How far the cost of a prediction may rise with the catalogue and still count as flat."""


class Size(Part):
    """One dataset, measured several times, each time in a fresh process."""

    dataset: str
    data_key: str
    """Names the prepared data."""
    users: int
    items: int
    trained_items: int
    """Items that occur in training."""
    interactions: int
    evaluated_users: int
    """Users that a validation pass ranked, taken evenly from all."""
    states_bytes: int
    """Hidden states of the catalogue in memory: `I x A x D` numbers; 0 where the method reads none."""
    table_bytes: int
    """One `[I, d]` matrix of fp32."""
    rounds: list[Variant]
    """One a process; the first that did not end well is the last."""
    epoch_start: Timed
    """Dealing all rows to the batches of an epoch, before its first step."""

    @property
    def failed(self) -> Variant | None:
        """The round that did not end well."""
        return next((variant for variant in self.rounds if variant.status != "ok"), None)

    def per_prediction(self, clock: str) -> list[float]:
        """Training seconds a prediction, of each timed step, with its share of the epoch's start.

        `clock` is `seconds` or `cpu_seconds`.
        """
        start = median(getattr(self.epoch_start, clock))
        return [
            (epoch + start) / variant.predictions_per_epoch
            for variant in self.rounds
            for epoch in getattr(variant.epochs, clock)
        ]

    def evaluation(self, part: str, clock: str) -> float:
        """Median seconds of `part` (`encode`, `sasrec`, `rank`) of a validation pass."""
        values = [
            value for variant in self.rounds for value in getattr(variant.evaluation_parts[part], clock)
        ]
        return float(median(values))

    def peak(self, phase: str) -> int:
        """Largest memory of `train` or `eval`: of the device where that is a GPU, else of the process."""
        peaks = [variant.peak_memory[phase] for variant in self.rounds]
        return max(peak.allocated or peak.host or 0 for peak in peaks)

    def rest(self, phase: str) -> int:
        """The peak without the states, and in `eval` without one `[I, d]` matrix: what is to stay flat."""
        return self.peak(phase) - self.states_bytes - (self.table_bytes if phase == "eval" else 0)


class GrowthRecord(Versioned):
    """Training and evaluation over datasets of several sizes, on one machine."""

    reads: ClassVar[tuple[int, ...]] = (1,)
    schema_version: int = 1
    generation: int = 0
    """`GENERATION` of the harness that took it, see `RunRecord.generation`."""
    kind: Literal["growth"] = "growth"
    command: str
    method: str
    llm: str | None
    """Whose shape the states have; their values are drawn at random."""
    protocol: str
    overrides: list[str]
    sizes: list[Size]
    created: str
    """UTC, ISO 8601."""

    @property
    def environment(self) -> Environment | None:
        """The machine, where any round began."""
        return next(
            (variant.environment for size in self.sizes for variant in size.rounds if variant.environment),
            None,
        )

    @property
    def measured(self) -> list[Size]:
        """The sizes all of whose rounds ended well."""
        return [size for size in self.sizes if size.failed is None]

    def spread(self, clock: str) -> float:
        """The dearest size's prediction over the cheapest size's, less 1."""
        costs = [median(size.per_prediction(clock)) for size in self.measured]
        return max(costs) / min(costs) - 1


class EncodingRecord(Versioned):
    """Encoding a catalogue into the cache, against bare forward passes over the same batches."""

    reads: ClassVar[tuple[int, ...]] = (1,)
    schema_version: int = 1
    generation: int = 0
    """`GENERATION` of the harness that took it, see `RunRecord.generation`."""
    kind: Literal["encoding"] = "encoding"
    command: str
    dataset: str
    llm: str
    layers: list[int]
    states_dtype: str
    items: int
    distinct_texts: int
    tokens: int
    padded_tokens: int
    """With padding: what the language model computes."""
    batches: int
    environment: Environment
    bare: Timed
    """Forward passes over all batches, their tokens on the device before the clock starts: every other batch
    before `encode`, the others after it; two values, whose sum is the pass."""
    encode: Timed
    """All of it: loading tokenizer and model, tokenising, batches, forward passes, writing, digests."""
    tokenise: Timed
    """Loading the tokenizer and tokenising alone, done apart."""
    predicted_bytes: int
    """`I x A x D` numbers, and the mean where states are kept about it."""
    written_bytes: int
    peak_bytes: int | None
    """Peak resident memory of the process while it encoded."""
    resident_before: int
    texts_before_kill: int | None = None
    """Texts that were kept from a process that was killed; null where none was."""
    texts_after_kill: int | None = None
    """Texts that the next process encoded."""
    same_after_kill: bool | None = None
    """Whether its files are the uninterrupted process's, byte by byte."""
    created: str

    def share(self, clock: str) -> float:
        """Seconds of the bare forward passes over those of encoding."""
        return float(sum(getattr(self.bare, clock)) / sum(getattr(self.encode, clock)))


def write(record: GrowthRecord | EncodingRecord, path: Path) -> None:
    """Write atomically."""
    write_atomically(path, record.model_dump_json(indent=1) + "\n")


def read(path: Path) -> GrowthRecord | EncodingRecord:
    """Read and validate one record; raises `UserError` naming the file and the first fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the record {path} cannot be read: {error.strerror}.") from error
    cls = EncodingRecord if b'"kind": "encoding"' in data or b'"kind":"encoding"' in data else GrowthRecord
    try:
        return cls.model_validate_json(data)
    except ValidationError as error:
        do = "`python studies growth` writes one."
        raise not_valid(path, "growth record", error, do) from error
