"""Cells as jobs of Slurm: what is asked of it, and the same records, also where a job is preempted."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from data_folders import BLINK

from benchmark.grid import slurm as slurm_module
from benchmark.grid.bench import bench
from benchmark.grid.executor import Options, make_executor
from benchmark.grid.plan import expand, make_plan
from benchmark.grid.slurm import SlurmExecutor, parameters
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import iter_runs
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from methods.errors import UserError

pytest.importorskip("submitit", reason="wants submitit: pip install 'adaptrec[slurm]'")
SMALL = (*BLINK, "epochs=1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_module, "LOOK_SECONDS", 0.02)


def cell(folder: Path, *more: str, seed: int = 0) -> ResolvedRun:
    return resolve_run(RunSpec(str(folder), "none", "id", "fair", seed, (*BLINK, *(more or SMALL[-1:]))))


def quality(record: RunRecord) -> Any:
    return record.status, record.metrics, record.initial, [row.valid for row in record.curve]


@pytest.mark.usefixtures("in_process")  # submitit's cluster `debug` executes jobs in the process that asks
def test_a_grid_has_the_records_of_a_local_one(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(expand([str(folder)], ["random-tiny"], ["id", "linear"], ["fair"], [0], SMALL))
    found = {}
    for name in ("local", "slurm"):
        store = tmp_path / name
        if name == "local":
            executor = make_executor(name, Options(store))
        else:
            executor = SlurmExecutor(Options(store, slurm=("partition=gpu",)), "debug")
        assert bench(plan, executor, store) == 0
        found[name] = {str(run.path.relative_to(store)): quality(run.record) for run in iter_runs(store)}
        assert {path.suffix for path in store.rglob("*") if path.is_file()} == {".json", ".parquet"}
    assert found["slurm"] == found["local"] and len(found["local"]) == 2


def test_a_preempted_job_stops_its_run_and_begins_again(folder: Path, tmp_path: Path) -> None:
    """By submitit's executor of one machine, whose jobs are processes; then the bench is stopped."""
    one, seen = cell(folder, "patience=0", "epochs=100000"), list[int]()

    def preempt() -> None:
        try:
            wait_for(lambda: list(tmp_path.rglob("last.pt")))
            (job,) = executor.jobs.values()
            (first,) = psutil.Process(int(job.job_id)).children()
            first.send_signal(signal.SIGUSR2)  # as Slurm does before it takes a node away
            wait_for(one.record_path(tmp_path).exists)
            wait_for(lambda: {first.pid}.isdisjoint(again := pids_below(job)) and again)
            seen.append(int(job.job_id))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    preemption = Thread(target=preempt)
    with pytest.raises(KeyboardInterrupt), SlurmExecutor(Options(tmp_path), "local") as executor:
        preemption.start()
        executor.run([one])
    preemption.join()
    assert seen and (not psutil.pid_exists(seen[0]) or psutil.Process(seen[0]).status() == "zombie")
    left = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".json", ".log", ".pt"}, "nothing of Slurm, and no lock"
    record = read_record(one.record_path(tmp_path))
    assert record.status == "interrupted" and record.epochs_run > 0


def pids_below(job: Any) -> set[int]:
    return {process.pid for process in psutil.Process(int(job.job_id)).children()}


def wait_for(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


SBATCH = """#!/bin/sh
cp "$1" {folder}/script
{answer}
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
echo '77_0|{state}|n1'
echo '77_1|{state}|n1'
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes Slurm's commands, which note what they are asked; -> the folder of the notes."""
    folder = tmp_path / "slurm"
    folder.mkdir()

    def make(state: str = "PENDING", answer: str = "echo Submitted batch job 77") -> Path:
        commands = {
            "sbatch": SBATCH.format(folder=folder, answer=answer), "sacct": SACCT.format(state=state),
            "scancel": f"#!/bin/sh\necho $* >> {folder}/cancelled\n", "srun": "#!/bin/sh\n",
        }  # fmt: skip
        for name, text in commands.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return make


def test_what_is_asked_of_slurm_and_taken_back(
    slurm: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    notes = slurm()
    asked = ("partition=gpu", "gpus=2", "time=1-02:00:30", "mem=32G", "array=4", "account=us")
    executor = make_executor("slurm", Options(tmp_path / "results", processes=2, cpus=8, slurm=asked))
    Thread(target=lambda: end_soon(notes)).start()
    with pytest.raises(KeyboardInterrupt), executor:
        executor.run([cell(folder), cell(folder, seed=1)])
    script = (notes / "script").read_text()
    found = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", script))
    wanted = {
        "partition": "gpu", "gpus-per-node": "2", "time": "1561", "mem": "32GB", "cpus-per-task": "8",
        "account": "us", "array": "0-1%2", "job-name": "adaptrec",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert "export PYTHONSAFEPATH=1" in script
    assert (notes / "cancelled").read_text().split() == ["77_0", "77_1"]
    assert not list((tmp_path / "results").rglob("*.claim"))


def end_soon(notes: Path) -> None:
    wait_for((notes / "script").exists)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("state", "answer", "complaint"),
    [
        ("OUT_OF_MEMORY", "echo Submitted batch job 77", "job 77 left no result: its state is OUT_OF_MEMORY"),
        ("PENDING", "echo sbatch: error: invalid partition >&2; exit 1", "invalid partition"),
    ],
)
def test_a_job_that_fails_is_one_line(
    slurm: Callable[..., Path],
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    state: str,
    answer: str,
    complaint: str,
) -> None:
    notes = slurm(state, answer)
    (notes / "sacct").write_text((notes / "sacct").read_text().replace("77_0", "77"))
    try:
        with make_executor("slurm", Options(tmp_path / "results")) as executor:
            assert executor.run([cell(folder)]) == {}
        said = capfd.readouterr().err
    except UserError as error:
        said = str(error)
    assert complaint in said


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (("partitions=gpu",), "unknown key of --slurm: 'partitions'. Did you mean 'partition'"),
        (("time=soon",), "--slurm time must be minutes, or .* got 'soon'"),
        (("mem=32",), "--slurm mem must be a size such as 32G, got '32'"),
        (("gpus=0",), "--slurm gpus must be a whole number above 0"),
        (("gpus=1",), "--processes 2 needs a GPU for each"),
    ],
)
def test_a_bad_request_is_one_line(tmp_path: Path, pairs: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parameters(Options(tmp_path, processes=2, slurm=pairs))


def test_no_slurm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="must be called where Slurm's commands are"):
        make_executor("slurm", Options(tmp_path / "results")).__enter__()
    assert not (tmp_path / "results").exists()
