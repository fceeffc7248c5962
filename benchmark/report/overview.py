"""What a report is about: what was run on what, in one table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from benchmark.report.section import Block, Cell
from benchmark.results.published import Row
from benchmark.results.record import RunRecord
from benchmark.results.stored import StoredRun

HEADS = [
    "dataset",
    "users",
    "items",
    "interactions",
    "language model",
    "protocol",
    "methods",
    "runs",
    "hardware",
]


def overview(records: Sequence[StoredRun]) -> Block:
    """A row for each dataset, language model and protocol; runs without a language model have their own."""
    kinds: dict[tuple[str, str, str, str], list[RunRecord]] = {}
    for run in (stored.record for stored in records):
        key = (run.dataset, run.llm or "none", run.protocol, str(run.data.get("key")))
        kinds.setdefault(key, []).append(run)
    return Block("What was run", HEADS, [_row(kinds[key]) for key in sorted(kinds)])


def _row(runs: Sequence[RunRecord]) -> list[Cell]:
    first = runs[0]
    counts: dict[str, int] = next((found for run in runs if (found := run.data.get("fingerprint"))), {})
    sizes = [f"{counts[name]:,}" if name in counts else "n/a" for name in ("users", "items", "interactions")]
    fine = sum(run.status == "ok" for run in runs)
    where = sorted({run.environment.device_name for run in runs})
    texts = [
        first.dataset,
        *sizes,
        first.llm or "none",
        first.protocol,
        ", ".join(sorted({run.method for run in runs})),
        str(fine) if fine == len(runs) else f"{fine} of {len(runs)}",
        "; ".join(where),
    ]
    return [Cell(text) for text in texts]


def printed(rows: Collection[Row]) -> dict[str, int]:
    """The same of what the paper prints."""
    columns = {"dataset": "datasets", "llm": "language models", "method": "methods"}
    counts = {label: len({row[name] for row in rows if name in row}) for name, label in columns.items()}
    return {"published figures": len(rows), **counts}


def tiles(records: Sequence[StoredRun]) -> dict[str, int]:
    """Counts that tell the size of the study at a glance."""
    runs = [stored.record for stored in records]
    failed = sum(run.status != "ok" for run in runs)
    found = {
        "runs": len(runs) - failed,
        "datasets": len({run.dataset for run in runs}),
        "language models": len({run.llm for run in runs if run.llm}),
        "methods": len({run.method for run in runs}),
        "protocols": len({run.protocol for run in runs}),
    }
    return {**found, "runs that failed": failed} if failed else found
