"""The record of a measurement of speed. Nothing heavy is imported: `--show` is quick."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, median
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from benchmark.files import write_atomically
from benchmark.results.record import Environment, PeakMemory
from benchmark.results.schema import Part, Versioned, not_valid
from methods.errors import UserError

DATA, OPTIMISER = "data", "optimiser"
STEP_PARTS = (
    DATA, "encode forward", "sasrec forward", "loss forward",
    "loss backward", "sasrec backward", "encode again", "encode backward", OPTIMISER,
)  # fmt: skip
"""Of an optimiser step, in the order of time; sums over its batches. `encode again` is the second forward
pass of chunks whose graph was not kept. What lies between the others (the loop, sums) counts as data."""
EVALUATION_PARTS = ("encode", "sasrec", "rank")
"""Of a validation pass."""
ENDINGS = {"oom": "out of memory", "killed": "killed, out of memory?", "failed": "failed"}
"""What a variant that did not end well says of itself."""


class Timed(Part):
    """Seconds of the same thing, done several times."""

    seconds: list[float] = Field(default_factory=list)
    cpu_seconds: list[float] = Field(default_factory=list)
    """CPU seconds of the process, over its threads: what other programs on the machine hardly disturb. Empty
    where they were not taken."""


class Counts(Part):
    """What does not depend on how fast or busy a machine is."""

    flops: int = 0
    """Floating-point operations of matrix products (a multiplication and an addition are two), as executed:
    padding and what is computed twice included."""
    flops_fp32: int = 0
    """Of these, those of products of 32-bit numbers, which take longer. 0 in older records, whatever it was.
    """
    operators: int = 0
    """Operators that torch dispatched, views included."""
    host_copies: int = 0
    """Times that values went from the device to the host, or the host had to wait for one. On a CPU, where
    nothing moves, the calls that would (`item`, `tolist`, `numpy`)."""
    host_bytes: int = 0
    """Bytes of these."""

    def add(self, other: Counts) -> None:
        """Add `other` to this."""
        for name in Counts.model_fields:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Counted(Part):
    """Counts of so much training, or of one validation pass."""

    steps: int = 0
    """Optimiser steps; 0 of a validation pass."""
    batches: int = 0
    whole_epoch: bool = False
    """Whether that was exactly one epoch."""
    parts: dict[str, Counts] = Field(default_factory=dict)
    """Part -> sums over all steps."""
    not_counted: list[str] = Field(default_factory=list)
    """Operators that may multiply matrices, but by no known formula: `flops` lacks theirs."""
    kernels: float | None = None
    """Kernels that a step of a few started on the GPU; null on a CPU."""

    @property
    def total(self) -> Counts:
        """Sums over the parts."""
        total = Counts()
        for counts in self.parts.values():
            total.add(counts)
        return total


class MatrixRate(Part):
    """A large matrix product with the run's threads, before and after all else was measured."""

    dtype: str
    size: int
    """Rows and columns of its matrices."""
    before: Timed
    after: Timed

    @property
    def per_second(self) -> float:
        """Floating-point operations a second: the median product's."""
        return 2 * self.size**3 / median([*self.before.seconds, *self.after.seconds])

    @property
    def per_cpu_second(self) -> float:
        """The same in CPU seconds."""
        return 2 * self.size**3 / median([*self.before.cpu_seconds, *self.after.cpu_seconds])


class Variant(Part):
    """The figures of one cell. Where `status` is not ok, they are those that there were until then."""

    value: str
    """Of the setting that is varied; empty where none is."""
    status: Literal["ok", "oom", "killed", "failed"]
    """`killed`: the process vanished, as the host ends one when it runs out of memory."""
    error: str | None = None
    """One line where status is not ok."""
    settings: dict[str, Any]
    """Every harness setting, resolved."""
    hyperparameters: dict[str, Any]
    """Every hyper-parameter of the method, resolved."""
    environment: Environment | None = None
    batches_per_epoch: int = 0
    steps_per_epoch: int = 0
    """Optimiser steps of an epoch, each of `accumulation` batches; the last may have fewer."""
    predictions_per_epoch: int = 0
    step: Timed = Field(default_factory=Timed)
    """Whole optimiser steps, with no clock inside."""
    batches: list[int] = Field(default_factory=list)
    """Batches of each of these."""
    encoded: list[int] = Field(default_factory=list)
    """Items that each of them encoded; running a chunk again for its gradients is not counted."""
    parts: dict[str, Timed] = Field(default_factory=dict)
    """Part -> further steps, taken in turn with the whole ones, with a clock at each edge."""
    epoch: Timed = Field(default_factory=Timed)
    """Whole training epochs; empty where none was asked for."""
    evaluation: Timed = Field(default_factory=Timed)
    """Validation passes."""
    evaluation_parts: dict[str, Timed] = Field(default_factory=dict)
    """Part -> the same passes."""
    counted: Counted | None = None
    """Training, counted."""
    counted_evaluation: Counted | None = None
    """One validation pass, counted."""
    matrix_rate: MatrixRate | None = None
    """In the run's precision."""
    fp32_rate: MatrixRate | None = None
    """In fp32, where that is not the run's precision; null in older records."""
    chunk_tokens: int | None = None
    """Tokens of a chunk of item texts at the end; null where no texts are read."""
    halvings: int = 0
    """Times that a chunk did not fit into memory and was halved."""
    host_before: int = 0
    """Resident bytes of the process when all is built and no step was taken."""
    peak_memory: dict[str, PeakMemory] = Field(default_factory=dict)
    """Phase ("train", "eval") -> peaks."""

    @property
    def epochs(self) -> Timed:
        """Training epochs: whole ones where there are any, else all batches as fast as each timed step's."""
        if self.epoch.seconds:
            return self.epoch
        scales = [self.batches_per_epoch / batches for batches in self.batches]
        return Timed(
            seconds=[one * scale for one, scale in zip(self.step.seconds, scales, strict=True)],
            cpu_seconds=[one * scale for one, scale in zip(self.step.cpu_seconds, scales, strict=False)],
        )

    def counts(self) -> dict[str, float]:
        """Counts of a step with as many batches as those that were timed."""
        if self.counted is None or not self.batches:
            return {}
        scale = fmean(self.batches) / self.counted.batches
        return {name: value * scale for name, value in self.counted.total.model_dump().items()}

    @property
    def epoch_scale(self) -> float:
        """Training that was counted -> an epoch."""
        counted = self.counted
        return 1.0 if counted is None or counted.whole_epoch else self.batches_per_epoch / counted.batches

    def least_seconds(self, counts: Counts, cpu: bool = False) -> float | None:
        """What the products of `counts` take where each runs at the matrix rate of its precision; CPU seconds
        with `cpu`. None where no rate was taken."""
        rate = self.matrix_rate
        if rate is None:
            return None
        work = ((counts.flops - counts.flops_fp32, rate), (counts.flops_fp32, self.fp32_rate or rate))
        return sum(flops / (of.per_cpu_second if cpu else of.per_second) for flops, of in work)


class SpeedRecord(Versioned):
    """One measurement of all variants, on one machine, one after another."""

    reads: ClassVar[tuple[int, ...]] = (2,)
    schema_version: int = 2
    generation: int = 0
    """`GENERATION` of the harness that took it, see `RunRecord.generation`."""
    command: str
    """Datasets and language models by their names, also where they were given as folders."""
    dataset: str
    data_key: str
    """Names the prepared data."""
    llm: str | None
    llm_details: dict[str, Any]
    method: str
    protocol: str
    overrides: list[str]
    """`key=value` pairs that all variants share."""
    vary: str | None
    """The setting in which variants differ."""
    steps: int
    """Timed optimiser steps."""
    warm_up: int
    """Steps before them."""
    passes: int
    """Timed validation passes, after one that is not timed."""
    epochs: int = 0
    """Timed whole epochs, after the steps."""
    variants: list[Variant]
    created: str
    """UTC, ISO 8601."""

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def read_speed(path: Path) -> SpeedRecord:
    """Read and validate one record; raises `UserError` naming the file and the first fault."""
    try:
        return SpeedRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"the speed record {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise not_valid(path, "speed record", error, "`speed --json FILE` writes one.") from error
