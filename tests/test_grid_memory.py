"""How many runs of a bench fit into host memory side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data_folders import write_folder

from benchmark.grid import child as child_module
from benchmark.grid import engine as engine_module
from benchmark.grid import local
from benchmark.grid.executor import Options
from benchmark.grid.memory import MARGIN, Held, MemoryPlan
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run

GIB = 2**30
MIB = 2**20


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ResolvedRun]:
    folder = str(write_folder(tmp_path_factory.mktemp("data") / "small"))

    def made(method: str = "id", seed: int = 0, protocol: str = "paper") -> ResolvedRun:
        return resolve_run(RunSpec(folder, "none", method, protocol, seed))

    return made


def test_the_only_run_always_fits(make: Callable[..., ResolvedRun]) -> None:
    plan = MemoryPlan()
    plan.learn(make(), 100 * GIB)
    assert plan.fits(make(), {}, 0.0)


def test_one_run_of_a_kind_is_measured_before_another_unknown_one_starts(
    make: Callable[..., ResolvedRun],
) -> None:
    plan, first = MemoryPlan(), make(seed=0)
    grows = {first: Held(GIB, GIB, measured=False)}
    assert not plan.fits(make(seed=1), grows, 100 * GIB)
    assert not plan.fits(make(protocol="fair"), grows, 100 * GIB)
    plan.learn(first, 2 * GIB)
    measured = {first: Held(2 * GIB, 2 * GIB, measured=True)}
    assert plan.fits(make(seed=1), measured, MARGIN * 2 * GIB + MARGIN * 2 * GIB - 2 * GIB)
    assert not plan.fits(make(seed=1), measured, MARGIN * 2 * GIB - 1)


def test_what_running_ones_will_still_take_is_not_free(make: Callable[..., ResolvedRun]) -> None:
    plan, first, second = MemoryPlan(), make(seed=0), make(seed=1)
    plan.learn(first, 4 * GIB)
    running = {first: Held(4 * GIB, 4 * GIB, measured=True), second: Held(GIB, GIB, measured=False)}
    need = MARGIN * 4 * GIB
    growth = (MARGIN - 1) * 4 * GIB + (need - GIB)
    assert plan.fits(make(seed=2), running, need + growth + 1)
    assert not plan.fits(make(seed=2), running, need + growth - 1)


def test_an_unknown_kind_counts_as_the_largest_known_one(make: Callable[..., ResolvedRun]) -> None:
    plan, first = MemoryPlan(), make()
    plan.learn(first, 3 * GIB)
    running = {first: Held(3 * GIB, 3 * GIB, measured=True)}
    beside = (MARGIN - 1) * 3 * GIB
    assert plan.fits(make(protocol="fair"), running, MARGIN * 3 * GIB + beside + 1)
    assert not plan.fits(make(protocol="fair"), running, MARGIN * 3 * GIB + beside - 1)


STATUS = {
    "epoch": 1, "epochs": 2, "loss": 1.0, "valid": 0.1, "valid_masked": 0.1, "best_epoch": 1,
    "train_seconds": 1.0, "eval_seconds": 1.0, "seconds_left": [0, 1],
}  # fmt: skip
HOLDS = """
import os, pathlib, sys, time
held = b"x" * {size}
log = open({log!r}, "a", buffering=1)
print("+", file=log)
time.sleep(0.6)  # it is measured four times a second
open(os.environ["ADAPTREC_STATUS"], "a").write({status!r} + "\\n")
end = time.monotonic() + {seconds}
while time.monotonic() < end and pathlib.Path({log!r}).read_text().count("+") < 2:
    time.sleep(0.02)
print("-", file=log)
sys.exit(1)
"""


@pytest.mark.parametrize(("free", "most", "seconds"), [(20 * GIB, 2, 60.0), (200 * MIB, 1, 0.6)])
def test_a_bench_starts_no_more_runs_than_fit(
    make: Callable[..., ResolvedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: float,
    most: int,
    seconds: float,
) -> None:
    """Where there is room, the first run waits for another one to come; else each waits a moment in vain."""
    log = tmp_path / "log"
    code = HOLDS.format(size=300 * MIB, log=str(log), status=json.dumps(STATUS), seconds=seconds)
    monkeypatch.setattr(engine_module, "POLL", 0.01)
    monkeypatch.setattr(child_module, "run_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(local, "available_memory", lambda: free)
    with local.LocalExecutor(Options(tmp_path, jobs=2), gpus=()) as executor:
        executor.run([make(seed=seed) for seed in range(3)])
    signs = log.read_text().split()
    assert signs[:1] == ["+"] and signs.count("+") == 3
    at_once = [signs[:end].count("+") - signs[:end].count("-") for end in range(len(signs) + 1)]
    assert max(at_once) == most
    printed = capsys.readouterr().err
    assert ("0.2 GiB of host memory are free" in printed) == (most == 1)
    assert printed.count("wait until runs beside them end") == (most == 1)
