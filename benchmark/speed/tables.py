"""Print records of speed as Markdown: one record, many records in brief, or one against an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from tabulate import tabulate

from benchmark.speed.record import (
    ENDINGS,
    STEP_PARTS,
    Counted,
    Counts,
    MatrixRate,
    SpeedRecord,
    Timed,
    Variant,
)
from methods.errors import UserError

Value = float | str | None
"""Of a table cell: a number can be compared with an earlier one; None is not measurable here."""
MEMORY_KINDS = {
    "allocated": "GPU allocated", "reserved": "GPU reserved", "process": "GPU process", "host": "host",
}  # fmt: skip
PHASES = {
    "data": ("data",), "forward": ("forward",), "backward": ("backward", "again"),
    "optimiser": ("optimiser",),
}  # fmt: skip
"""Phase of a step -> how the names of its parts end."""
SHARE = "% of matrix rate"
SHARES = (f"epoch, {SHARE}", "epoch, the same by CPU s")
BRIEF = (
    "epoch, s", "epoch, CPU s", "predictions a second", "evaluation, s", "GFLOP an epoch", *SHARES,
)  # fmt: skip
"""The figures that `brief` shows."""


def figures(variant: Variant) -> dict[str, Value]:
    """Name -> figure of a variant that ended well, in the order of the table."""
    counts, counted, epochs, memory = variant.counts(), variant.counted, variant.epochs, variant.peak_memory
    return {
        **{f"{phase}, ms": _phase(variant, ends) for phase, ends in PHASES.items()},
        "step, ms": _median(variant.step.seconds, 1e3),
        "step, quartiles, ms": _quartiles(variant.step, 1e3),
        "step, least to most, ms": _range(variant.step, 1e3),
        "step, CPU ms": _median(variant.step.cpu_seconds, 1e3),
        "items a step": float(fmean(variant.encoded)),
        "epoch, s": _median(epochs.seconds),
        "epoch, least to most, s": _range(variant.epoch),
        "epoch, CPU s": _median(epochs.cpu_seconds),
        "predictions a second": variant.predictions_per_epoch / median(epochs.seconds),
        "evaluation, s": _median(variant.evaluation.seconds),
        "evaluation, CPU s": _median(variant.evaluation.cpu_seconds),
        "GFLOP an epoch": counted.total.flops * variant.epoch_scale / 1e9 if counted else None,
        "matrix rate before and after, GFLOP/s": _rate(variant.matrix_rate, "seconds"),
        "the same, GFLOP/CPU s": _rate(variant.matrix_rate, "cpu_seconds"),
        "fp32 matrix rate before and after, GFLOP/s": _rate(variant.fp32_rate, "seconds"),
        SHARES[0]: share(counted.total, variant.epoch_scale, epochs, variant) if counted else None,
        SHARES[1]: share(counted.total, variant.epoch_scale, epochs, variant, cpu=True) if counted else None,
        "operators a step": counts.get("operators"),
        "kernels a step": counted.kernels if counted else None,
        "copies to the host a step": counts.get("host_copies"),
        "bytes to the host a step": counts.get("host_bytes"),
        "host MiB, before": _mebibytes(variant.host_before),
        **{
            f"{name} MiB, {phase}": _mebibytes(getattr(memory[phase], kind))
            for phase in ("train", "eval")
            for kind, name in MEMORY_KINDS.items()
        },
    }


def _phase(variant: Variant, ends: tuple[str, ...]) -> float | None:
    """Median milliseconds a step of the parts whose names end so."""
    parts = [part.seconds for name, part in variant.parts.items() if name.endswith(ends)]
    return 1e3 * median(map(sum, zip(*parts, strict=True))) if parts else None


def _median(values: Sequence[float], scale: float = 1.0) -> float | None:
    return scale * median(values) if values else None


def _quartiles(timed: Timed, scale: float) -> str | None:
    if len(timed.seconds) < 4:
        return None
    low, _, high = quantiles(timed.seconds, n=4, method="inclusive")
    return f"{number(scale * low)} to {number(scale * high)}"


def _range(timed: Timed, scale: float = 1.0) -> str | None:
    return " to ".join(number(scale * edge(timed.seconds)) for edge in (min, max)) if timed.seconds else None


def _rate(rate: MatrixRate | None, clock: str) -> str | None:
    """GFLOP/s of the median product before and after, by the clock `seconds` or `cpu_seconds`."""
    if rate is None:
        return None
    times = [median(getattr(timed, clock)) for timed in (rate.before, rate.after)]
    return " and ".join(number(2 * rate.size**3 / time / 1e9) for time in times if time)


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def share(counts: Counts, scale: float, timed: Timed, variant: Variant, cpu: bool = False) -> float | None:
    """Per cent of the median time that `scale` times `counts` take at the matrix rates; of CPU seconds with
    `cpu`. None where that cannot be known."""
    on_gpu = variant.environment is not None and variant.environment.device != "cpu"
    seconds, least = timed.cpu_seconds if cpu else timed.seconds, variant.least_seconds(counts, cpu)
    if not least or not seconds or not median(seconds) or (cpu and on_gpu):
        return None
    return 100 * scale * least / median(seconds)


def show(record: SpeedRecord) -> str:
    """The subject and the amount of the measurement, its figures, the parts of a step, and notes."""
    finished = [variant for variant in record.variants if variant.status == "ok"]
    parts = [text for variant in finished if variant.counted for text in _parts(record, variant)]
    return "\n\n".join(
        [subject(record), *_amounts(record, finished), _figures(record, finished), *parts, *_notes(record)]
    )


def brief(records: Sequence[SpeedRecord]) -> str:
    """One table with a line for each variant of all records, sorted by machine."""
    rows = []
    for record in records:
        for variant in record.variants:
            env, finished = variant.environment, variant.status == "ok"
            values = figures(variant) if finished else {BRIEF[0]: ENDINGS[variant.status]}
            settings = [*record.overrides, *([f"{record.vary}={variant.value}"] if record.vary else [])]
            peaks = variant.peak_memory["train"] if finished else None
            rows.append(
                {
                    "machine": f"{env.device_name}, {several(env.threads, 'thread')}" if env else "",
                    "dataset": record.dataset,
                    "language model": record.llm,
                    "method": record.method,
                    "protocol": record.protocol,
                    "settings": " ".join(settings),
                    **{name: values.get(name) for name in BRIEF},
                    "peak MiB, train": peaks
                    and _mebibytes(peaks.host if peaks.allocated is None else peaks.allocated),
                    "commit": env.git_commit[:7] if env and env.git_commit else "",
                    "date": record.created[:10],
                }
            )
    return markdown_of(sorted(rows, key=lambda row: [str(value) for value in list(row.values())[:6]]))


def markdown(rows: Sequence[Sequence[Value]], headers: Sequence[str]) -> str:
    """A table whose first column is aligned left, the others right; numbers get three digits."""
    align = ["left", *["right"] * (len(headers) - 1)]
    cells = [[number(value) if isinstance(value, float) else value for value in row] for row in rows]
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True, missingval="n/a")


def markdown_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """`markdown` of rows that map the name of each column to its value."""
    return markdown([list(row.values()) for row in rows], list(rows[0]))


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def several(count: int, thing: str) -> str:
    """A number and what it counts, in the plural unless it is 1."""
    if count == 1:
        return f"1 {thing}"
    return f"{count:,} {thing}{'es' if thing.endswith('tch') else 's'}"


def subject(record: SpeedRecord) -> str:
    """The run, the machine and the code, in one line."""
    llm = f" with {record.llm}" if record.llm else ""
    settings = f" ({', '.join(record.overrides)})" if record.overrides else ""
    clauses = [f"{record.method} on {record.dataset}{llm}, protocol {record.protocol}{settings}"]
    environments = [variant.environment for variant in record.variants if variant.environment]
    if environments:
        first = environments[0]
        clauses.append(f"{first.device_name}, {several(first.threads, 'thread')}")
        clauses.append(f"precision {' or '.join(sorted({env.precision for env in environments}))}")
        clauses.append(f"torch {first.packages.get('torch', 'unknown')}")
        loads = [env.load_average for env in environments if env.load_average is not None]
        clauses += [f"machine's load at most {max(loads):.1f} before a variant began"] if loads else []
        if first.git_commit:
            clauses.append(f"commit {first.git_commit[:7]}{' with changes' if first.git_dirty else ''}")
    return f"{'; '.join([*clauses, record.created[:10]])}."


def _amounts(record: SpeedRecord, finished: Sequence[Variant]) -> list[str]:
    """How much was timed, in one line where that is the same for all variants."""
    lines: dict[str, list[str]] = {}
    for variant in finished:
        group = several(variant.settings["accumulation"], "batch")
        epochs = f" and {several(record.epochs, 'whole epoch')}" if record.epochs else ""
        line = (
            f"{several(record.steps, 'step')} of {group}{epochs} timed, "
            f"{record.warm_up} before; an epoch has {several(variant.predictions_per_epoch, 'prediction')}, "
            f"{several(variant.batches_per_epoch, 'batch')}, {several(variant.steps_per_epoch, 'step')}."
        )
        lines.setdefault(line, []).append(variant.value)
    if len(lines) == 1:
        return list(lines)
    return [f"{', '.join(values)}: {line}" for line, values in lines.items()]


def _figures(record: SpeedRecord, finished: Sequence[Variant]) -> str:
    """A row for each figure, a column for each variant; a figure that no variant has is left out."""
    columns = [figures(variant) if variant.status == "ok" else None for variant in record.variants]
    endings = [ENDINGS.get(variant.status, "") for variant in record.variants]
    rows: list[list[Value]] = [["", *endings]] if any(endings) else []
    for name in figures(finished[0]) if finished else ():
        if any(column and column[name] is not None for column in columns):
            rows.append([name, *(column[name] if column else "" for column in columns)])
    names = [variant.value or record.method for variant in record.variants]
    return markdown(rows, [record.vary or "", *names])


def _parts(record: SpeedRecord, variant: Variant) -> list[str]:
    """Time and work of each part of a step and of a validation pass, with a title."""
    step = {part: variant.parts[part] for part in STEP_PARTS if part in variant.parts}
    scale = fmean(variant.batches) / variant.counted.batches if variant.counted else 0.0
    rows = _part_rows(step, variant, variant.counted, scale, "a step, by part")
    evaluation = variant.counted_evaluation
    rows += _part_rows(variant.evaluation_parts, variant, evaluation, 1.0, "a validation pass")
    title = f"Parts, {record.vary}={variant.value}:" if record.vary else "Parts:"
    return [title, markdown_of(rows)]


def _part_rows(
    parts: dict[str, Timed], variant: Variant, counted: Counted | None, scale: float, whole: str
) -> list[dict[str, Value]]:
    """A row for each part that takes time and one for their sum: medians, and counts times `scale`."""
    sums = Timed(
        seconds=list(map(sum, zip(*(part.seconds for part in parts.values()), strict=True))),
        cpu_seconds=list(map(sum, zip(*(part.cpu_seconds for part in parts.values()), strict=True))),
    )
    has_counts = counted is not None and bool(counted.parts)
    rows: list[dict[str, Value]] = []
    for name, timed in [*parts.items(), (whole, sums)]:
        if not any(timed.seconds):
            continue
        counts = Counts()
        if counted:
            counts = counted.total if name == whole else counted.parts.get(name, counts)
        by_wall, by_cpu = (share(counts, scale, timed, variant, cpu) for cpu in (False, True))
        rows.append(
            {
                "part": name,
                "ms": 1e3 * median(timed.seconds),
                "% of time": 100 * median(timed.seconds) / median(sums.seconds),
                "CPU ms": 1e3 * median(timed.cpu_seconds),
                "GFLOP": scale * counts.flops / 1e9 or "",
                "of it fp32": scale * counts.flops_fp32 / 1e9 or "",
                SHARE: "" if by_wall is None else by_wall,
                "by CPU s": "" if by_cpu is None else by_cpu,
                "operators": counts.operators * scale if has_counts else "",
                "host copies": counts.host_copies * scale if has_counts else "",
            }
        )
    return rows


def _notes(record: SpeedRecord) -> list[str]:
    notes = []
    for variant in record.variants:
        name = variant.value or record.method
        if variant.status != "ok":
            notes.append(f"{name}: {ENDINGS[variant.status]}: {variant.error}")
        elif variant.halvings:
            times, size = several(variant.halvings, "time"), several(variant.chunk_tokens or 0, "token")
            notes.append(f"{name}: out of memory; chunks were halved {times}, to {size}.")
        for counted in (variant.counted, variant.counted_evaluation):
            if counted and counted.not_counted:
                operators = ", ".join(counted.not_counted)
                notes.append(f"{name}: floating-point operations without those of {operators}.")
    return notes


SAME = {
    "data_key": "prepared data", "method": "method", "protocol": "protocol", "vary": "varied setting",
    "steps": "--steps", "warm_up": "--warm-up", "passes": "--passes", "epochs": "--epochs",
}  # fmt: skip
"""Field in which two records must agree to be compared -> its name in an error."""


def check_comparable(now: SpeedRecord, then: SpeedRecord, file: Path) -> None:
    """Raise `UserError` unless both measure the same data, method, settings and amounts.

    A setting that only one record has is no difference: the other is older than the setting.
    """

    def agree(kind: str, new: object, old: object) -> None:
        if new != old:
            raise UserError(
                f"--against {file} measured something else: {kind} is {old} there and {new} here; measure"
                " both alike."
            )

    for field, kind in SAME.items():
        agree(kind, getattr(now, field), getattr(then, field))
    agree("language model", *(f"{of.llm} ({str(of.llm_details.get('digest'))[:12]})" for of in (now, then)))
    pairs = _pairs(now, then)
    if not pairs:
        values = ", ".join(variant.value for variant in then.variants)
        raise UserError(f"--against {file}: it has {then.vary} = {values}; measure one of these too.")
    for new, old in pairs:
        for mine, theirs in ((new.settings, old.settings), (new.hyperparameters, old.hyperparameters)):
            for name in mine.keys() & theirs.keys():
                agree(name, mine[name], theirs[name])


def _pairs(now: SpeedRecord, then: SpeedRecord) -> list[tuple[Variant, Variant]]:
    earlier = {variant.value: variant for variant in then.variants}
    return [(variant, earlier[variant.value]) for variant in now.variants if variant.value in earlier]


def compare(now: SpeedRecord, then: SpeedRecord, file: Path) -> str:
    """The figures of both and their ratio, as Markdown. Raises `UserError` as `check_comparable` does."""
    check_comparable(now, then, file)
    paragraphs = [f"Against {file.name}: {subject(then)}"]
    if now.generation != then.generation:
        paragraphs.append(
            f"It is of generation {then.generation} of the harness and this one of {now.generation}: a part "
            "of each ratio may be that other work is done (docs/records.md)."
        )
    pairs = _pairs(now, then)
    for new, old in pairs:
        name = f"{now.vary}={new.value}" if now.vary else now.method
        errors = [str(variant.error) for variant in (old, new) if variant.status != "ok"]
        if errors:
            paragraphs.append(f"{name}: no ratio, one of the two did not end well: {'; '.join(errors)}")
        else:
            paragraphs.append(markdown(_ratios(new, old), [name, "then", "now", "now / then"]))
    once = {variant.value for variant in (*now.variants, *then.variants)} - {new.value for new, _ in pairs}
    if once:
        paragraphs.append(f"Measured only once: {', '.join(sorted(once))}.")
    return "\n\n".join(paragraphs)


def _ratios(new: Variant, old: Variant) -> list[list[Value]]:
    """A row for each figure and part that both have as a number: before, now, ratio."""
    then, now = (
        figures(variant)
        | {f"{part}, ms": _phase(variant, (part,)) for part in STEP_PARTS if part in variant.parts}
        for variant in (old, new)
    )
    if (old.fp32_rate is None) != (new.fp32_rate is None):  # the shares are of different rates
        then = {name: value for name, value in then.items() if name not in SHARES}
    pairs = [(name, before, now.get(name)) for name, before in then.items()]
    return [
        [name, before, after, after / before]
        for name, before, after in pairs
        if isinstance(before, float) and isinstance(after, float) and before
    ]
