"""Print records of speed as Markdown: one record, many records in brief, or one against an earlier one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles

from tabulate import tabulate

from benchmark.results.measures import count, several
from benchmark.results.schema import PeakMemory
from benchmark.speed.record import (
    CLOCKS,
    ENDINGS,
    STEP_PARTS,
    Clock,
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
    """Name -> figure in the order of the table; empty for a variant that did not end well."""
    if variant.status != "ok":
        return {}
    counted, epochs, memory = variant.counted, variant.epochs, variant.peak_memory
    step = [1e3 * seconds for seconds in variant.step.seconds]
    total = counted.total if counted else Counts()
    a_step = {name: variant.step_scale * count if counted else None for name, count in dict(total).items()}
    return {
        **{f"{phase}, ms": _phase(variant, ends) for phase, ends in PHASES.items()},
        "step, ms": _median(step),
        "step, quartiles, ms": _range(quantiles(step, method="inclusive")[::2]) if len(step) > 3 else None,
        "step, least to most, ms": _range(step),
        "step, CPU ms": _median(variant.step.cpu_seconds, 1e3),
        "items a step": float(fmean(variant.encoded)),
        "epoch, s": _median(epochs.seconds),
        "epoch, least to most, s": _range(variant.epoch.seconds),
        "epoch, CPU s": _median(epochs.cpu_seconds),
        "predictions a second": variant.predictions_per_epoch / median(epochs.seconds),
        "evaluation, s": _median(variant.evaluation.seconds),
        "evaluation, CPU s": _median(variant.evaluation.cpu_seconds),
        "GFLOP an epoch": total.flops * variant.epoch_scale / 1e9 if counted else None,
        "matrix rate before and after, GFLOP/s": _rates(variant.matrix_rate, "seconds"),
        "the same, GFLOP/CPU s": _rates(variant.matrix_rate, "cpu_seconds"),
        "fp32 matrix rate before and after, GFLOP/s": _rates(variant.fp32_rate, "seconds"),
        **{
            name: _share(total, variant.epoch_scale, epochs, variant, clock)
            for name, clock in zip(SHARES, CLOCKS, strict=True)
        },
        "operators a step": a_step["operators"],
        "kernels a step": counted.kernels if counted else None,
        "copies to the host a step": a_step["host_copies"],
        "bytes to the host a step": a_step["host_bytes"],
        "host MiB, before": _mebibytes(variant.host_before),
        **{
            f"{name} MiB, {phase}": _mebibytes(getattr(memory[phase], kind))
            for phase in ("train", "eval")
            for kind, name in MEMORY_KINDS.items()
        },
    }


def _sum(parts: Collection[Timed]) -> Timed:
    """The sum of `parts` in each repetition."""
    repetitions = {clock: zip(*(part.by(clock) for part in parts), strict=True) for clock in CLOCKS}
    return Timed(**{clock: list(map(sum, times)) for clock, times in repetitions.items()})


def _phase(variant: Variant, ends: tuple[str, ...]) -> float | None:
    """Median milliseconds a step of the parts whose names end so."""
    parts = [part for name, part in variant.parts.items() if name.endswith(ends)]
    return _median(_sum(parts).seconds, 1e3)


def _median(values: Sequence[float], scale: float = 1.0) -> float | None:
    return scale * median(values) if values else None


def _range(values: Sequence[float]) -> str | None:
    return f"{count(min(values))} to {count(max(values))}" if values else None


def _rates(rate: MatrixRate | None, clock: Clock) -> str | None:
    """GFLOP/s of the median product before and after."""
    if rate is None:
        return None
    return " and ".join(count(rate.flops(clock, timed) / 1e9) for timed in (rate.before, rate.after))


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _share(counts: Counts, scale: float, timed: Timed, variant: Variant, clock: Clock) -> float | None:
    """Per cent of the median time that `scale` times `counts` take at the matrix rates of their precisions.
    None where that cannot be known."""
    env, rate, times = variant.environment, variant.matrix_rate, timed.by(clock)
    on_gpu = env is not None and env.device != "cpu"
    if not (rate and counts.flops and times and median(times)) or (on_gpu and clock == "cpu_seconds"):
        return None
    fp32 = variant.fp32_rate or rate
    least = (counts.flops - counts.flops_fp32) / rate.flops(clock) + counts.flops_fp32 / fp32.flops(clock)
    return 100 * scale * least / median(times)


def show(record: SpeedRecord) -> str:
    """The subject and the amount of the measurement, its figures, the parts of a step, and notes."""
    finished = [variant for variant in record.variants if variant.status == "ok"]
    parts = [text for variant in finished if variant.counted for text in _parts(record, variant)]
    paragraphs = [subject(record), *_amounts(record, finished), _figures(record), *parts, *_notes(record)]
    return "\n\n".join(paragraphs)


def brief(records: Sequence[SpeedRecord]) -> str:
    """One table with a line for each variant of all records, sorted by machine."""
    rows: list[dict[str, Value]] = []
    for record in records:
        for variant in record.variants:
            env = variant.environment
            values = figures(variant) or {BRIEF[0]: ENDINGS[variant.status]}
            settings = [*record.overrides, *([f"{record.vary}={variant.value}"] if record.vary else [])]
            peaks = variant.peak_memory["train"] if variant.status == "ok" else PeakMemory()
            rows.append(
                {
                    "machine": f"{env.device_name}, {several(env.threads, 'thread')}" if env else "",
                    "dataset": record.dataset,
                    "language model": record.llm,
                    "method": record.method,
                    "protocol": record.protocol,
                    "settings": " ".join(settings),
                    **{name: values.get(name) for name in BRIEF},
                    "peak MiB, train": _mebibytes(peaks.host if peaks.allocated is None else peaks.allocated),
                    "commit": env.git_commit[:7] if env and env.git_commit else "",
                    "date": record.created[:10],
                }
            )
    ordered = sorted((list(row.values()) for row in rows), key=lambda cells: list(map(str, cells[:6])))
    return markdown(ordered, list(rows[0]))


def markdown(rows: Sequence[Sequence[Value]], headers: Sequence[str]) -> str:
    """A table whose first column is aligned left, the others right; numbers get three digits."""
    align = ["left", *["right"] * (len(headers) - 1)]
    cells = [[count(value) if isinstance(value, float) else value for value in row] for row in rows]
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True, missingval="n/a")


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


def _figures(record: SpeedRecord) -> str:
    """A row for each figure, a column for each variant; a figure that no variant has is left out."""
    columns = [figures(variant) for variant in record.variants]
    endings = [ENDINGS.get(variant.status, "") for variant in record.variants]
    rows: list[list[Value]] = [["", *endings]] if any(endings) else []
    for name in dict.fromkeys(name for column in columns for name in column):
        if any(column.get(name) is not None for column in columns):
            rows.append([name, *(column[name] if column else "" for column in columns)])
    names = [variant.value or record.method for variant in record.variants]
    return markdown(rows, [record.vary or "", *names])


def _parts(record: SpeedRecord, variant: Variant) -> list[str]:
    """Time and work of each part of a step and of a validation pass, with a title."""
    step = {part: variant.parts[part] for part in STEP_PARTS if part in variant.parts}
    rows = _part_rows(step, variant, variant.counted, variant.step_scale, "a step, by part")
    evaluation = variant.counted_evaluation
    rows += _part_rows(variant.evaluation_parts, variant, evaluation, 1.0, "a validation pass")
    title = f"Parts, {record.vary}={variant.value}:" if record.vary else "Parts:"
    return [title, markdown([list(row.values()) for row in rows], list(rows[0]))]


def _part_rows(
    parts: dict[str, Timed], variant: Variant, counted: Counted | None, scale: float, whole: str
) -> list[dict[str, Value]]:
    """A row for each part that takes time and one for their sum: medians, and counts times `scale`."""
    counts = {**counted.parts, whole: counted.total} if counted and counted.parts else {}
    sums = _sum(parts.values())
    rows: list[dict[str, Value]] = []
    for name, timed in [*parts.items(), (whole, sums)]:
        if not any(timed.seconds):
            continue
        own = counts.get(name, Counts())
        shares = [_share(own, scale, timed, variant, clock) for clock in CLOCKS]
        rows.append(
            {
                "part": name,
                "ms": _median(timed.seconds, 1e3),
                "% of time": 100 * median(timed.seconds) / median(sums.seconds),
                "CPU ms": _median(timed.cpu_seconds, 1e3),
                "GFLOP": scale * own.flops / 1e9 or "",
                "of it fp32": scale * own.flops_fp32 / 1e9 or "",
                SHARE: "" if shares[0] is None else shares[0],
                "by CPU s": "" if shares[1] is None else shares[1],
                "operators": own.operators * scale if counts else "",
                "host copies": own.host_copies * scale if counts else "",
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


def check_comparable(now: SpeedRecord, then: SpeedRecord, file: Path) -> list[tuple[Variant, Variant]]:
    """The variants that both have, of `now` and of `then`. Raises `UserError` unless both measure the same
    data, method, settings and amounts.

    A setting that only one record has is no difference: the other is older than the setting.
    """
    llms = [f"{of.llm} ({str(of.llm_details.get('digest'))[:12]})" for of in (now, then)]
    values = [(kind, getattr(now, field), getattr(then, field)) for field, kind in SAME.items()]
    values.append(("language model", llms[0], llms[1]))
    earlier = {variant.value: variant for variant in then.variants}
    pairs = [(variant, earlier[variant.value]) for variant in now.variants if variant.value in earlier]
    for pair in pairs:
        for field in ("settings", "hyperparameters"):
            mine, theirs = (getattr(variant, field) for variant in pair)
            values += [(name, mine[name], theirs[name]) for name in mine.keys() & theirs.keys()]
    for kind, new, old in values:
        if new != old:
            raise UserError(
                f"--against {file} measured something else: {kind} is {old} there and {new} here; measure"
                " both alike."
            )
    if not pairs:
        names = ", ".join(variant.value for variant in then.variants)
        raise UserError(f"--against {file}: it has {then.vary} = {names}; measure one of these too.")
    return pairs


def compare(now: SpeedRecord, then: SpeedRecord, file: Path) -> str:
    """The figures of both and their ratio, as Markdown. Raises `UserError` as `check_comparable` does."""
    pairs = check_comparable(now, then, file)
    paragraphs = [f"Against {file.name}: {subject(then)}"]
    if now.generation != then.generation:
        paragraphs.append(
            f"It is of generation {then.generation} of the harness and this one of {now.generation}: a part "
            "of each ratio may be that other work is done (docs/records.md)."
        )
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
        {**figures(variant), **{f"{part}, ms": _phase(variant, (part,)) for part in STEP_PARTS}}
        for variant in (old, new)
    )
    if (old.fp32_rate is None) != (new.fp32_rate is None):  # the shares are of different rates
        then = {name: value for name, value in then.items() if name not in SHARES}
    return [
        [name, before, after, after / before]
        for name, before in then.items()
        if isinstance(before, float) and isinstance(after := now[name], float) and before
    ]
