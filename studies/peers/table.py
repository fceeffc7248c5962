"""Print a record as Markdown."""

from __future__ import annotations

from statistics import median

from benchmark.results.measures import count, several
from benchmark.speed.record import Variant
from benchmark.speed.tables import figures, markdown
from studies.peers.record import OurRow, PeerReport, PeerRow, PeersRecord

BASE = "ssna"
"""The method of ours to which each row is compared."""


def show(record: PeersRecord) -> str:
    """What was measured and how, the table of all rows, and what the arithmetic allows."""
    paragraphs = [_subject(record), _table(record), *_amounts(record), *_bounds(record), _load(record)]
    return "\n\n".join(paragraphs)


def _subject(record: PeersRecord) -> str:
    settings = f" ({', '.join(record.overrides)})" if record.overrides else ""
    clauses = [f"{record.dataset} with {record.llm}{settings}, {record.predictions:,} predictions an epoch"]
    if variant := _first(record):
        assert variant.environment is not None
        env = variant.environment
        clauses.append(f"{env.device_name}, {several(record.threads, 'thread')}")
        clauses.append(f"torch {env.packages.get('torch', 'unknown')}")
        if env.git_commit:
            clauses.append(f"commit {env.git_commit[:7]}{' with changes' if env.git_dirty else ''}")
    for report in _reports(record)[:1]:
        clauses.append(f"RecBole {report.versions['recbole']} with torch {report.versions['torch']}")
    if record.unisrec_commit:
        clauses.append(f"UniSRec {record.unisrec_commit[:7]}")
    return f"{'; '.join([*clauses, record.created[:10]])}."


def _first(record: PeersRecord) -> Variant | None:
    return next((row.rounds[0] for row in record.ours if row.rounds), None)


def _reports(record: PeersRecord) -> list[PeerReport]:
    return [row.rounds[0] for row in record.peers if row.rounds]


def _table(record: PeersRecord) -> str:
    """A line for each row: medians over the rounds, and ratios within a round with their range."""
    bases = [row for row in record.ours if row.method == BASE and row.rounds]
    headers = ["row", "CPU s an epoch", "s an epoch", "peak MiB", "width", "parameters"]
    lines = []
    for row in record.rows:
        laps = row.laps
        peaks = [lap.peak_host / 2**20 for lap in laps if lap.peak_host is not None]
        lines.append(
            [
                row.name,
                count(median(lap.cpu_seconds for lap in laps)),
                count(median(lap.seconds for lap in laps)),
                count(median(peaks)) if peaks else None,
                row.rounds[0].width if isinstance(row, PeerRow) else row.rounds[0].settings["width"],
                f"{row.rounds[0].parameters:,}" if isinstance(row, PeerRow) else "",
                *(_ratio(row, base) for base in bases),
            ]
        )
    return markdown(lines, [*headers, *(f"CPU s / {base.name}" for base in bases)])


def _ratio(row: OurRow | PeerRow, base: OurRow) -> str:
    """Median of the ratios of CPU seconds, each within one round, and their range."""
    ratios = [one.cpu_seconds / other.cpu_seconds for one, other in zip(row.laps, base.laps, strict=False)]
    if len(ratios) == 1:
        return count(ratios[0])
    return f"{count(median(ratios))} ({count(min(ratios))} to {count(max(ratios))})"


def _amounts(record: PeersRecord) -> list[str]:
    """What of an epoch was timed, a sentence for each kind of row."""
    lines = []
    if variant := _first(record):
        rounds = max(len(row.rounds) for row in record.rows)
        epochs = several(len(variant.epoch.seconds), "whole epoch")
        lines.append(
            f"{several(rounds, 'round')}; in each, every row ran in a process of its own, one after another. "
            f"Ours: {epochs} a round."
        )
    for row in record.peers:
        for report in row.rounds[:1]:
            timed, of = len(report.predictions), -(-report.predictions_per_epoch // report.batch_size)
            mode = "on" if report.anomaly_mode else "off"
            line = (
                f"{row.name}: {timed} of the epoch's {several(of, 'batch')} of {report.batch_size:,} timed, "
                f"{report.places} items a padded history, autograd's anomaly mode {mode}"
            )
            if report.losses:
                padded, trimmed = report.losses
                line += f"; loss of a fixed batch {padded:.6f} with its padding and {trimmed:.6f} without"
            lines.append(f"{line}.")
    return ["\n".join(f"- {line}" for line in lines)]


def _bounds(record: PeersRecord) -> list[str]:
    """What an epoch of ours would take if it were products at the matrix rate alone, and ratios to that."""
    rows = [row for row in record.ours if row.least]
    if not rows:
        return []
    peers = [row for row in record.peers if row.rounds]
    headers = ["row", "GFLOP an epoch", "GFLOP/CPU s", "CPU s of the products", "% of CPU s taken"]
    lines = []
    for row in rows:
        assert row.least is not None
        counted = figures(row.rounds[0])
        taken = median(lap.cpu_seconds for lap in row.laps)
        bounds = [count(median(lap.cpu_seconds for lap in peer.laps) / row.least) for peer in peers]
        lines.append(
            [
                row.name,
                counted["GFLOP an epoch"],
                counted["the same, GFLOP/CPU s"],
                row.least,
                100 * row.least / taken,
                *bounds,
            ]
        )
    return [
        "A lower bound: the products of an epoch at the measured matrix rates (before and after), without "
        "anything else. The last columns are the ratios of the peers to this bound.",
        markdown(lines, [*headers, *(peer.name for peer in peers)]),
    ]


def _load(record: PeersRecord) -> str:
    loads = [lap.load_average for row in record.rows for lap in row.laps if lap.load_average is not None]
    if not loads:
        return "The load of the machine is unknown."
    line = f"Load of the machine before a measurement: {min(loads):.1f} to {max(loads):.1f}."
    if max(loads) <= record.threads:
        return line
    return f"{line} Other work ran on it: CPU seconds are the figures to compare, seconds say little."
