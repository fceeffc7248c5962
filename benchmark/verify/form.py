"""L1, form: the bundle is one, whole, within bounds, and holds records and nothing else.

Each check is a function whose docstring says what it promises; it raises `UserError` where that does not
hold. They stand in the order in which they are made, and each one needs those before it.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.config import SETTINGS
from benchmark.results.list_metrics import TOP
from benchmark.results.record import RunRecord, ranks_path, top_path
from benchmark.results.schema import MethodSource
from benchmark.results.store import place
from benchmark.results.targets import MEAN_RANKS, OLDER, PER_PLACE, PER_TARGET, POSITION, RANKS, TRAINED
from benchmark.verify.format import (
    MANIFEST,
    MOST_TARGETS,
    SOURCES,
    check_plain,
    items_path,
    shown,
    states_path,
)
from benchmark.verify.opened import BundledRun, OpenBundle
from benchmark.verify.strict_json import json_in, strict_json
from benchmark.verify.texts import texts
from methods.errors import UserError


def archive(bundle: OpenBundle) -> None:
    """It is a zip archive within bounds; its members are files of a bundle, each once, none compressed."""
    _ = bundle.archive


def frame(bundle: OpenBundle) -> None:
    """Every byte outside the files is what `adaptrec bundle` writes: nothing is hidden there."""
    bundle.archive.check_frame()


def manifest(bundle: OpenBundle) -> None:
    """The manifest is of a format version that is read, and lists exactly the files that are there."""
    listed = [file.path for file in bundle.read_manifest().files]
    there = [name for name in bundle.archive.members if name != MANIFEST]
    if missing := sorted({*listed} - {*there}):
        raise UserError(f"{MANIFEST} lists {shown(missing[0])}, which is missing.")
    if unlisted := sorted({*there} - {*listed}):
        raise UserError(f"{MANIFEST} does not list {shown(unlisted[0])}.")
    if listed != sorted(set(listed)):
        raise UserError(f"{MANIFEST} does not list each file once, in the order of their names.")


def digests(bundle: OpenBundle) -> None:
    """Every file has the size and the SHA-256 that the manifest states."""
    assert bundle.manifest is not None
    for file in bundle.manifest.files:
        content = bundle.archive.read(file.path)
        if len(content) != file.bytes:
            raise UserError(
                f"{shown(file.path)} has {len(content):,} bytes, not {file.bytes:,} as {MANIFEST} says."
            )
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(f"{shown(file.path)} does not match its SHA-256 in {MANIFEST}.")
        bundle.copy(file.path, content)


def json(bundle: OpenBundle) -> None:
    """JSON has no field twice, no NaN or infinity, no endless number, and is not deeply nested."""
    assert bundle.manifest is not None
    for name in (file.path for file in bundle.manifest.files if file.path.endswith(".json")):
        strict_json((bundle.folder / name).read_bytes(), shown(name))


def records(bundle: OpenBundle) -> None:
    """Every record is one of a finished run, without an unknown field, at the path that it names."""
    if not bundle.read_runs():
        raise UserError("it holds no record.")
    for run in bundle.runs:
        record = run.record
        if (own := place(record).with_suffix("").as_posix()) != run.name:
            raise run.fail(f"its record is that of {shown(own)}.")
        if record.status != "ok":
            raise run.fail(f"its status is {record.status}; a bundle holds finished runs.")
        counts = run.fingerprint
        for name in ("users", "items", "test_targets"):
            if not getattr(counts, name):
                raise run.fail(f"its fingerprint does not say how many {name.replace('_', ' ')} there are.")
        if unknown := sorted(record.settings.keys() - {*SETTINGS}):
            raise run.fail(f"settings has the unknown field {shown(unknown[0])}.")


def names(bundle: OpenBundle) -> None:
    """No name has a character that a terminal, HTML, LaTeX or Markdown would take for a command."""
    for run in bundle.runs:
        for what, name in filter(itemgetter(1), _names(run.record)):
            check_plain(f"{run.name}: {what}", name)


def _names(record: RunRecord) -> list[tuple[str, str]]:
    source = MethodSource.model_validate(record.method_source)
    found = [(name, getattr(record, name) or "-") for name in ("dataset", "llm", "method", "protocol")]
    found += [("method_source", value) for value in (source.distribution, source.version) if value]
    found += [("llm_details", str(value)) for value in record.llm_details.values() if isinstance(value, str)]
    found += [("a setting", value) for value in record.settings.values() if isinstance(value, str)]
    found += [("a hyper-parameter", name) for name in record.hyperparameters]
    for value in record.hyperparameters.values():
        found += [("a hyper-parameter", text) for text in _texts(value)]
    found += [("a split", name) for name in (*record.metrics, *record.initial)]
    for name, _, value in (pair.partition("=") for pair in record.overrides):
        found += [("an override", text) for text in (name, *_texts(value))]
    return found


def _texts(value: object) -> Iterator[str]:
    """The texts in a value; a configuration in JSON, which `peft` has, is named by its keys and values."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        read = json_in(value)
        yield from [value] if read is None else _texts(read)


def files(bundle: OpenBundle) -> None:
    """Every run has its ranks, its lists where its record states them, and there is no file besides."""
    assert bundle.manifest is not None
    left = {bundle.folder / file.path for file in bundle.manifest.files}
    for run in bundle.runs:
        embeddings = {items_path(run.path), states_path(run.path)}
        if len(left & embeddings) == 1:
            raise run.fail("it has embeddings of items or of users; it needs both or none.")
        left -= {run.path, *run.tables, *embeddings}
        if not ranks_path(run.path).exists():
            raise run.fail("its ranks are missing.")
        if top_path(run.path).exists() != (run.record.top_sha256 is not None):
            gone = run.record.top_sha256 is not None
            raise run.fail(
                f"its lists are {'missing' if gone else 'there, and its record has no digest of them'}."
            )
    external = {run.record.method for run in bundle.runs if run.record.method_source.get("external")}
    for path in sorted(left):
        inner = path.relative_to(bundle.folder)
        if inner.parts[0] != SOURCES or inner.parts[1] not in external:
            raise UserError(f"{shown(inner.as_posix())} belongs to no run of the bundle.")
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{shown(inner.as_posix())} is no UTF-8 text.") from error


def tables(bundle: OpenBundle) -> None:
    """Every table has known columns of numbers, and a row for each test target; embeddings are fp32."""
    for run in bundle.runs:
        _check_table(run, ranks_path(run.path), [*_rank_columns(run), POSITION])
        if run.record.top_sha256 is not None:
            _check_table(run, top_path(run.path), [*PER_TARGET, *PER_PLACE, *OLDER])
        if items_path(run.path).exists():
            _check_embeddings(run)


def _check_embeddings(run: BundledRun) -> None:
    """Two finite matrices of one width, with a row for each item and for each test target."""
    widths = set()
    for what, path, rows in (
        ("items", items_path(run.path), run.items),
        ("users", states_path(run.path), run.fingerprint.test_targets),
    ):
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise run.fail(f"its embeddings of {what} are no NPY file.") from error
        if values.dtype != np.dtype("<f4") or values.ndim != 2 or len(values) != rows:
            raise run.fail(
                f"its embeddings of {what} are {values.dtype} {[*values.shape]}, not float32 with {rows:,} "
                "rows."
            )
        if not np.isfinite(values).all():
            raise run.fail(f"its embeddings of {what} are not all finite.")
        widths.add(values.shape[1])
    if len(widths) > 1:
        raise run.fail(f"its embeddings have different widths: {min(widths)} and {max(widths)}.")


def _rank_columns(run: BundledRun) -> tuple[str, ...]:
    return MEAN_RANKS if run.record.schema_version == 1 else RANKS


def _check_table(run: BundledRun, path: Path, columns: list[str]) -> None:
    """What a file says of itself, before any row is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    what = "ranks" if path == ranks_path(run.path) else "lists"
    try:
        limits = {"thrift_string_size_limit": 2**27, "thrift_container_size_limit": 10_000}
        table = pq.ParquetFile(path, pre_buffer=False, **limits)
        schema, rows, metadata = table.schema_arrow, table.metadata.num_rows, table.metadata.metadata or {}
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise run.fail(f"its {what} are no Parquet table.") from error
    if rows > MOST_TARGETS:
        raise run.fail(f"its {what} claim {rows:,} rows; at most {MOST_TARGETS:,} are read.")
    if rows != run.fingerprint.test_targets:
        raise run.fail(
            f"its {what} have {rows:,} rows, and its data {run.fingerprint.test_targets:,} test targets."
        )
    for column in schema:
        if column.name not in columns:
            raise run.fail(f"its {what} have the unknown column {shown(column.name)}.")
        if not _is_plain(column.type):
            raise run.fail(f"its {what} have no plain numbers in column {shown(column.name)}.")
    if len(set(schema.names)) < len(schema.names):
        raise run.fail(f"its {what} have a column twice.")
    if (packed := metadata.get(TRAINED.encode())) is not None:
        _check_packed(run, packed)


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return kind.list_size == TOP and kind.value_type in (pa.int32(), pa.float16())
    return kind in (pa.int32(), pa.int64(), pa.float64())


def _check_packed(run: BundledRun, packed: bytes) -> None:
    """The packed counts of items have the size of the catalogue, and do not grow beyond it."""
    size = 4 * run.items
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise run.fail("the training interactions in its lists cannot be unpacked.") from error
    if len(unpacked) != size:
        raise run.fail(f"the training interactions in its lists are not of {run.items:,} items.")


CHECKS = (archive, frame, manifest, digests, json, records, names, texts, files, tables)
"""In the order in which they are made."""
