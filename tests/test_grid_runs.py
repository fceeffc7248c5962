"""Grids of real cells on this machine: side by side, two benches on one store, benches that are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from data_folders import BLINK
from forked import ended, fork

from benchmark.cli import main
from benchmark.results.record import RunRecord
from benchmark.results.store import iter_runs
from benchmark.train.checkpoint import Checkpoint

LIMIT = 300
"""Seconds until something counts as hung."""


def bench(folder: Path, results: Path, *more: str, seeds: str = "0", epochs: int = 1) -> list[str]:
    return [
        "bench", "--datasets", str(folder), "--llms", "random-tiny",
        "--methods", "id", "--seeds", seeds, "--epochs", str(epochs), "--results", str(results),
        "--set", *BLINK, *more,
    ]  # fmt: skip


def start(arguments: list[str], log: Path) -> int:
    """Begin the command in a copy of this process, with its messages in `log`: -> its number."""

    def work() -> None:
        null, file = os.open(os.devnull, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for own, given in enumerate((null, null, file)):
            os.dup2(given, own)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os._exit(main(arguments))

    return fork(work)


def records(results: Path) -> dict[int, RunRecord]:
    return {run.record.seed: run.record for run in iter_runs(results)}


def left_behind(results: Path) -> list[str]:
    return sorted(
        path.suffix for path in results.rglob("*") if path.suffix in (".claim", ".lock", ".checkpoint")
    )


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.usefixtures("in_process")
def test_two_benches_on_one_store_make_no_run_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, log = tmp_path / "results", tmp_path / "log"
    arguments = bench(folder, results, seeds="0,1")
    other = start(arguments, log)
    wait_for(lambda: list(results.rglob("*.claim")) or not alive(other))
    assert main(arguments) == 0
    assert ended(other) == 0, log.read_text()
    here, there = capsys.readouterr().err, log.read_text()
    assert sorted(records(results)) == [0, 1]
    for messages, begun in ((there, "0"), (here, "1")):
        assert re.findall(r"\[\d/2\] .* seed (\d) .* begins", messages) == [begun], (there, here)
    assert "another process works on it" in here
    assert ", by another process" in here and ", by another process" in there
    assert left_behind(results) == []
    assert not list(results.rglob("*.log"))


def children_of(process: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_bench_that_is_stopped_leaves_what_the_next_one_goes_on_from(folder: Path, tmp_path: Path) -> None:
    results, log = tmp_path / "results", tmp_path / "log"
    endless = [*bench(folder, results, epochs=100_000), "patience=0"]
    killed = start(endless, log)
    wait_for(lambda: list(results.rglob("last.pt")))
    children = children_of(killed)
    os.kill(killed, signal.SIGKILL)
    assert ended(killed) == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, children)))
    assert children
    (folder_left,) = results.rglob("*.checkpoint")
    saved = Checkpoint(folder_left).epochs_done()
    if record := records(results).get(0):  # on a busy machine it may be ended before it writes one
        assert record.status == "interrupted", record.error
        assert record.epochs_run > 0
        assert record.epochs_run - saved in (0, 1), "it may end while an epoch is being saved"

    stopped = start(endless, log)  # no lock of the killed one is in its way
    wait_for(lambda: any("going on after epoch" in path.read_text() for path in results.rglob("*.log")))
    children = children_of(stopped)
    (run_log,) = (path.read_text() for path in results.rglob("*.log"))
    assert int(re.findall(r"going on after epoch (\d+)", run_log)[0]) == saved > 0
    os.kill(stopped, signal.SIGTERM)
    assert ended(stopped) == 130
    assert not any(map(alive, children)), "they are waited for"
    assert records(results)[0].status == "interrupted"
    assert left_behind(results) == [".checkpoint"]
    assert "goes on; its log" in log.read_text()
    assert "adaptrec: interrupted; the same command goes on" in log.read_text()
