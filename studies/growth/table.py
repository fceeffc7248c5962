"""Print records of growth as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from benchmark.results.measures import count
from benchmark.results.schema import Environment
from benchmark.speed.record import ENDINGS
from benchmark.speed.tables import markdown
from studies.growth.record import FLAT, EncodingRecord, GrowthRecord, Size

CLOCKS = {"seconds": "wall", "cpu_seconds": "CPU"}


def show(record: GrowthRecord | EncodingRecord) -> str:
    """What was measured and on what, and the figures."""
    return encoding(record) if isinstance(record, EncodingRecord) else growth(record)


def growth(record: GrowthRecord) -> str:
    """A row a size."""
    llm = f" on random states in the shape of {record.llm}" if record.llm else ""
    extra = f" ({', '.join(record.overrides)})" if record.overrides else ""
    parts = [f"{record.method}{llm}, protocol {record.protocol}{extra}; {_machine(record)}"]
    if record.measured:
        parts.append(_training(record))
        parts.append(_memory(record.measured))
        parts += [_verdict(record)] if len(record.measured) > 1 else []
    for size in record.sizes:
        if size.failed:
            parts.append(f"{size.dataset}: {ENDINGS[size.failed.status]}: {size.failed.error}")
    return "\n\n".join(parts)


def _training(record: GrowthRecord) -> str:
    clocks = list(CLOCKS) if _on_cpu(record.environment) else ["seconds"]
    heads = ["items", "users", "interactions"]
    heads += [f"{CLOCKS[clock]} µs a prediction" for clock in clocks]
    heads += ["of it starting the epoch, %", "items encoded a prediction", "users ranked"]
    last = clocks[-1]
    heads += [f"encode catalogue, {CLOCKS[last]} s", f"rank, {CLOCKS[last]} s", "rank, ns an item and user"]
    rows = []
    for size in record.measured:
        first = size.rounds[0]
        start = median(getattr(size.epoch_start, last)) / first.predictions_per_epoch
        of_step = first.predictions_per_epoch / first.batches_per_epoch * fmean(first.batches)
        rank = size.evaluation("rank", last) + size.evaluation("sasrec", last)
        rows.append(
            [
                f"{size.items:,}",
                f"{size.users:,}",
                f"{size.interactions:,}",
                *(count(1e6 * median(size.per_prediction(clock))) for clock in clocks),
                count(100 * start / median(size.per_prediction(last))),
                count(fmean(first.encoded) / of_step),
                f"{size.evaluated_users:,}",
                count(size.evaluation("encode", last)),
                count(rank),
                count(1e9 * rank / (size.items * size.evaluated_users)),
            ]
        )
    return markdown(rows, heads)


def _memory(sizes: Sequence[Size]) -> str:
    heads = ["items", "states", "one [I, d]", "before training", "peak, training", "peak, evaluation"]
    heads += ["training less states", "evaluation less states and [I, d]"]
    rows = [
        [f"{size.items:,}"]
        + [
            count(value / 2**20)
            for value in (
                size.states_bytes,
                size.table_bytes,
                max(variant.host_before for variant in size.rounds),
                size.peak("train"),
                size.peak("eval"),
                size.rest("train"),
                size.rest("eval"),
            )
        ]
        for size in sizes
    ]
    return f"Memory in MiB:\n\n{markdown(rows, heads)}"


def _verdict(record: GrowthRecord) -> str:
    clock = "cpu_seconds" if _on_cpu(record.environment) else "seconds"
    spread = record.spread(clock)
    verdict = "within" if spread <= FLAT else "beyond"
    return (
        f"The dearest prediction takes {100 * spread:.0f} % more {CLOCKS[clock]} time than the cheapest, "
        f"{verdict} the {100 * FLAT:.0f} % that count as flat."
    )


def encoding(record: EncodingRecord) -> str:
    """Rates, their share, disk and the resumed run."""
    clocks = list(CLOCKS) if _on_cpu(record.environment) else ["seconds"]
    rows: list[list[str | None]] = [
        ["texts, of them different", f"{record.items:,}, {record.distinct_texts:,}"],
        [
            "tokens, with padding",
            f"{record.tokens:,}, {record.padded_tokens:,} in {record.batches:,} batches",
        ],
    ]
    for clock in clocks:
        bare, ours = sum(getattr(record.bare, clock)), sum(getattr(record.encode, clock))
        word = CLOCKS[clock]
        rows += [
            [f"bare forward passes, texts a {word} second", count(record.distinct_texts / bare)],
            [f"encoding, texts a {word} second", count(record.distinct_texts / ours)],
            [f"share by {word} time, %", f"{100 * record.share(clock):.1f}"],
            [f"tokenising alone, {word} s", count(sum(getattr(record.tokenise, clock)))],
        ]
    rows.append(["disk predicted, MiB", f"{record.predicted_bytes / 2**20:,.1f}"])
    rows.append(["disk taken, MiB", f"{record.written_bytes / 2**20:,.1f}"])
    if record.peak_bytes:
        more = record.peak_bytes - record.resident_before
        rows.append(["memory that encoding added, MiB", count(more / 2**20)])
    if record.texts_before_kill is not None and record.texts_after_kill is not None:
        both = record.texts_before_kill + record.texts_after_kill
        rows += [
            ["killed: texts kept, texts encoded by the next process",
             f"{record.texts_before_kill:,}, {record.texts_after_kill:,}"],
            ["together, of", f"{both:,} of {record.distinct_texts:,}"],
            ["files as those of the uninterrupted process", "yes" if record.same_after_kill else "NO"],
        ]  # fmt: skip
    what = f"{record.dataset} with {record.llm}, layers {record.layers}, {record.states_dtype}"
    return f"{what}; {_machine(record)}\n\n{markdown(rows, ['', ''])}"


def _on_cpu(place: Environment | None) -> bool:
    return place is None or place.device == "cpu"


def _machine(record: GrowthRecord | EncodingRecord) -> str:
    place = record.environment
    if place is None:
        return f"{record.created[:10]}."
    facts = [place.device_name, f"{place.threads} threads", f"precision {place.precision}"]
    facts.append(f"torch {place.packages.get('torch', 'unknown')}")
    if place.load_average is not None:
        facts.append(f"machine's load {place.load_average:.1f} when it began")
    if place.git_commit:
        facts.append(f"commit {place.git_commit[:7]}{' with changes' if place.git_dirty else ''}")
    return f"{'; '.join([*facts, record.created[:10]])}."
