"""A good bundle in parts that a forger can change, and write again with everything that follows from them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.files import checksum_of
from benchmark.results.metrics import Ranks, metrics_of
from benchmark.verify.archive import write_archive
from benchmark.verify.format import MANIFEST, FileEntry, Manifest

Fields = dict[str, Any]


@dataclass
class Forge:
    """The files of a bundle with one run."""

    files: dict[str, bytes]
    """Name -> content, without the manifest."""

    @classmethod
    def of(cls, bundle: Path) -> Forge:
        with zipfile.ZipFile(bundle) as archive:
            names = [name for name in archive.namelist() if name != MANIFEST]
            return cls({name: archive.read(name) for name in names})

    def name(self, ending: str) -> str:
        return next(name for name in self.files if name.endswith(ending))

    @property
    def record(self) -> Fields:
        fields: Fields = json.loads(self.files[self.name(".json")])
        return fields

    def edit(self, change: Callable[[Fields], object]) -> Forge:
        """Change fields of the record, and its checksum with them."""
        fields = self.record
        change(fields)
        fields.pop("checksum")
        whole = {**fields, "checksum": checksum_of(fields)}
        self.files[self.name(".json")] = json.dumps(whole, indent=1, ensure_ascii=False).encode()
        return self

    def text(self, old: str, new: str) -> Forge:
        """Change the record's text, which may then be no record."""
        name = self.name(".json")
        text = self.files[name].decode()
        assert old in text
        self.files[name] = text.replace(old, new, 1).encode()
        return self

    def renamed(self, config_hash: str) -> Forge:
        """Give the configuration another hash, in the record and in the names of its files."""
        old = self.record["config_hash"]
        self.edit(lambda fields: fields.update(config_hash=config_hash))
        self.files = {name.replace(old, config_hash): content for name, content in self.files.items()}
        return self

    def table(self, ending: str, change: Callable[[pa.Table], pa.Table]) -> Forge:
        """Change the ranks or the lists, and their digest in the record."""
        name = self.name(ending)
        sink = io.BytesIO()
        pq.write_table(change(pq.read_table(io.BytesIO(self.files[name]))), sink)
        self.files[name] = sink.getvalue()
        field = "ranks_sha256" if "ranks" in ending else "top_sha256"
        return self.edit(lambda fields: fields.update({field: hashlib.sha256(sink.getvalue()).hexdigest()}))

    def manifest(self, **fields: Any) -> bytes:
        entries = [
            FileEntry(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in sorted(self.files.items())
        ]
        return Manifest(files=entries).model_copy(update=fields).content()

    def packed(self, manifest: bytes | None = None) -> bytes:
        """The archive as `adaptrec bundle` would write it."""
        out = io.BytesIO()
        write_archive(out, {MANIFEST: self.manifest() if manifest is None else manifest, **self.files})
        return out.getvalue()

    def zipped(
        self, *more: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_STORED
    ) -> bytes:
        """An archive of another program, with more members."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, content in (*sorted({MANIFEST: self.manifest(), **self.files}.items()), *more):
                archive.writestr(name, content)
        return out.getvalue()


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    """A change of one column of a table."""

    def changed(table: pa.Table) -> pa.Table:
        values = change(table[name].to_pylist())
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(values, table[name].type))

    return changed


def invented(forge: Forge, is_cold: Any, **columns: Callable[[Any], Any]) -> Forge:
    """Change columns of the ranks as arrays, drop the lists, and let all test metrics follow.

    `is_cold` `[T]` says which targets are cold.
    """
    forge.files.pop(forge.name(".top.parquet"))
    forge.edit(lambda fields: fields.update(top_sha256=None))
    for name, change in columns.items():
        forge.table(".ranks.parquet", column(name, lambda values, do=change: do(np.array(values)).tolist()))
    table = pq.read_table(io.BytesIO(forge.files[forge.name(".ranks.parquet")]))
    got = {name: table[name].to_numpy().astype(np.int64) for name in table.column_names}

    def follow(fields: Fields) -> None:
        for form in ("", "_masked"):
            ranks = Ranks(got[f"rank{form}"], got[f"tied{form}"])
            for part, chosen in (("", is_cold | True), ("_warm", ~is_cold), ("_cold", is_cold)):
                fields["metrics"][f"test{part}{form}"] = metrics_of(ranks[chosen])

    return forge.edit(follow)
