"""Further processes for a test: copies of this one, which have nothing to import."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist

LIMIT = 600
"""Seconds until a copy counts as hung."""


def fork(work: Callable[[], object]) -> int:
    """Begin `work` in a copy of this process: -> its number. torch has one thread, see `conftest.py`."""
    if torch.cuda.is_available():
        pytest.skip("a copy of a process that uses a GPU cannot use it")
    assert torch.get_num_threads() == 1
    process = os.fork()
    if process:
        return process
    signal.alarm(LIMIT)
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def fork_pair(work: Callable[[], object], store: Path, machines: int = 1) -> list[int]:
    """Begin `work` in two copies that train together, on one machine or as if on two: -> their numbers.

    Their environment is what a launcher makes it; the file `store`, new, stands for its meeting place.
    """
    from accelerate.state import AcceleratorState

    def begin(rank: int) -> None:
        local = {"LOCAL_RANK": rank % (2 // machines), "LOCAL_WORLD_SIZE": 2 // machines}
        found = {"RANK": rank, "WORLD_SIZE": 2, **local}
        os.environ.update({name: str(value) for name, value in found.items()}, MASTER_ADDR="127.0.0.1")
        AcceleratorState._reset_state(reset_partial_state=True)
        dist.init_process_group("gloo", store=dist.FileStore(str(store), 2), rank=rank, world_size=2)
        work()
        dist.destroy_process_group()

    return [fork(lambda rank=rank: begin(rank)) for rank in (0, 1)]  # type: ignore[misc]


def ended(process: int) -> int:
    """Wait for a copy: -> its exit status, of a signal the negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die() -> NoReturn:
    """What the system does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
