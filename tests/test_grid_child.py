"""Children that lose their log, that a signal ends, or that end with a status: no training here."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_folders import write_folder

from benchmark.cli import main
from benchmark.grid import child as child_module
from benchmark.grid import engine as engine_module
from benchmark.grid.child import Child, OnLine
from benchmark.grid.engine import clear
from benchmark.grid.executor import Options
from benchmark.grid.local import LocalExecutor
from benchmark.process import launch
from benchmark.process.exit_status import BusyError, ExitCode
from benchmark.process.locks import held
from benchmark.report.tables import print_tables
from benchmark.results.record import RunRecord
from benchmark.results.store import as_stored, read_result
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run

LINES = 20_000
"""More than the 64 KiB that a pipe holds."""
TALKS = f"for n in range({LINES}): print('line', n)"


def wait(child: Child) -> int:
    end = time.monotonic() + 300
    while (status := child.ended()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return status


def child(code: str, log: Path | None = None, on_line: OnLine = lambda _: None) -> Child:
    return Child([sys.executable, "-c", code], log, on_line)


@pytest.mark.parametrize(
    ("log", "why"),
    [(".", "Is a directory"), ("/dev/full", "No space left on device"), ("a/b", "No such")],
)
def test_a_log_that_cannot_be_written_is_lost_and_nothing_else(tmp_path: Path, log: str, why: str) -> None:
    heard: list[str] = []
    talking = child(TALKS, tmp_path / log, heard.append)
    assert wait(talking) == 0
    assert len(heard) == LINES and talking.tail[-1] == f"line {LINES - 1}"
    assert why in talking.log.lost


def test_a_listener_that_fails_does_not_stop_the_child(tmp_path: Path) -> None:
    """Nor the log; who waits for the child learns of it."""

    def fail(line: str) -> None:
        raise ZeroDivisionError(line)

    talking = child(TALKS, tmp_path / "log", fail)
    talking.process.wait(300)
    talking._reader.join(300)
    assert (tmp_path / "log").read_text().count("\n") == LINES
    with pytest.raises(ZeroDivisionError, match="line 0"):
        talking.ended()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ResolvedRun:
    return resolve_run(RunSpec(str(write_folder(tmp_path_factory.mktemp("data") / "small")), "none", "id"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a run do as `code` has it."""
    monkeypatch.setattr(engine_module, "POLL", 0.01)
    monkeypatch.setattr(child_module, "MEASURE_SECONDS", 0.01)

    def code(text: str) -> None:
        monkeypatch.setattr(child_module, "run_command", lambda *_: [sys.executable, "-c", text])

    return code


def bench(run: ResolvedRun, results: Path) -> dict[ResolvedRun, RunRecord]:
    with LocalExecutor(Options(results), gpus=()) as executor:
        return executor.run([run])


MIB = 2**20
DIES = "import os, time; held = b'x' * {size}; time.sleep({seconds}); os.kill(os.getpid(), {signal:d})"


def test_a_run_that_the_system_killed_has_a_record_and_a_row(
    run: ResolvedRun, tmp_path: Path, runs: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    size = 200 * MIB
    runs(DIES.format(size=size, seconds=0.6, signal=signal.SIGKILL))
    record = bench(run, tmp_path)[run]
    path = run.record_path(tmp_path)
    assert record.status == "killed" and record == read_result(path).record
    assert record.error is not None
    assert record.error.startswith("signal 9 (SIGKILL) ended the process, as the system does when memory ")
    assert "GiB of host memory; the same command runs it again" in record.error
    assert size < (record.cost.peak_memory["run"].host or 0) < size + 100 * MIB
    assert re.search(r"id +killed +killed", print_tables([as_stored(record, tmp_path)]))
    assert "killed: signal 9 (SIGKILL) ended" in capsys.readouterr().err

    runs(DIES.format(size=1, seconds=0, signal=signal.SIGSEGV))
    path = run.record_path(tmp_path)
    path.with_suffix(".checkpoint").mkdir()
    record = bench(run, tmp_path)[run]  # is tried again
    assert record.error is not None and record.error.startswith("signal 11 (SIGSEGV) ended the process; ")
    assert record.error.endswith("the same command goes on from the last epoch")


def test_a_run_that_the_user_stopped_was_not_killed(
    run: ResolvedRun, tmp_path: Path, runs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it does not listen and is killed by the bench itself."""
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True)"
    runs(f"{deaf}; time.sleep(600)")
    monkeypatch.setattr("benchmark.grid.child.stop.__defaults__", (0.1,))

    def stop(_: LocalExecutor) -> list[Any]:
        if any(log.stat().st_size for log in tmp_path.rglob("*.log")):
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(LocalExecutor, "ended", stop)
    with pytest.raises(KeyboardInterrupt):
        bench(run, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_a_folder_in_place_of_the_log_does_no_harm(
    run: ResolvedRun, tmp_path: Path, runs: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.record_path(tmp_path)
    path.with_suffix(".log").mkdir(parents=True)
    runs(f"{TALKS}\nraise SystemExit(1)")
    assert bench(run, tmp_path) == {}
    output = capsys.readouterr().err
    lost = f"(its log {path.with_suffix('.log')} is lost: Is a directory)"
    assert f"its last line: line {LINES - 1} {lost}" in output
    clear(path)
    assert path.with_suffix(".log").is_dir()


def test_the_status_names_another_process_that_makes_the_run(
    run: ResolvedRun, tmp_path: Path, runs: Callable[[str], None]
) -> None:
    runs(f"raise SystemExit({BusyError.status})")
    with LocalExecutor(Options(tmp_path), gpus=()) as executor:
        task = engine_module.ClaimedRun(run, run.record_path(tmp_path), None, None)  # type: ignore[arg-type]
        executor.start(task)
        while not (ended := executor.ended()):
            time.sleep(0.01)
    ((_, ending),) = ended
    assert ending.status == ExitCode.BUSY


def test_a_run_that_is_busy_ends_with_that_status(run: ResolvedRun, tmp_path: Path) -> None:
    path = run.record_path(tmp_path)
    path.parent.mkdir(parents=True)
    with held(path.with_suffix(".lock")):
        words = ["run", "--dataset", run.spec.dataset, "--method", "id", "--results", str(tmp_path)]
        assert main(words) == 75


@pytest.mark.parametrize("status", [3, BusyError.status, -signal.SIGKILL])
def test_several_processes_end_as_the_first_of_them_that_fails(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun alone ends with 1 whatever happened."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fails(arguments: list[str]) -> None:
        assert arguments == ["--nproc_per_node", "2"]
        raise ChildFailedError("x", {1: ProcessFailure(1, 7, status, "no file")})

    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(launch.run, "main", fails)
    monkeypatch.setattr("os.kill", lambda *call: sent.append(call))
    ended = launch.main(["--nproc_per_node", "2"])
    assert (ended, sent) == ((status, []) if status > 0 else (0, [(os.getpid(), -status)]))
