"""Fixtures that several test files use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# before torch loads: tests run side by side, sums of floats depend on how many threads share them, and a copy
# of a process has one thread
os.environ["OMP_NUM_THREADS"] = "1"
gc.disable()  # until all tests are collected: what modules consist of is not looked through again and again

from data_folders import TEN, TWELVE, write_folder
from in_process import children_in_process

from benchmark.data import prepare as prepare_module
from benchmark.measure import usable_cores
from benchmark.process.progress import print_steps

WORKER = 2 * 2**30
"""Bytes that a process of tests takes at most, with the processes that it starts."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `--numprocesses auto` is, as far as there is memory for them: one more than cores,
    since tests also wait for processes that they start."""
    return max(1, min(usable_cores() + 1, psutil.virtual_memory().available // WORKER))


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make, and less often: some twentieth of the processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; tests that need it are skipped where it is not set."""
    folder = os.environ.get("ADAPTREC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set ADAPTREC_DATA to the folder that holds scientific/, beauty/ and instruments/")
    return Path(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset small enough to train on in a blink."""
    return write_folder(tmp_path_factory.mktemp("data") / "small", TWELVE, TEN)


@pytest.fixture
def in_process() -> Iterator[None]:
    """A grid runs its cells in this process, one after another."""
    with children_in_process():
        yield


@pytest.fixture(scope="session", autouse=True)
def catalogues_are_small() -> Iterator[None]:
    """Catalogues of tests are small on purpose: no warning of it, which tests of one line would meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "LARGE_CHANCE", float("inf"))
        yield


@pytest.fixture(scope="session", autouse=True)
def steps_are_not_slow() -> Iterator[None]:
    """A step that waits for a busy machine prints nothing, which tests of one line would meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(print_steps.__wrapped__, "__defaults__", (3600.0,))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this test session's own, for subprocesses too: tests never touch the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTREC_CACHE", str(folder))
        patch.setenv("ADAPTREC_PINS", str(folder / "llm-pins.json"))
        yield folder
