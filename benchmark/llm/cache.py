"""One entry of the cache of hidden states.

A folder, named by the digest of all that the states depend on, with a `layer-NN.safetensors` for each layer
and a `states.json` with their digests and costs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from benchmark.files import DamagedError, held, lacks, read_checked, write_checked
from benchmark.llm.catalogue import LLM
from benchmark.llm.files import sha256
from methods.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
log = logging.getLogger(__name__)


def digest(value: object) -> str:
    """Short digest of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def check_layers(layers: Sequence[int], llm: LLM) -> None:
    """Raise `UserError` for a layer that `llm` has not."""
    for layer in layers:
        if not 0 <= layer <= llm.n_layers:
            raise UserError(
                f"language model '{llm.name}' has no layer {layer}: allowed are 0 (embeddings)"
                f" to {llm.n_layers} (top)"
            )


def _bits(layers: Iterable[int]) -> int:
    return sum(1 << layer for layer in set(layers))


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
        """Where the states of `layer` lie."""
        return self.folder / f"layer-{layer:02d}.safetensors"

    @property
    def _sidecar(self) -> Path:
        return self.folder / "states.json"

    def unfinished(self, layers: Iterable[int], plan: str) -> Path:
        """Folder for the work of `plan` on `layers` until they are complete; its name has a bit a layer."""
        return self.folder / f"parts-{_bits(layers):x}-{plan}"

    def ensure(self, layers: Sequence[int], compute: Callable[[list[int]], None]) -> bool:
        """Let `compute` add those of `layers` that are missing; returns whether none were."""
        if not self.missing(layers, warn=False):
            self._remove_finished()
            return True
        with held(self.folder.with_suffix(".lock"), self._log_wait) as writable:
            missing = self.missing(layers, warn=True)  # another process may have done it meanwhile
            if missing and not writable:
                raise lacks(self.folder.parent, f"hidden states of layers {missing} in {self.folder.name}")
            if missing:
                for stale in self.folder.glob("*.tmp"):  # of one that was killed, as we hold the lock
                    stale.unlink()
                compute(missing)
        return not missing

    def _remove_finished(self) -> None:
        """Remove work folders whose layers are complete: a process was killed before it removed them."""
        if not (folders := list(self.folder.glob("parts-*"))):
            return
        complete = _bits(map(int, self._read_sidecar(warn=False)["layers"]))
        with suppress(OSError), FileLock(self.folder.with_suffix(".lock"), timeout=0):
            for folder in folders:
                bits = re.fullmatch("parts-([0-9a-f]+)-.+", folder.name)
                if bits and not int(bits[1], 16) & ~complete:
                    shutil.rmtree(folder)

    def _log_wait(self) -> None:
        log.warning("another process is computing these hidden states; waiting for it (%s)", self.folder)

    def _read_sidecar(self, warn: bool) -> dict[str, Any]:
        """What is known about the layers; nothing where the file is absent, damaged or of another key."""
        empty: dict[str, Any] = {"key": self.key, "layers": {}, "passes": []}
        try:
            sidecar = read_checked(self._sidecar, empty)
            if sidecar["key"] == self.key:
                return sidecar
            problem = "it is about other states"
        except FileNotFoundError:
            return empty
        except DamagedError as error:
            problem = str(error)
        if warn:
            log.warning("%s is damaged (%s): computing the states again", self._sidecar, problem)
        return empty

    def missing(self, layers: Sequence[int], warn: bool) -> list[int]:
        """Layers that are absent or fail their digest, in ascending order."""
        known = self._read_sidecar(warn)["layers"]
        absent = []
        for layer in sorted(layers):
            entry, file = known.get(str(layer)), self.file(layer)
            if entry is not None and file.is_file() and sha256(file) == entry["sha256"]:
                continue
            if entry is not None and warn:
                log.warning("%s is missing or damaged: computing this layer again", file)
            absent.append(layer)
        return absent

    def holds(self, layer: int) -> bool:
        """Whether the file of `layer` exists; its digest is not checked."""
        return str(layer) in self._read_sidecar(warn=False)["layers"] and self.file(layer).is_file()

    def read(self, layer: int) -> dict[str, Tensor]:
        """What the file of `layer` holds, memory-mapped."""
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(self.file(layer))
        return tensors

    def seconds(self, layers: Sequence[int]) -> float:
        """Seconds of the dearest pass that gave one of `layers`."""
        return float(max(cost["seconds"] for cost in self.passes(layers)))

    def passes(self, layers: Sequence[int]) -> list[dict[str, Any]]:
        """The cost of the pass that gave each of `layers`."""
        sidecar = self._read_sidecar(warn=False)
        return [sidecar["passes"][sidecar["layers"][str(layer)]["pass"]] for layer in layers]

    def register(self, digests: Mapping[int, str], cost: dict[str, Any]) -> None:
        """Write into the sidecar the SHA-256 of these layers' files, and what their pass did cost."""
        sidecar = self._read_sidecar(warn=False)
        for layer, file_digest in digests.items():
            sidecar["layers"][str(layer)] = {"sha256": file_digest, "pass": len(sidecar["passes"])}
        sidecar["passes"].append(cost)
        write_checked(self._sidecar, sidecar)

    def amend(self, layers: Sequence[int], values: dict[str, Any]) -> None:
        """Add `values` to the passes that gave `layers`, where the cache can be written."""
        with held(self.folder.with_suffix(".lock"), self._log_wait) as writable:
            if writable:
                sidecar = self._read_sidecar(warn=False)
                for layer in layers:
                    sidecar["passes"][sidecar["layers"][str(layer)]["pass"]] |= values
                write_checked(self._sidecar, sidecar)


def pass_cost(seconds: float, items: int, distinct: int, tokens: int, device: torch.device) -> dict[str, Any]:
    """What a pass over the catalogue cost, and on what."""
    from importlib.metadata import version

    return {
        "seconds": seconds,
        "items_per_second": items / seconds,
        "distinct_texts": distinct,
        "tokens": tokens,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
