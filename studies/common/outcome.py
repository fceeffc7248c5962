"""The files that commands write, without times, to compare with an undisturbed run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.results.record import files_of_run

FIGURES = (
    "status", "dataset", "llm", "method", "protocol", "settings", "overrides", "hyperparameters",
    "config_hash", "protocol_hash", "seed", "epochs_run", "best_epoch", "stopped", "metrics", "initial",
    "extra", "liveness", "ranks_sha256", "top_sha256", "model_sha256",
)  # fmt: skip
"""Fields of a record that must be equal."""
COUNTS = (
    "candidates",
    "predictions_per_epoch",
    "steps_per_epoch",
    "encodings_per_epoch",
    "trainable_parameters",
)
"""Fields of its `cost` that must be equal."""
EPOCH = ("epoch", "loss", "valid", "valid_masked")
"""Fields of an epoch of its `curve` that must be equal."""
MEASURED = re.compile(
    r"second|time|memory|prepar|training|validation|checkpoints|break_even|created|^total$|on_front|watt"
)
"""Names of columns and keys whose values follow from a clock or the system's memory."""
KEPT = (".arrow", ".safetensors", ".parquet")
"""What is made once: no later command writes such a file again."""


DIGESTS = re.compile(r"(^|/)digests/")
"""Digests of input files are remembered only once a file has been unchanged for seconds: not in every try."""
TRIAL = re.compile(r"tmp/[a-z0-9_]{8}")
"""What Python's `tempfile` writes and removes at once to see whether it may write to $TMPDIR: not ours."""


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below `folder` (path -> digest of what must be equal) and every folder (path/ -> '')."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if DIGESTS.search(f"{name}/"):
            continue
        if path.is_dir():
            files[f"{name}/"] = ""
        elif not TRIAL.fullmatch(name):
            files[name] = _digest(name, path)
    return files


def differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> dict[str, list[str]]:
    """Kind of deviation -> paths."""
    kinds = {
        "a file is left over": sorted(actual.keys() - expected.keys()),
        "a file is missing": sorted(expected.keys() - actual.keys()),
        "content differs": sorted(
            name for name in expected.keys() & actual.keys() if expected[name] != actual[name]
        ),
    }
    return {kind: names for kind, names in kinds.items() if names}


def finished_records(folder: Path) -> dict[str, tuple[int, int]]:
    """Records of runs that ended well and the files beside them, each with its inode and time of change."""
    records = {}
    for path in folder.glob("results/*/*/*/*-s*.json"):
        if _read(path).get("status") == "ok":
            for file in files_of_run(path):
                if file.exists():
                    records[file.relative_to(folder).as_posix()] = identity(file)
    return records


def identity(path: Path) -> tuple[int, int]:
    """Tells whether a file was written again."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def written_again(folder: Path, before: Mapping[str, tuple[int, int]]) -> list[str]:
    """Those files that are gone or were written again."""
    return sorted(
        name
        for name, known in before.items()
        if not (folder / name).exists() or identity(folder / name) != known
    )


def _digest(name: str, path: Path) -> str:
    rules: Mapping[str, Callable[[bytes], Any]] = {
        "results/*.json": _figures, "reports/*.csv": _table, "reports/*": lambda _: "",
        "bundles/*": _members,
        "*.json": _without_clock,
    }  # fmt: skip
    data = path.read_bytes()
    for pattern, rule in rules.items():
        start, _, end = pattern.partition("*")
        if name.startswith(start) and name.endswith(end):
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # a damaged file: as it is
                data = json.dumps(rule(data), sort_keys=True).encode()
            break
    return hashlib.sha256(data).hexdigest()[:16]


def _figures(data: bytes) -> Any:
    """The part of a run record that is the same in each repetition."""
    record = json.loads(data)
    return {
        **{name: record[name] for name in FIGURES},
        "cost": {name: record["cost"][name] for name in COUNTS},
        "curve": [{name: epoch[name] for name in EPOCH} for epoch in record["curve"]],
    }


def _table(data: bytes) -> Any:
    """A table of the report without its measured columns, and without rows of such a `measure`."""
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    return [
        {name: value for name, value in row.items() if not MEASURED.search(name)}
        for row in rows
        if not MEASURED.search(row.get("measure", ""))
    ]


def _members(data: bytes) -> Any:
    """The members of a bundle, those that hold no times with their checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return [
            (member.filename, member.CRC if member.filename.endswith(KEPT) else None)
            for member in bundle.infolist()
        ]


def _without_clock(data: bytes) -> Any:
    return _cleared(json.loads(data))


def _cleared(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cleared(field) for name, field in value.items() if not _clock(name)}
    return [_cleared(element) for element in value] if isinstance(value, list) else value


def _clock(name: str) -> bool:
    return "second" in name or "created" in name or name == "checksum"  # which is over these too


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (ValueError, OSError):
        return {}
    return read if isinstance(read, dict) else {}
