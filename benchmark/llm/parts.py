"""Finished parts of an encoding pass on disk, so that a killed process costs little.

A part holds the rows of some batches: `part-<first batch>-<number>.safetensors`, written to a temporary name
and renamed. It is reused only by the very plan that it was written for, and only if its digest is right.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmark.files import write_atomically

PART_SECONDS = 15.0
"""Write a part when so much work would be lost."""
log = logging.getLogger(__name__)


class Parts:
    """The parts of one plan (texts, model, layers, batches).

    Args:
        folder: where they lie; made when the first is written.
        plan: digest of everything that the rows depend on.
        batches: rows of each batch, the same whenever the plan is.
    """

    def __init__(self, folder: Path, plan: str, batches: Sequence[Sequence[int]]) -> None:
        self.folder, self.plan, self.batches = folder, plan, batches
        self.done: set[int] = set()
        """Batches whose rows are filled."""
        self._pending: list[int] = []
        self._since = time.perf_counter()

    @property
    def texts_done(self) -> int:
        """Rows that are filled."""
        return sum(len(self.batches[index]) for index in self.done)

    def load_into(self, values: Tensor) -> float:
        """Fill rows of `values` `[U, A, D]` from all good parts: -> the seconds that these cost."""
        seconds = 0.0
        for path in sorted(self.folder.glob("part-*.safetensors")):
            found = self._read(path)
            if found is None:
                log.warning("%s is damaged or of another plan: its texts are encoded again", path)
                path.unlink()
                continue
            indices, states, cost = found
            values[self._rows(indices)] = states
            self.done.update(indices)
            seconds += cost
        self._since = time.perf_counter()
        return seconds

    def add(self, index: int, values: Tensor) -> None:
        """Batch `index` is complete in `values`; write a part if the last one is some time ago."""
        self.done.add(index)
        self._pending.append(index)
        if time.perf_counter() - self._since >= PART_SECONDS:
            self.flush(values)

    def flush(self, values: Tensor) -> None:
        """Write what is pending as one part."""
        if not self._pending:
            return
        from safetensors.torch import save

        states = values[self._rows(self._pending)]  # [U, A, D] -> [m, A, D]
        now = time.perf_counter()
        metadata = {
            "plan": self.plan,
            "batches": json.dumps(self._pending),
            "seconds": str(now - self._since),
        }
        metadata["sha256"] = _digest(states, metadata)
        name = f"part-{self._pending[0]:06d}-{len(self._pending)}.safetensors"
        write_atomically(self.folder / name, save({"states": states}, metadata))
        self._pending, self._since = [], now

    def _rows(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([row for index in indices for row in self.batches[index]])

    def _read(self, path: Path) -> tuple[list[int], Tensor, float] | None:
        """Batches, `[m, A, D]` and seconds of one part; None where it cannot be trusted."""
        from safetensors import SafetensorError, safe_open

        path.open("rb").close()  # safetensors says of a file without permission that there is none
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                states = file.get_tensor("states")
        except SafetensorError:
            return None
        stated = metadata.pop("sha256", None)
        if metadata.get("plan") != self.plan or stated != _digest(states, metadata):
            return None
        return json.loads(metadata["batches"]), states, float(metadata["seconds"])


def _digest(states: Tensor, metadata: dict[str, str]) -> str:
    """SHA-256 of all that a part holds."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    found.update(states.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
