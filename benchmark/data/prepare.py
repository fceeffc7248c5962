"""From a recipe to the prepared dataset, through a content-addressed cache of memory-mapped Arrow files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from benchmark.config import digest
from benchmark.data.download import (
    all_here,
    input_files,
    record_checksums,
    recorded_digests,
    remembered_digest,
)
from benchmark.data.filters import in_training
from benchmark.data.formats import BUILT_IN, load_reader
from benchmark.data.pipeline import Begin, Built, build
from benchmark.data.recipe import Recipe
from benchmark.data.text_files import MERGED
from benchmark.files import digest_of, lacks, replacing_folder, write_json
from benchmark.process.locks import held
from benchmark.results.schema import Fingerprint
from methods.fields import hashed


class Strings(Sequence[str]):
    """A sequence over an Arrow column of strings: an item becomes a Python string when it is read."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self._column[index].to_pylist())
        return str(self._column[int(index)].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            for start in range(0, len(chunk), 1 << 16):
                yield from chunk.slice(start, 1 << 16).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({self[:3]}{'...' if len(self) > 3 else ''}, {len(self):,} in all)"


LATER_STATISTICS = {"share_equal_times", "texts_like_missing", "time_unit", "share_older_test_targets"}
"""Statistics of a fingerprint that earlier versions did not count."""
MANY_EQUAL_TIMES = 0.5
LARGE_CHANCE = 0.2
"""Recall@10 of a random order from which a catalogue is small."""


def find_warnings(recipe: Recipe, counts: Mapping[str, Any]) -> list[str]:
    """The lines for a dataset; statistics that an earlier version did not count are passed over."""
    expected = (recipe.expected or {}).items()
    other = [f"{counts[name]:,} {name}, not {count:,}" for name, count in expected if counts[name] != count]
    messages = []
    if other:
        messages.append(
            f"{recipe.name} has {'; '.join(other)}, as its recipe expects: other files or other options than "
            "the published set's"
        )
    share = counts.get("share_equal_times", 0)
    if share >= MANY_EQUAL_TIMES and recipe.tie_order == "file":
        messages.append(
            f"{recipe.name}: {share:.0%} of neighbouring interactions of a user have equal times; their "
            "order is that of the file, so make sure that the file is in the order in which they happened "
            "(`adaptrec audit` shows what this order is worth)"
        )
    if count := counts.get("texts_like_missing", 0):
        messages.append(
            f"{recipe.name}: {count:,} of {counts['items']:,} texts look like missing values (such as nan, "
            "null or n/a); leave the field empty where an item has no text"
        )
    messages += [
        f"{recipe.name}: {count:,} {what}"
        for what, count in counts["repairs"].items()
        if what.startswith(MERGED)
    ]
    if (chance := 10 / counts["items"]) >= LARGE_CHANCE:
        messages.append(
            f"{recipe.name}: a random order of the {counts['items']} items reaches a Recall@10 of "
            f"{min(chance, 1):.2f}; in so small a catalogue methods hardly differ"
        )
    return messages


FORMAT = 1
"""Version of this code's output; part of every key, to be raised when the same input gives another result."""
_FORMATS = {"parquet": 2}
"""Format of the files -> its version, where that alone has changed. Parquet 2: lists of texts are text."""
_FILES = ("users.arrow", "items.arrow")
ENDS = ("valid_end", "test_end")
"""Columns of users.arrow where a user has several targets in a period."""


@dataclass(frozen=True, repr=False)
class Prepared:
    """A dataset ready for training: users' sequences of item indices, the items' texts, and the split."""

    name: str
    key: str
    """Digest of the recipe's options, the input's bytes and FORMAT."""
    folder: Path
    """Where the Arrow files lie."""
    recipe: dict[str, Any]
    """The recipe's options and the counts that it expects, JSON-able."""
    fingerprint: dict[str, Any]
    """Counts, shares, repairs and the digest of the content."""
    warnings: tuple[str, ...]
    """One line each: counts that differ from the expected ones, a rebuilt cache."""
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    texts: Sequence[str]
    """`texts[i]` belongs to item index i, from 0; there is no padding item."""
    items: npt.NDArray[np.int32]
    """`[N]` item indices, users one after another, each in time order; read-only, memory-mapped."""
    offsets: npt.NDArray[np.int64]
    """`[U+1]` user u has `items[offsets[u]:offsets[u+1]]`."""
    train_end: npt.NDArray[np.int64]
    """`[U]` number of training interactions of each user."""
    valid_at: npt.NDArray[np.int64]
    """`[U]` position of the first validation target in the user's sequence, -1 where there is none."""
    test_at: npt.NDArray[np.int64]
    """`[U]` the same for the test targets."""
    valid_end: npt.NDArray[np.int64]
    """`[U]` position after the last validation target."""
    test_end: npt.NDArray[np.int64]
    """`[U]` the same for the test targets."""
    ceiling: dict[str, dict[str, float]] | None
    """Best possible metrics of a planted set (`synthetic.ceiling_of`); None for others."""

    def __repr__(self) -> str:
        return describe(self)

    @cached_property
    def trained(self) -> npt.NDArray[np.int64]:
        """Items that occur in training, ascending."""
        return np.unique(self.items[in_training(self.offsets, self.train_end)]).astype(np.int64)


def prepare(recipe: Recipe, cache: Path, begin: Begin = lambda step: None) -> Prepared:
    """The prepared data of `recipe`, from `cache` where they are stored and intact, else computed and stored.

    `begin` is called with the name of each step. Raises `UserError` for a fault in the input that the recipe
    does not repair.
    """
    if (outlived := _without_files(recipe, cache, begin)) is not None:
        return outlived
    files = input_files(recipe, cache)
    begin("digest of the files")
    key = _key(recipe, {role: remembered_digest(path, cache) for role, path in files.items()})
    folder = _folder(recipe, key, cache)
    notes: list[str] = []
    begin("check of the stored data")
    with _lock(folder) as writable:
        exists = folder.exists()
        fault = _fault(folder) if exists else "it does not exist"
        if fault and not writable:
            raise lacks(folder.parent, f"the prepared data of {recipe.name} in {folder.name} ({fault})")
        if fault and exists:
            notes.append(f"the prepared data in {folder} were damaged ({fault}) and have been built again")
        # data of an earlier version lack statistics, and are used where they cannot be replaced
        if fault or (writable and not _counted(folder)):
            if exists:
                shutil.rmtree(folder)
            with replacing_folder(folder) as part, build(recipe, files, part, begin) as built:
                begin("write")
                _write(built, part)
        prepared = _load(recipe, key, folder, notes)
    if recipe.files:
        record_checksums(recipe, files.values(), cache)
    return prepared


def _without_files(recipe: Recipe, cache: Path, begin: Begin) -> Prepared | None:
    """The data prepared from files of which some are gone, where they are stored and intact.

    Their digests are known, and another content under their names would be an error: the key is the same.
    """
    if not recipe.files or all_here(recipe, cache):
        return None
    begin("digest of the files")
    digests, gone = recorded_digests(recipe, cache)
    folder = _folder(recipe, key := _key(recipe, digests), cache)
    if len(digests) < len(recipe.files) or not folder.exists():
        return None
    begin("check of the stored data")
    with _lock(folder):
        if _fault(folder):
            return None
        note = f"{recipe.name} is used as it was prepared from files that are gone: {', '.join(gone)}"
        return _load(recipe, key, folder, [note])


def _folder(recipe: Recipe, key: str, cache: Path) -> Path:
    return cache / "prepared" / f"{recipe.name}-{key}"


def _lock(folder: Path) -> AbstractContextManager[bool]:
    """Hold the lock of `folder` across processes: -> whether the cache can be written."""
    return held(folder.with_name(folder.name + ".lock"))


def describe(prepared: Prepared) -> str:
    """The fingerprint as a few lines for the terminal; warnings are separate."""
    counts = prepared.fingerprint
    lines = [
        f"{prepared.name} ({prepared.key}): {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions",
        f"  interactions a user {counts['interactions_per_user']:.2f}, "
        f"an item {counts['interactions_per_item']:.2f}",
        f"  items without text {counts['share_without_text']:.2%}, with the text of another item "
        f"{counts['share_duplicate_text']:.2%}",
        f"  cold items {counts['cold_items']:,} (targets: {counts['cold_valid_targets']:,} validation, "
        f"{counts['cold_test_targets']:,} test); targets: {counts['valid_targets']:,} validation"
        f"{_of_users(counts, 'valid')}, {counts['test_targets']:,} test{_of_users(counts, 'test')}",
        *(f"  {line}" for line in Fingerprint.model_validate(counts).time_lines()),
    ]
    repairs = counts["repairs"]
    dropped = {what: n for what, n in counts["dropped"].items() if f"{what} dropped" not in repairs}
    for title, group in (("dropped", dropped), ("repairs", repairs)):
        if group:
            lines.append(f"  {title}: " + ", ".join(f"{what} {count:,}" for what, count in group.items()))
    lines += [f"  {note}" for note in prepared.recipe["notes"]]
    return "\n".join([*lines, f"  content sha256 {counts['sha256'][:16]}"])


def _of_users(counts: Mapping[str, Any], part: str) -> str:
    """Of how many users the targets are, where a user may have several."""
    count = counts.get(f"{part}_users")
    return "" if count is None else f" of {count:,} users"


def _key(recipe: Recipe, inputs: Mapping[str, str]) -> str:
    """`inputs`: role -> SHA-256 of the file."""
    version: Any = _FORMATS.get(recipe.format, FORMAT)
    if recipe.format not in BUILT_IN:
        reader, title = load_reader(recipe.format)
        version = [version, title, reader.version]
    return digest({"options": _options(recipe), "inputs": inputs, "format": version})


def _options(recipe: Recipe) -> dict[str, Any]:
    """The recipe's options, the generator's parameters with their defaults filled in."""
    options = recipe.options()
    if recipe.format == "synthetic":
        from benchmark.data.planted import parameters

        options["synthetic"] = dict(hashed(parameters(recipe)))
    return options


def _write(built: Built, part: Path) -> None:
    """Write both Arrow files and their description."""
    import pyarrow as pa

    sequences = pa.ListArray.from_arrays(pa.array(built.offsets.astype(np.int32)), pa.array(built.items))
    users = {
        "user_id": built.user_ids.cast(pa.large_string()).combine_chunks(),
        "items": sequences,
        "train_end": pa.array(built.split.train_end),
        "valid_at": pa.array(built.split.valid_at),
        "test_at": pa.array(built.split.test_at),
    }
    if built.split.has_several:
        users |= {name: pa.array(getattr(built.split, name)) for name in ENDS}
    # a single record batch: a column reads as one array without a copy
    _write_arrow([pa.table(users)], part / "users.arrow")
    fields = pa.schema([(name, pa.large_string()) for name in ("item_id", "text")])
    _write_arrow(
        (pa.Table.from_batches([batch]).cast(fields) for batch in built.catalogue()), part / "items.arrow"
    )
    body = {"fingerprint": built.fingerprint, "ceiling": built.ceiling}
    files = {name: digest_of(part / name) for name in _FILES}
    write_json(
        part / "fingerprint.json", {"content": body, "content_digest": digest(body, 64), "files": files}
    )


def _write_arrow(tables: Iterable[Any], path: Path) -> None:
    """Tables of one schema as a file that `datasets.Dataset.from_file` reads, each one record batch."""
    from datasets.arrow_writer import ArrowWriter

    from datasets import Features

    tables = iter(tables)
    first = next(tables)
    with ArrowWriter(path=str(path), features=Features.from_arrow_schema(first.schema)) as writer:
        for table in chain([first], tables):
            writer.write_table(table, writer_batch_size=max(1, len(table)))
        writer.finalize()


def _fault(folder: Path) -> str:
    """The fault of stored data, empty where they are intact. Raises `OSError` where it cannot be read."""
    try:
        stored = json.loads((folder / "fingerprint.json").read_bytes())
        if digest(stored["content"], 64) != stored["content_digest"]:
            return "fingerprint.json does not match its digest"
        for name in _FILES:
            if digest_of(folder / name) != stored["files"][name]:
                return f"{name} does not match its digest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"fingerprint.json cannot be understood ({type(error).__name__})"
    return ""


def _counted(folder: Path) -> bool:
    """Whether the fingerprint of intact data has all statistics."""
    stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
    return set(stored["content"]["fingerprint"]) >= LATER_STATISTICS


def _load(recipe: Recipe, key: str, folder: Path, notes: list[str]) -> Prepared:
    """Memory-map stored data that are intact.

    By Arrow and DLPack alone: `datasets` and Arrow's own `to_numpy` import pandas, for which each process of
    a grid would wait.
    """
    import pyarrow as pa

    stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))["content"]
    users, items = (pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all() for name in _FILES)
    sequences = users.column("items").chunk(0)
    numbers: dict[str, Any] = {
        name: np.from_dlpack(users.column(name).chunk(0)) for name in ("train_end", "valid_at", "test_at")
    }
    for end in ENDS:
        stored_end = end in users.column_names
        at = numbers[end.replace("end", "at")]
        numbers[end] = np.from_dlpack(users.column(end).chunk(0)) if stored_end else at + 1
    flat: Any = np.from_dlpack(sequences.values)
    fingerprint = stored["fingerprint"]
    source = None if recipe.source is None else recipe.source.name  # a record names no folder of a machine
    return Prepared(
        name=recipe.name,
        key=key,
        folder=folder,
        recipe={
            "name": recipe.name, "source": source, "notes": list(recipe.notes), "expected": recipe.expected,
            **({"given": list(recipe.given)} if recipe.given else {}), **_options(recipe),
        },
        fingerprint=fingerprint,
        warnings=(*notes, *find_warnings(recipe, fingerprint)),
        user_ids=Strings(users.column("user_id")),
        item_ids=Strings(items.column("item_id")),
        texts=Strings(items.column("text")),
        items=flat,  # [N]
        offsets=np.from_dlpack(sequences.offsets).astype(np.int64),  # [U+1]
        **numbers,
        ceiling=stored["ceiling"],
    )  # fmt: skip
