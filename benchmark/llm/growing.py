"""A safetensors file that is written from front to back, a batch at a time, and that outlives a kill.

Its rows need not fit into memory, and it is on the disk once: what is finished stays where it will be read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from benchmark.files import DamagedError, read_checked, write_checked
from benchmark.llm import parts

HASHED = 2**22
"""Bytes that are read at a time."""
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
log = logging.getLogger(__name__)


class Growing:
    """The tensors `centre` fp32 and `states` of one file, added in that order.

    Beside the file lies a journal: how much of it is finished, and that much's SHA-256. A file that was left
    behind is continued from there if it is of the same plan and the digest is right.

    Args:
        folder: where file and journal lie; made here.
        plan: digest of everything that the rows depend on.
        centre: shape of `centre`.
        states: shape of `states`.
        dtype: of `states`.
    """

    def __init__(
        self, folder: Path, plan: str, centre: tuple[int, ...], states: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.path, self._journal, self._plan = folder / "states.safetensors", folder / "journal.json", plan
        self.batches = 0
        """Finished batches."""
        self.seconds = 0.0
        """What these cost in earlier tries."""
        header = _header(centre, states, dtype)
        self._centre, self._skip = centre, len(header)
        self._sha = hashlib.sha256()
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("r+b" if self.path.is_file() else "w+b")
        if not self._continue():
            self.batches, self.seconds, self._sha = 0, 0.0, hashlib.sha256()
            self._journal.unlink(missing_ok=True)
            self._file.seek(0)
            self._file.truncate()
            self._write(header)
        self._since = time.perf_counter()

    def __enter__(self) -> Growing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def centre(self) -> Tensor:
        """The centre of a file that is continued."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(self._skip)
            data = bytearray(file.read(4 * torch.Size(self._centre).numel()))
        return torch.frombuffer(data, dtype=torch.float32).view(self._centre)

    def add(self, values: Tensor) -> None:
        """The next rows of `states`, or the whole `centre`, on the CPU."""
        self._write(values.contiguous().view(torch.uint8).numpy().data.cast("B"))

    def finished(self) -> None:
        """One more batch is in; note it if the last note is some time ago."""
        self.batches += 1
        if time.perf_counter() - self._since >= parts.PART_SECONDS:
            self.note()

    def note(self) -> None:
        """Write what is finished into the journal."""
        self._file.flush()
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        values = {"batches": self.batches, "bytes": self._file.tell(), "seconds": self.seconds}
        write_checked(self._journal, {"plan": self._plan, **values, "sha256": self._sha.hexdigest()})

    def close(self) -> str:
        """All rows are in: -> the SHA-256 of the file."""
        self._file.close()
        return self._sha.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha.update(data)

    def _continue(self) -> bool:
        """Go to the end of what is finished, if there is anything, and it is right."""
        try:
            found = read_checked(self._journal, ("plan", "batches", "bytes", "seconds", "sha256"))
            if found["plan"] == self._plan and self._hash(found["bytes"]) == found["sha256"]:
                self.batches, self.seconds = found["batches"], found["seconds"]
                self._file.seek(found["bytes"])
                self._file.truncate()
                return True
        except FileNotFoundError:
            return False  # killed before the first note
        except DamagedError:
            pass
        log.warning("%s is damaged or of another plan: its texts are encoded again", self.path)
        return False

    def _hash(self, size: int) -> str:
        """Digest of the first `size` bytes."""
        while size > 0 and (data := self._file.read(min(size, HASHED))):
            self._sha.update(data)
            size -= len(data)
        return self._sha.hexdigest()


def _header(centre: tuple[int, ...], states: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """The head of a safetensors file: the length of a JSON table, and the table, padded with blanks to eight.

    See https://huggingface.co/docs/safetensors; its library can only write tensors that are all there.
    """
    first = 4 * torch.Size(centre).numel()
    last = first + dtype.itemsize * torch.Size(states).numel()
    table = {
        "centre": {"dtype": NAMES[torch.float32], "shape": centre, "data_offsets": [0, first]},
        "states": {"dtype": NAMES[dtype], "shape": states, "data_offsets": [first, last]},
    }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
