"""A safetensors file that is written from front to back, a batch at a time, and that survives a kill.

Its rows need not fit into memory. Beside it lies a journal: how much of the file is finished, and the SHA-256
of that much.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from benchmark.files import DamagedError, read_checked, write_checked
from benchmark.progress import Progress

NOTE_SECONDS = 15.0
"""Seconds of work after which the journal is written again: what a kill may cost."""
READ_BYTES = 2**22
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and type of each tensor of a file, in the order in which they are added."""
log = logging.getLogger(__name__)


class ResumableFile:
    """The tensors `spec` of one file, added in that order.

    A file that a killed process left is continued if its journal is of the same plan and the digest is right;
    else it is written anew.

    Args:
        folder: where file and journal lie; made here.
        plan: digest of everything that the tensors depend on.
        spec: the tensors.
    """

    def __init__(self, folder: Path, plan: str, spec: Spec) -> None:
        self.path, self._journal, self._plan = folder / "states.safetensors", folder / "journal.json", plan
        self.batches = 0
        """Finished batches."""
        self.seconds = 0.0
        """What these cost in earlier tries."""
        header = _header(spec)
        self._spec, self._skip = spec, len(header)
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

    def __enter__(self) -> ResumableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def first_tensor(self) -> Tensor:
        """The first tensor of a file that is continued."""
        shape, dtype = next(iter(self._spec.values()))
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(self._skip)
            data = bytearray(file.read(_size(shape, dtype)))
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def add(self, values: Tensor) -> None:
        """Append rows of the current tensor, or a whole tensor, from the CPU."""
        self._write(values.contiguous().view(torch.uint8).numpy().data.cast("B"))

    def finish_batch(self) -> None:
        """One more batch is in; write the journal if the last one is some time ago."""
        self.batches += 1
        if time.perf_counter() - self._since >= NOTE_SECONDS:
            self.write_journal()

    def write_journal(self) -> None:
        """Note what is finished."""
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
            journal = read_checked(self._journal, ("plan", "batches", "bytes", "seconds", "sha256"))
            if journal["plan"] == self._plan and self._hash(journal["bytes"]) == journal["sha256"]:
                self.batches, self.seconds = journal["batches"], journal["seconds"]
                self._file.seek(journal["bytes"])
                self._file.truncate()
                return True
        except FileNotFoundError:
            return False  # killed before the first journal
        except DamagedError:
            pass
        log.warning("%s is damaged or of another plan: its texts are encoded again", self.path)
        return False

    def _hash(self, size: int) -> str:
        """Digest of the first `size` bytes."""
        while size > 0 and (data := self._file.read(min(size, READ_BYTES))):
            self._sha.update(data)
            size -= len(data)
        return self._sha.hexdigest()


def add_batches(
    file: ResumableFile,
    batches: Sequence[Sequence[int]],
    title: str,
    load: Callable[[], Callable[[Sequence[int]], Iterable[Tensor]]],
) -> None:
    """Append the batches of texts that `file` does not have.

    `load` loads the model, and is called only if there are any: -> a function from the texts of a batch to
    the tensors to append.
    """
    texts, done = sum(map(len, batches)), sum(map(len, batches[: file.batches]))
    if done:
        log.warning("resuming: %d of %d texts were encoded before", done, texts)
    if done == texts:
        return
    encode = load()
    with Progress(title, texts, done) as progress, torch.inference_mode():
        for batch in batches[file.batches :]:
            for values in encode(batch):
                file.add(values)
            file.finish_batch()
            progress.advance(len(batch))


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return dtype.itemsize * torch.Size(shape).numel()


def _header(spec: Spec) -> bytes:
    """The head of a safetensors file: the length of a JSON table, and the table, padded with blanks to eight.

    See https://huggingface.co/docs/safetensors; its library can only write tensors that are all there.
    """
    table, begin = {}, 0
    for name, (shape, dtype) in spec.items():
        end = begin + _size(shape, dtype)
        table[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
