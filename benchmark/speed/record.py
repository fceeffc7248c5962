"""The record of a measurement of speed. It imports nothing heavy, so that `--show` is quick."""

from __future__ import annotations

from operator import mul
from pathlib import Path
from statistics import fmean, median
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import Field, ValidationError

from benchmark.files import write_atomically
from benchmark.results.schema import Environment, Part, PeakMemory, Versioned, not_valid
from methods.errors import UserError

P = TypeVar("P", bound=Part)
DATA, OPTIMISER = "data", "optimiser"
STEP_PARTS = (
    DATA, "encode forward", "sasrec forward", "loss forward",
    "loss backward", "sasrec backward", "encode again", "encode backward", OPTIMISER,
)  # fmt: skip
"""Parts of an optimiser step in the order of time, summed over its batches. `encode again` is the second
forward pass of chunks whose graph was not kept. Time between the other parts (the loop, sums) is data."""
EVALUATION_PARTS = ("encode", "sasrec", "rank")
"""Parts of a validation pass."""
Clock = Literal["seconds", "cpu_seconds"]
CLOCKS: tuple[Clock, ...] = get_args(Clock)
ENDINGS = {"oom": "out of memory", "killed": "killed, out of memory?", "failed": "failed"}
"""Status of a variant that did not end well -> its text in a table."""


class Timed(Part):
    """Times of several repetitions."""

    seconds: list[float] = Field(default_factory=list)
    cpu_seconds: list[float] = Field(default_factory=list)
    """CPU seconds of the process, over its threads, which other programs hardly affect. Empty where not
    measured."""

    def add(self, wall: float, cpu: float) -> None:
        """Add one repetition."""
        self.seconds.append(wall)
        self.cpu_seconds.append(cpu)

    def by(self, clock: Clock) -> list[float]:
        """The times by one clock."""
        return self.seconds if clock == "seconds" else self.cpu_seconds


class Counts(Part):
    """Figures that do not depend on how fast or busy a machine is."""

    flops: int = 0
    """Floating-point operations of matrix products (a multiplication and an addition are two), as executed,
    with padding and recomputation."""
    flops_fp32: int = 0
    """Those in products of 32-bit numbers. 0 in older records, whatever it was."""
    operators: int = 0
    """Operators that torch dispatched, views included."""
    host_copies: int = 0
    """Copies of values from the device to the host, and waits of the host for one. On a CPU, the calls that
    would do so on a GPU (`item`, `tolist`, `numpy`)."""
    host_bytes: int = 0
    """Bytes of these copies."""


class Counted(Part):
    """Counts of some training steps or of one validation pass."""

    steps: int = 0
    """Optimiser steps; 0 for a validation pass."""
    batches: int = 0
    whole_epoch: bool = False
    """Whether the steps are exactly one epoch."""
    parts: dict[str, Counts] = Field(default_factory=dict)
    """Part -> sums over all steps."""
    not_counted: list[str] = Field(default_factory=list)
    """Operators that may multiply matrices and have no formula, so that `flops` lacks theirs."""
    kernels: float | None = None
    """Mean GPU kernels that a step started; null on a CPU."""

    @property
    def total(self) -> Counts:
        """Sums over the parts."""
        return Counts(
            **{name: sum(getattr(part, name) for part in self.parts.values()) for name in Counts.model_fields}
        )


class MatrixRate(Part):
    """Times of a large matrix product with the run's threads, before and after the other measurements."""

    dtype: str
    size: int
    """Rows and columns of its matrices."""
    before: Timed
    after: Timed

    def flops(self, clock: Clock, *measured: Timed) -> float:
        """Floating-point operations per second of the median product of `measured`, by default of both."""
        times = [time for timed in measured or (self.before, self.after) for time in timed.by(clock)]
        return 2 * self.size**3 / median(times)


class Variant(Part):
    """The figures of one run. Where `status` is not ok, those measured until then."""

    value: str
    """Value of the varied setting; empty where none is varied."""
    status: Literal["ok", "oom", "killed", "failed"]
    """`killed`: the process disappeared, as when the host runs out of memory."""
    error: str | None = None
    """The reason in one line where `status` is not ok."""
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
    """Whole optimiser steps, without clocks inside."""
    batches: list[int] = Field(default_factory=list)
    """Batches of each of these steps."""
    encoded: list[int] = Field(default_factory=list)
    """Items that each of these steps encoded, without recomputation."""
    parts: dict[str, Timed] = Field(default_factory=dict)
    """Part -> its time in further steps, which alternate with the whole ones."""
    epoch: Timed = Field(default_factory=Timed)
    """Whole training epochs; empty unless asked for."""
    evaluation: Timed = Field(default_factory=Timed)
    """Validation passes."""
    evaluation_parts: dict[str, Timed] = Field(default_factory=dict)
    """Part -> its time in the same passes."""
    counted: Counted | None = None
    """Counts of training."""
    counted_evaluation: Counted | None = None
    """Counts of one validation pass."""
    matrix_rate: MatrixRate | None = None
    """In the run's precision."""
    fp32_rate: MatrixRate | None = None
    """In fp32, unless that is the run's precision; null in older records."""
    chunk_tokens: int | None = None
    """Tokens of a chunk of item texts at the end; null where the method reads no texts."""
    halvings: int = 0
    """How often the chunks were halved for lack of memory."""
    host_before: int = 0
    """Resident bytes of the process after building, before the first step."""
    peak_memory: dict[str, PeakMemory] = Field(default_factory=dict)
    """Phase ("train", "eval") -> peaks."""

    @property
    def epochs(self) -> Timed:
        """Training epochs: whole ones where measured, else each timed step scaled to all batches."""
        if self.epoch.seconds:
            return self.epoch
        scales = [self.batches_per_epoch / batches for batches in self.batches]
        return Timed(**{clock: list(map(mul, self.step.by(clock), scales)) for clock in CLOCKS})

    @property
    def step_scale(self) -> float:
        """Factor from the counted training to a step with as many batches as the timed ones."""
        return fmean(self.batches) / self.counted.batches if self.counted and self.batches else 0.0

    @property
    def epoch_scale(self) -> float:
        """Factor from the counted training to an epoch."""
        counted = self.counted
        return 1.0 if counted is None or counted.whole_epoch else self.batches_per_epoch / counted.batches


class SpeedRecord(Versioned):
    """One measurement of all variants, one after another on one machine."""

    reads: ClassVar[tuple[int, ...]] = (2,)
    schema_version: int = 2
    generation: int = 0
    """`GENERATION` of the harness that took it, see `RunRecord.generation`."""
    command: str
    """With the names of datasets and language models, also where they were given as folders."""
    dataset: str
    data_key: str
    """Identifies the prepared data."""
    llm: str | None
    llm_details: dict[str, Any]
    method: str
    protocol: str
    overrides: list[str]
    """`key=value` settings that all variants share."""
    vary: str | None
    """The setting in which variants differ."""
    steps: int
    """Timed optimiser steps."""
    warm_up: int
    """Steps before them."""
    passes: int
    """Timed validation passes, after one warm-up pass."""
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
    return read_json(path, SpeedRecord, "speed record", "`speed --json FILE` writes one.")


def read_json(path: Path, cls: type[P], kind: str, do: str) -> P:
    """The JSON of `path` as `cls`. Raises `UserError`, with the first fault and what to `do`."""
    try:
        return cls.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise not_valid(path, kind, error, do) from error
