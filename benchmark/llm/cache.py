"""The cache of hidden states: one folder an entry, and a file that an interrupted pass can continue.

An entry is named by the digest of all that its states depend on. It has a `layer-NN.safetensors` for each
layer, a `states.json` with their digests and costs, and a folder `parts-*` while a pass is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.files import DamagedError, digest_of, lacks, read_checked, write_checked
from benchmark.process.locks import held
from methods.errors import unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions in which states are stored."""
JOURNAL_SECONDS = 15.0
"""Seconds of work after which the journal is written again: what a kill may cost."""
Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and type of each tensor of a file, in the order in which they are added."""
log = logging.getLogger(__name__)


def digest(value: object) -> str:
    """Short digest of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def stored_dtype(name: str) -> torch.dtype:
    """The type of stored states; raises `UserError` for an unknown name."""
    if name not in DTYPES:
        raise unknown("states dtype", name, DTYPES)
    return DTYPES[name]


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache and the key that it must hold."""

    folder: Path
    key: dict[str, Any]

    @classmethod
    def of(cls, cache: Path, key: dict[str, Any]) -> CacheEntry:
        """The entry of `key` below the folder `cache`."""
        return cls(cache / "states" / digest(key), key)

    def file(self, layer: int) -> Path:
        """The file of the states of `layer`."""
        return self.folder / f"layer-{layer:02d}.safetensors"

    def ensure(self, layers: Sequence[int], compute: Callable[[list[int]], None]) -> bool:
        """Let `compute` add those of `layers` that are missing; returns whether none were."""
        if not self._missing(layers, warn=False):
            return True
        with self._lock() as writable:
            missing = self._missing(layers, warn=True)  # another process may have done it meanwhile
            if missing and not writable:
                raise lacks(self.folder.parent, f"hidden states of layers {missing} in {self.folder.name}")
            if missing:
                for stale in self.folder.glob("*.tmp"):  # of a killed process, as we hold the lock
                    stale.unlink()
                compute(missing)
        return not missing

    def _lock(self) -> Any:
        waits = "another process is computing these hidden states; waiting for it (%s)"
        return held(self.folder.with_suffix(".lock"), lambda: log.warning(waits, self.folder))

    def unfinished(self, plan: str) -> Path:
        """The folder for the work of `plan`; that of other plans is removed. The caller holds the lock."""
        folder = self.folder / f"parts-{plan}"
        for stale in self.folder.glob("parts-*"):
            if stale != folder:
                shutil.rmtree(stale)
        return folder

    def _sidecar(self, warn: bool = False) -> dict[str, Any]:
        """The description of the layers; an empty one where the file is absent, damaged or of another key."""
        empty: dict[str, Any] = {"key": self.key, "layers": {}, "passes": []}
        path = self.folder / "states.json"
        try:
            sidecar = read_checked(path, empty)
            if sidecar["key"] == self.key:
                return sidecar
            problem = "it is about other states"
        except FileNotFoundError:
            return empty
        except DamagedError as error:
            problem = str(error)
        if warn:
            log.warning("%s is damaged (%s): computing the states again", path, problem)
        return empty

    def _missing(self, layers: Sequence[int], warn: bool) -> list[int]:
        """Layers that are absent or fail their digest, in ascending order."""
        known = self._sidecar(warn)["layers"]
        absent = []
        for layer in sorted(layers):
            entry, file = known.get(str(layer)), self.file(layer)
            if entry is None or not file.is_file() or digest_of(file) != entry["sha256"]:
                absent.append(layer)
                if entry is not None and warn:
                    log.warning("%s is missing or damaged: computing this layer again", file)
        return absent

    def holds(self, layer: int) -> bool:
        """Whether the file of `layer` exists; its digest is not checked."""
        return str(layer) in self._sidecar()["layers"] and self.file(layer).is_file()

    def read(self, layer: int) -> dict[str, Tensor]:
        """The tensors in the file of `layer`, memory-mapped."""
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(self.file(layer))
        return tensors

    def passes(self, layers: Sequence[int]) -> list[dict[str, Any]]:
        """The cost of the pass that computed each of `layers`."""
        sidecar = self._sidecar()
        return [sidecar["passes"][sidecar["layers"][str(layer)]["pass"]] for layer in layers]

    def register(self, digests: Mapping[int, str], cost: dict[str, Any]) -> None:
        """Write the SHA-256 of these layers' files, and the cost of their pass, into the description."""
        sidecar = self._sidecar()
        for layer, sha256 in digests.items():
            sidecar["layers"][str(layer)] = {"sha256": sha256, "pass": len(sidecar["passes"])}
        sidecar["passes"].append(cost)
        write_checked(self.folder / "states.json", sidecar)


class ResumableFile:
    """A safetensors file of the tensors `spec` in `folder`, added in that order, a batch at a time.

    Its rows need not fit into memory. A journal in the same folder holds how much of the file is finished and
    the SHA-256 of that much. A file that a killed process left is continued if that digest is right, else it
    is written anew.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.path, self._journal = folder / "states.safetensors", folder / "journal.json"
        self.batches = 0
        """Finished batches."""
        self.seconds = 0.0
        """Seconds that these took in earlier tries."""
        self._spec, header = spec, _header(spec)
        self._header_size, self._sha = len(header), hashlib.sha256()
        folder.mkdir(parents=True, exist_ok=True)
        self._file: Any = self.path.open("r+b" if self.path.is_file() else "w+b")
        if not self._continue():
            self._sha = hashlib.sha256()
            self._journal.unlink(missing_ok=True)
            self._file.seek(0)
            self._file.truncate()
            self._write(header)
        self._since = time.perf_counter()

    def _continue(self) -> bool:
        """Go to the end of the finished part, if there is one and its digest is right."""
        try:
            journal = read_checked(self._journal, ("batches", "bytes", "seconds", "sha256"))
            self._file.truncate(journal["bytes"])
            self._sha = hashlib.file_digest(self._file, "sha256")
            if self.sha256 == journal["sha256"]:
                self._file.seek(0, os.SEEK_END)
                self.batches, self.seconds = journal["batches"], journal["seconds"]
                return True
        except FileNotFoundError:
            return False  # killed before the first journal
        except DamagedError:
            pass
        log.warning("%s is damaged: its texts are encoded again", self.path)
        return False

    @property
    def sha256(self) -> str:
        """SHA-256 of the finished part."""
        return self._sha.hexdigest()

    def first_tensor(self) -> Tensor:
        """The first tensor of a file that is continued."""
        shape, dtype = next(iter(self._spec.values()))
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(self._header_size)
            data = bytearray(file.read(_size(shape, dtype)))
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def add(self, values: Tensor) -> None:
        """Append rows of the current tensor, or a whole tensor, from the CPU."""
        self._write(values.contiguous().view(torch.uint8).numpy().data.cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha.update(data)

    def finish_batch(self) -> None:
        """Count a finished batch; write the journal if the last one is some time ago."""
        self.batches += 1
        if time.perf_counter() - self._since >= JOURNAL_SECONDS:
            self.write_journal()

    def write_journal(self) -> None:
        """Note which part is finished."""
        self._file.flush()
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        values = {"batches": self.batches, "bytes": self._file.tell(), "seconds": self.seconds}
        write_checked(self._journal, {**values, "sha256": self.sha256})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return dtype.itemsize * torch.Size(shape).numel()


def _header(spec: Spec) -> bytes:
    """The head of a safetensors file: the length of a JSON table, and the table, padded with blanks to eight.

    See https://huggingface.co/docs/safetensors; its library can only write tensors that are complete.
    """
    names = {torch.float32: "F32", torch.bfloat16: "BF16"}
    table, begin = {}, 0
    for name, (shape, dtype) in spec.items():
        end = begin + _size(shape, dtype)
        table[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
