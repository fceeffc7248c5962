"""What a record of speed says, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median, quantiles

from tabulate import tabulate

from benchmark.speed.record import ENDINGS, STEP_PARTS, Counted, Counts, SpeedRecord, Timed, Variant

Figure = Callable[[Variant], float | str | None]
"""A number is one that can be compared with an earlier one; None is not measurable."""
KINDS = {"allocated": "GPU allocated", "reserved": "GPU reserved", "process": "GPU process", "host": "host"}
SHARE = "% of matrix rate"
SHARES = (f"epoch, {SHARE}", "epoch, the same by CPU s")


def show(record: SpeedRecord) -> str:
    """What was measured and on what, the figures, the parts of a step, and what else there is to say."""
    done = [variant for variant in record.variants if variant.status == "ok"]
    parts = [part for variant in done if variant.counted for part in _parts(record, variant)]
    return "\n\n".join(
        [subject(record), *_counts(record, done), _figures(record, done), *parts, *_notes(record)]
    )


def brief(records: Sequence[SpeedRecord]) -> str:
    """A line a variant of all records, machine by machine."""
    rows = []
    for record in records:
        for variant in record.variants:
            where = variant.environment
            machine = f"{where.device_name}, {several(where.threads, 'thread')}" if where else ""
            extra = [*record.overrides, *([f"{record.vary}={variant.value}"] if record.vary else [])]
            cell = [machine, record.dataset, record.llm, record.method, record.protocol, " ".join(extra)]
            figures = [figure(variant) if variant.status == "ok" else None for figure in BRIEF.values()]
            if variant.status != "ok":
                figures[0] = ENDINGS[variant.status]
            commit = where.git_commit[:7] if where and where.git_commit else ""
            shown = [number(one) if isinstance(one, float) else one for one in figures]
            rows.append([*cell, *shown, commit, record.created[:10]])
    names = ["machine", "dataset", "language model", "method", "protocol", "settings"]
    return markdown(
        sorted(rows, key=lambda row: [str(cell) for cell in row[:6]]), [*names, *BRIEF, "commit", "date"]
    )


def markdown(rows: Sequence[Sequence[str | None]], headers: Sequence[str]) -> str:
    """A table whose first column stands on the left, the others on the right."""
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True, missingval="n/a")


def subject(record: SpeedRecord) -> str:
    """The cell, the machine, the code, in one line."""
    llm = f" with {record.llm}" if record.llm else ""
    extra = f" ({', '.join(record.overrides)})" if record.overrides else ""
    facts = [f"{record.method} on {record.dataset}{llm}, protocol {record.protocol}{extra}"]
    places = [variant.environment for variant in record.variants if variant.environment]
    if places:
        where = places[0]
        facts.append(f"{where.device_name}, {several(where.threads, 'thread')}")
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
        group = several(variant.settings["accumulation"], "batch")
        epochs = f" and {several(record.epochs, 'whole epoch')}" if record.epochs else ""
        line = (
            f"{several(record.steps, 'step')} of {group}{epochs} timed, "
            f"{record.warm_up} before; an epoch has {several(variant.predictions_per_epoch, 'prediction')}, "
            f"{several(variant.batches_per_epoch, 'batch')}, {several(variant.steps_per_epoch, 'step')}."
        )
        said.setdefault(line, []).append(variant.value)
    if len(said) == 1:
        return list(said)
    return [f"{', '.join(values)}: {line}" for line, values in said.items()]


def _figures(record: SpeedRecord, done: Sequence[Variant]) -> str:
    """A row a figure, a column a variant; a figure that nobody could measure is left out."""
    rows: list[list[str | None]] = []
    lost = [ENDINGS.get(variant.status, "") for variant in record.variants]
    if any(lost):
        rows.append(["", *lost])
    for name, figure in FIGURES.items():
        found = [figure(one) if one.status == "ok" else "" for one in record.variants]
        if any(figure(one) is not None for one in done):
            rows.append([name, *(number(one) if isinstance(one, float) else one for one in found)])
    return markdown(rows, [record.vary or "", *(one.value or record.method for one in record.variants)])


def _parts(record: SpeedRecord, variant: Variant) -> list[str]:
    """The parts of a step and of a validation pass: time, work, and how they compare."""
    step = {part: variant.parts[part] for part in STEP_PARTS if part in variant.parts}
    scale = fmean(variant.batches) / variant.counted.batches if variant.counted else 0.0
    rows = _part_rows(step, variant, variant.counted, scale, "a step, by part")
    passes = variant.counted_evaluation
    rows += _part_rows(variant.evaluation_parts, variant, passes, 1.0, "a validation pass")
    headers = ["part", "ms", "% of time", "CPU ms", "GFLOP", "of it fp32", SHARE, "by CPU s"]
    headers += ["operators", "host copies"]
    title = f"Parts, {record.vary}={variant.value}:" if record.vary else "Parts:"
    return [title, markdown(rows, headers)]


def _part_rows(
    parts: dict[str, Timed], variant: Variant, counted: Counted | None, scale: float, whole: str
) -> list[list[str]]:
    """A row for each part that takes time, and one for all: medians, and counts times `scale`."""
    sums = Timed(
        seconds=[sum(one) for one in zip(*(part.seconds for part in parts.values()), strict=True)],
        cpu_seconds=[sum(one) for one in zip(*(part.cpu_seconds for part in parts.values()), strict=True)],
    )
    counts = counted.parts if counted else {}
    rows = []
    for name, timed in [*parts.items(), (whole, sums)]:
        if not any(timed.seconds):
            continue
        count = counted.total if counted and name == whole else counts.get(name, Counts())
        of_rate, by_cpu = (share(count, scale, timed, variant, cpu) for cpu in (False, True))
        rows.append(
            [
                name,
                number(1e3 * median(timed.seconds)),
                number(100 * median(timed.seconds) / median(sums.seconds)),
                number(1e3 * median(timed.cpu_seconds)),
                *(number(scale * one / 1e9) if one else "" for one in (count.flops, count.flops_fp32)),
                *("" if one is None else number(one) for one in (of_rate, by_cpu)),
                number(count.operators * scale) if counts else "",
                number(count.host_copies * scale) if counts else "",
            ]
        )
    return rows


def share(counts: Counts, scale: float, timed: Timed, variant: Variant, cpu: bool = False) -> float | None:
    """Per cent of the median time that `scale` times `counts` take at the matrix rates; by CPU seconds with
    `cpu`."""
    on_gpu = variant.environment is not None and variant.environment.device != "cpu"
    seconds, least = timed.cpu_seconds if cpu else timed.seconds, variant.least_seconds(counts, cpu)
    if not least or not seconds or not median(seconds) or (cpu and on_gpu):
        return None
    return 100 * scale * least / median(seconds)


def _epoch_share(cpu: bool) -> Figure:
    def figure(variant: Variant) -> float | None:
        if variant.counted is None:
            return None
        return share(variant.counted.total, variant.epoch_scale, variant.epochs, variant, cpu)

    return figure


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
                notes.append(
                    f"{name}: floating-point operations without those of {', '.join(counted.not_counted)}."
                )
    return notes


def several(count: int, thing: str) -> str:
    """A number and what it counts, in the plural where it is not one."""
    if count == 1:
        return f"1 {thing}"
    return f"{count:,} {thing}{'es' if thing.endswith('tch') else 's'}"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _phase(*ends: str) -> Figure:
    """Median milliseconds of the parts whose names end so."""

    def figure(variant: Variant) -> float | None:
        parts = [one.seconds for name, one in variant.parts.items() if name.endswith(ends)]
        return 1e3 * median(map(sum, zip(*parts, strict=True))) if parts else None

    return figure


def _median(values: Sequence[float], scale: float = 1.0) -> float | None:
    return scale * median(values) if values else None


def _quartiles(timed: Timed, scale: float) -> str | None:
    if len(timed.seconds) < 4:
        return None
    low, _, high = quantiles(timed.seconds, n=4, method="inclusive")
    return f"{number(scale * low)} to {number(scale * high)}"


def _range(timed: Timed, scale: float) -> str | None:
    return " to ".join(number(scale * edge(timed.seconds)) for edge in (min, max)) if timed.seconds else None


def _predictions(variant: Variant) -> float:
    return variant.predictions_per_epoch / median(variant.epochs.seconds)


def _rate(kind: str, of: str = "matrix_rate") -> Figure:
    """Of the median product before and after, by wall `seconds` or `cpu_seconds`."""

    def figure(variant: Variant) -> str | None:
        rate = getattr(variant, of)
        if rate is None:
            return None
        times = [median(getattr(one, kind)) for one in (rate.before, rate.after)]
        return " and ".join(number(2 * rate.size**3 / one / 1e9) for one in times if one)

    return figure


def _memory(phase: str, kind: str) -> Figure:
    return lambda variant: _mebibytes(getattr(variant.peak_memory[phase], kind))


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _count(name: str) -> Figure:
    return lambda variant: variant.counts().get(name)


def _gigaflop(variant: Variant) -> float | None:
    counted = variant.counted
    return None if counted is None else counted.total.flops * variant.epoch_scale / 1e9


FIGURES: dict[str, Figure] = {
    "data, ms": _phase("data"),
    "forward, ms": _phase("forward"),
    "backward, ms": _phase("backward", "again"),
    "optimiser, ms": _phase("optimiser"),
    "step, ms": lambda variant: _median(variant.step.seconds, 1e3),
    "step, quartiles, ms": lambda variant: _quartiles(variant.step, 1e3),
    "step, least to most, ms": lambda variant: _range(variant.step, 1e3),
    "step, CPU ms": lambda variant: _median(variant.step.cpu_seconds, 1e3),
    "items a step": lambda variant: float(fmean(variant.encoded)),
    "epoch, s": lambda variant: _median(variant.epochs.seconds),
    "epoch, least to most, s": lambda variant: _range(variant.epoch, 1),
    "epoch, CPU s": lambda variant: _median(variant.epochs.cpu_seconds),
    "predictions a second": _predictions,
    "evaluation, s": lambda variant: _median(variant.evaluation.seconds),
    "evaluation, CPU s": lambda variant: _median(variant.evaluation.cpu_seconds),
    "GFLOP an epoch": _gigaflop,
    "matrix rate before and after, GFLOP/s": _rate("seconds"),
    "the same, GFLOP/CPU s": _rate("cpu_seconds"),
    "fp32 matrix rate before and after, GFLOP/s": _rate("seconds", "fp32_rate"),
    SHARES[0]: _epoch_share(cpu=False),
    SHARES[1]: _epoch_share(cpu=True),
    "operators a step": _count("operators"),
    "kernels a step": lambda variant: variant.counted.kernels if variant.counted else None,
    "copies to the host a step": _count("host_copies"),
    "bytes to the host a step": _count("host_bytes"),
    "host MiB, before": lambda variant: _mebibytes(variant.host_before),
    **{
        f"{name} MiB, {phase}": _memory(phase, kind)
        for phase in ("train", "eval")
        for kind, name in KINDS.items()
    },
}
"""Name -> figure of a variant that ended well."""


def _peak(variant: Variant) -> float | None:
    """Peak memory in training: what torch gave out on a GPU, else the host's."""
    peaks = variant.peak_memory["train"]
    return _mebibytes(peaks.host if peaks.allocated is None else peaks.allocated)


BRIEF: dict[str, Figure] = {
    name: FIGURES[name]
    for name in (
        "epoch, s", "epoch, CPU s", "predictions a second", "evaluation, s", "GFLOP an epoch",
        *SHARES,
    )
} | {"peak MiB, train": _peak}  # fmt: skip
"""Of these, the ones that `brief` shows."""
