"""The record of a measurement of speed, and its table. Nothing heavy is imported: `--show` is quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from pydantic import Field, ValidationError
from tabulate import tabulate

from benchmark.record import Environment, Part, PeakMemory, not_valid, write_atomically
from methods.errors import UserError

PHASES = ("data", "forward", "backward", "optimiser")
"""Of an optimiser step; the first three are sums over its batches."""
Figure = Callable[["Variant"], str | None]
ENDINGS = {"oom": "out of memory", "killed": "killed, out of memory?", "failed": "failed"}


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
    seconds: dict[str, list[float]] = Field(default_factory=dict)
    """Seconds of each phase (`PHASES`) of each timed step."""
    encoded: list[int] = Field(default_factory=list)
    """Items that each timed step encoded; running a chunk again for its gradients is not counted."""
    evaluation: list[float] = Field(default_factory=list)
    """Seconds of each timed validation pass."""
    chunk_tokens: int | None = None
    """Tokens of a chunk of item texts at the end; null where no texts are read."""
    halvings: int = 0
    """Times that a chunk did not fit into memory and was halved."""
    host_before: int = 0
    """Resident bytes of the process when all is built and no step was taken."""
    peak_memory: dict[str, PeakMemory] = Field(default_factory=dict)
    """Phase ("train", "eval") -> peaks."""

    @property
    def steps(self) -> list[float]:
        """Seconds of each whole optimiser step."""
        return [sum(parts) for parts in zip(*(self.seconds[phase] for phase in PHASES), strict=True)]

    @property
    def epochs(self) -> list[float]:
        """Seconds of a training epoch, for each timed step: if all batches and steps were like it."""
        batches = self.batches_per_epoch / self.settings["accumulation"]
        return [
            (step - optimiser) * batches + optimiser * self.steps_per_epoch
            for step, optimiser in zip(self.steps, self.seconds["optimiser"], strict=True)
        ]


class SpeedRecord(Part):
    """One measurement of all variants, on one machine, one after another."""

    schema_version: int = 1
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


def show(record: SpeedRecord) -> str:
    """What was measured and on what, the table (Markdown), and what else there is to say of a variant."""
    done = [variant for variant in record.variants if variant.status == "ok"]
    columns = {name: figure for name, figure in COLUMNS.items() if any(figure(one) for one in done)}
    rows = []
    for variant in record.variants:
        ok = variant.status == "ok"
        cells = [figure(variant) for figure in columns.values()] if ok else [ENDINGS[variant.status]]
        rows.append([variant.value or record.method, *cells, *[""] * (len(columns) - len(cells))])
    headers = [record.vary or "", *(columns or [""])]
    align = ["left", *["right"] * (len(headers) - 1)]
    table = tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True, missingval="n/a")
    return "\n\n".join([_subject(record), *_counts(record, done), table, *_notes(record)])


def _subject(record: SpeedRecord) -> str:
    llm = f" with {record.llm}" if record.llm else ""
    extra = f" ({', '.join(record.overrides)})" if record.overrides else ""
    facts = [f"{record.method} on {record.dataset}{llm}, protocol {record.protocol}{extra}"]
    places = [variant.environment for variant in record.variants if variant.environment]
    if places:
        where = places[0]
        facts.append(f"{where.device_name}, {_several(where.threads, 'thread')}")
        facts.append(f"precision {' or '.join(sorted({place.precision for place in places}))}")
        facts.append(f"torch {where.packages.get('torch', 'unknown')}")
        loads = [place.load_average for place in places if place.load_average is not None]
        facts += [f"machine's load at most {max(loads):.1f} before a variant began"] if loads else []
        if where.git_commit:
            facts.append(f"commit {where.git_commit[:7]}{' with changes' if where.git_dirty else ''}")
    return f"{'; '.join([*facts, record.created[:10]])}."


def _counts(record: SpeedRecord, done: Sequence[Variant]) -> list[str]:
    """How much was timed; once, where that is the same for all variants."""
    said: dict[str, list[str]] = {}
    for variant in done:
        group = _several(variant.settings["accumulation"], "batch")
        line = (
            f"{_several(record.steps, 'step')} of {group} timed, "
            f"{record.warm_up} before; an epoch has {_several(variant.predictions_per_epoch, 'prediction')}, "
            f"{_several(variant.batches_per_epoch, 'batch')}, {_several(variant.steps_per_epoch, 'step')}."
        )
        said.setdefault(line, []).append(variant.value)
    if len(said) == 1:
        return list(said)
    return [f"{', '.join(values)}: {line}" for line, values in said.items()]


def _notes(record: SpeedRecord) -> list[str]:
    notes = []
    for variant in record.variants:
        if variant.status != "ok":
            notes.append(f"{variant.value or record.method}: {ENDINGS[variant.status]}: {variant.error}")
        elif variant.halvings:
            times = _several(variant.halvings, "time")
            notes.append(
                f"{variant.value or record.method}: out of memory; chunks were halved {times}, to "
                f"{_several(variant.chunk_tokens or 0, 'token')}."
            )
    return notes


def _several(number: int, thing: str) -> str:
    if number == 1:
        return f"1 {thing}"
    return f"{number:,} {thing}{'es' if thing.endswith('ch') else 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _milliseconds(phase: str) -> Figure:
    return lambda variant: _number(1e3 * median(variant.seconds[phase]))


def _memory(phase: str, kind: str) -> Figure:
    def figure(variant: Variant) -> str | None:
        return _mebibytes(getattr(variant.peak_memory[phase], kind))

    return figure


def _mebibytes(size: int | None) -> str | None:
    return None if size is None else _number(size / 2**20)


def _range(variant: Variant) -> str:
    return " to ".join(_number(1e3 * edge(variant.steps)) for edge in (min, max))


KINDS = {"allocated": "GPU allocated", "reserved": "GPU reserved", "process": "GPU process", "host": "host"}
COLUMNS: dict[str, Figure] = {
    **{f"{phase} ms": _milliseconds(phase) for phase in PHASES},
    "step ms": lambda variant: _number(1e3 * median(variant.steps)),
    "least to most": _range,
    "epoch s": lambda variant: _number(median(variant.epochs)),
    "evaluation s": lambda variant: _number(median(variant.evaluation)),
    "items a step": lambda variant: _number(fmean(variant.encoded)),
    "host MiB, before": lambda variant: _mebibytes(variant.host_before),
    **{
        f"{name} MiB, {phase}": _memory(phase, kind)
        for phase in ("train", "eval")
        for kind, name in KINDS.items()
    },
}
"""Header -> figure; a column that nobody can measure is left out."""
