"""What all record files have in common: parts that are checked field by field, versions, faults in one line.

Nothing unknown, no NaN and no infinity is read. Dictionaries that hold more than the code reads are checked
where it reads them (`shaped`) and kept as they are, in their order, so that a record is written as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from benchmark.config import first_fault
from methods.errors import UserError

Metric = Literal["recall@10", "recall@50", "ndcg@10", "ndcg@50"]
METRICS: tuple[str, ...] = get_args(Metric)


class Part(BaseModel):
    """A part of a record: nothing unknown is read, the schema holds the fields' docstrings."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Versioned(Part):
    """A whole record. Of another version than those in `reads`, nothing else is looked at."""

    reads: ClassVar[tuple[int, ...]]
    """The versions that are read."""
    schema_version: int
    """Version of this schema."""

    @model_validator(mode="before")
    @classmethod
    def _known_version(cls, value: Any) -> Any:
        found = value.get("schema_version", cls.reads[-1]) if isinstance(value, dict) else cls.reads[-1]
        if type(found) is not int or found not in cls.reads:
            listed = " and ".join(map(str, cls.reads))
            raise fault(f"schema_version: {found!r} is unknown; this version of AdaptRec reads {listed}")
        return value


def fault(message: str) -> PydanticCustomError:
    """An error whose message is printed as it stands."""
    return PydanticCustomError("record", message.replace("{", "{{").replace("}", "}}"))


def not_valid(path: Path, kind: str, error: ValidationError, do: str) -> UserError:
    """The complaint that the file at `path` is no `kind`, with its first fault and what to `do`."""
    return UserError(f"{path} is not a {kind}: {first_fault(error)}. {do}")


def finite(value: Any) -> Any:
    """The value, in which no number, however deep, is NaN or infinite; else ValueError."""
    values: Iterable[Any] = ()
    if isinstance(value, dict):
        values = value.values()
    elif isinstance(value, (list, tuple)):
        values = value
    elif isinstance(value, float) and not math.isfinite(value):
        raise fault(f"{value} is not a finite number")
    for inner in values:
        finite(inner)
    return value


def _all_metrics(value: dict[Any, float]) -> dict[Any, float]:
    if missing := [name for name in METRICS if name not in value]:
        raise fault(f"{missing[0]} is missing")
    return value


class Shaped:
    """Annotates a dictionary: what is read of it is checked as the type `of`, and it is kept as it is."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def keep(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
            check(value)
            return finite(value)

        as_it_is = core_schema.simple_ser_schema("any")
        schema = handler.generate_schema(self.of)
        return core_schema.no_info_wrap_validator_function(keep, schema, serialization=as_it_is)


Plain = Annotated[Any, AfterValidator(finite)]
"""Any JSON without NaN and infinity."""
Metrics = dict[str, float]
"""Metric name -> value; the names are METRICS."""
_Metrics = Annotated[dict[Metric, Annotated[float, Field(ge=0, le=1)]], AfterValidator(_all_metrics)]
CheckedMetrics = Annotated[Metrics, Shaped(_Metrics)]
Splits = dict[str, CheckedMetrics]
"""Split -> metrics."""
Count = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]


class PeakMemory(Part):
    """Peaks of one phase in bytes, the largest over the processes; null where it cannot be measured."""

    allocated: int | None = None
    """GPU memory that torch's allocator gave out."""
    reserved: int | None = None
    """GPU memory that torch's allocator held."""
    process: int | None = None
    """GPU memory of the process by NVML, the context included (sampled at the end of each epoch)."""
    host: int | None = None
    """Resident memory of the process on the host."""


class Environment(Part):
    """Where the run was made."""

    python: str
    platform: str
    packages: dict[str, str]
    device: str
    """`cpu` or `cuda`."""
    device_name: str
    """Name of the processor or GPU."""
    threads: int
    """CPU threads that torch used in each process."""
    world_size: int
    precision: str
    """Precision really used: `bf16`, `fp16` or `no`."""
    load_average: float | None = None
    """The machine's one-minute load when training began."""
    git_commit: str | None = None
    git_dirty: bool | None = None


class Facts(BaseModel):
    """A dictionary of which the fields are read again; further keys are kept and not looked at."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


TARGET_AGE = "test targets older than the newest training interaction"
TARGET_GAP = "days from the last input to the target"


class Fingerprint(Facts):
    """Counts of the prepared data, as far as they are read again."""

    users: Count | None = None
    items: Count | None = None
    interactions: Count | None = None
    test_targets: Count | None = None
    test_users: Count | None = None
    """Of how many users the test targets are, where a user may have several."""
    time_unit: str | None = None
    """Unit of clock times, `unknown`, or `position` where times are positions in each user's sequence; this
    and what follows is missing in older records."""
    share_older_test_targets: Share | None = None
    """Share of the test targets that are older than the newest training interaction."""
    median_days_to_test_target: Positive | None = None
    p90_days_to_test_target: Positive | None = None
    """Days from the last input to the test target."""
    share_equal_times: Share | None = None
    """Share of a user's neighbouring interactions that have equal times."""

    def time_lines(self) -> list[str]:
        """How interactions and test targets lie in time; nothing where that is not known."""
        if self.time_unit is None:
            return []
        older, middle, long = (
            self.share_older_test_targets, self.median_days_to_test_target, self.p90_days_to_test_target,
        )  # fmt: skip
        if older is None:
            lines = [f"{TARGET_AGE}, {TARGET_GAP}: n/a (timestamps are positions in each user's sequence)"]
        elif middle is None or long is None:
            lines = [
                f"{TARGET_AGE}: {older:.2%}",
                f"{TARGET_GAP}: n/a (timestamps are numbers of no known unit)",
            ]
        else:
            days = f"median {middle:,.2f}, 90th percentile {long:,.2f}"
            lines = [f"{TARGET_AGE}: {older:.2%}", f"{TARGET_GAP}: {days}"]
        if self.share_equal_times is not None:
            share = f"{self.share_equal_times:.2%}"
            lines.append(f"neighbouring interactions of a user with equal times: {share}")
        return lines


class RecipeFacts(Facts):
    """The recipe of the data, as far as it is read again."""

    text_fields: list[str] | tuple[str, ...] | None = None
    expected: dict[str, Count] | None = None


class DataFacts(Facts):
    """What the run was on."""

    key: str | None = None
    recipe: RecipeFacts | None = None
    fingerprint: Fingerprint | None = None
    ceiling: Splits | None = None
    """Best possible metrics of a planted set."""
    chance: Splits | None = None
    """Metrics of a random order of the catalogue."""


class LLMFacts(Facts):
    """The language model; empty where none is read."""

    digest: str | None = None
    n_layers: Count | None = None
    width: Count | None = None
    max_tokens: Count | None = None


class MethodSource(Facts):
    """Where the method's code came from."""

    distribution: str | None = None
    version: str | None = None
    external: StrictBool | None = None
    code: str | None = None
    """Digest."""
    reads: list[str] | None = None
    """What the method reads: `states`, `tokens`, `ids`, `observed states`, `cooccurrences`; missing in older
    records."""
    text: str | None = None
    """Of a method from outside the project: the text of the module in which its class stands; null for
    compiled code, missing in older records."""
