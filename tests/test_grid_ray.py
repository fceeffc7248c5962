"""Cells on a Ray cluster of this machine: the same records, also where a node is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from data_folders import write_folder

from benchmark.grid import ray as ray_module
from benchmark.grid import space
from benchmark.grid.bench import bench
from benchmark.grid.executor import Options, make_executor
from benchmark.grid.plan import expand, make_plan
from benchmark.grid.ray import RayExecutor
from benchmark.results.record import RunRecord, ranks_path, read_record
from benchmark.results.store import iter_runs
from benchmark.results.tuning import Tuning
from benchmark.run.run import run
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from methods.errors import UserError

ray = pytest.importorskip("ray", reason="wants Ray: pip install 'adaptrec[ray]'")
ITEMS = "abcdefghijklmnopqrst"
USERS = {f"u{n}": " ".join(ITEMS[(n * 3 + step) % 20] for step in range(6)) for n in range(16)}
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
"""A lost node is missed after seconds, not after a quarter of a minute."""
NO_TIMES = {"train_seconds": 0.0, "train_cpu_seconds": 0.0}
SMALL = ("precision=no", "width=8", "sasrec_inner=8", "batch_size=16", "learning_rate=0.01")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("data") / "small", USERS, {item: f"thing {item}" for item in ITEMS}
    )


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of each node its own, as on machines of their own."""
    return [tmp_path_factory.mktemp(f"node{number}") for number in range(2)]


@pytest.fixture(scope="module")
def cluster(caches: list[Path]) -> Iterator[Any]:
    """A head that takes no cells, and two nodes that take one each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    with pytest.MonkeyPatch.context() as patch:
        # by itself it gives cells the lowest priority: a busy machine would not end them in time
        patch.setenv("RAY_worker_niceness", "0")
        # no hooks of its own: a node is added outside the main thread, where none can be set
        made = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        try:
            for cache in caches:
                made.add_node(num_cpus=1, env_vars={"ADAPTREC_CACHE": str(cache)})
            ray.init(made.address, log_to_driver=False, logging_level="error")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def cell(folder: Path, method: str, *more: str, seed: int = 0) -> ResolvedRun:
    return resolve_run(RunSpec(str(folder), "random-tiny", method, "paper", seed, (*SMALL, *more)))


def quality(record: RunRecord) -> Any:
    return record.status, record.metrics, record.initial, [row.valid for row in record.curve]


def test_a_node_that_does_not_see_the_store_returns_the_files_of_a_run(
    cluster: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, store = cell(folder, "id", "epochs=1"), tmp_path / "own"
    expected = quality(run(asked.spec, tmp_path / "alone")[1])
    monkeypatch.setattr(RayExecutor, "mark_store", lambda self: None)
    with make_executor("ray", Options(store)) as executor:
        made = executor.run([asked])
    assert quality(made[asked]) == expected
    assert ranks_path(asked.record_path(store)).exists()
    assert {path.suffix for path in store.rglob("*") if path.is_file()} == {".json", ".parquet"}


@pytest.mark.usefixtures("in_process")  # the runs on this machine; those of the cluster are processes
def test_a_search_on_a_cluster_gives_the_records_of_a_local_one(
    cluster: Any, caches: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows side by side; the second trial of each follows from the result of the first."""
    monkeypatch.setattr(space, "STARTUP", 1)
    sets = ("precision=no", "sasrec_inner=8", "epochs=1")
    specs = expand([str(folder)], ["random-tiny"], ["id", "tmlp"], ["tuned"], [0], sets)
    plan = make_plan(specs, trials=2)
    for name in ("local", "ray"):
        with make_executor(name, Options(tmp_path / name)) as executor:
            assert bench(plan, executor, tmp_path / name) == 0
    assert all(any(cache.iterdir()) for cache in caches), "each node took runs"
    local, remote = (
        {
            str(run.path.relative_to(tmp_path / name)): searched(run.record)
            for run in iter_runs(tmp_path / name)
        }
        for name in ("local", "ray")
    )
    assert remote == local and len(local) == 2 * 2
    assert sorted(len(tuning.trials) for *_, tuning in local.values() if tuning) == [2, 2]


def searched(record: RunRecord) -> tuple[Any, Tuning | None]:
    """What a search compares and writes; times aside."""
    tuning = record.tuning
    if tuning:
        trials = [trial.model_copy(update=NO_TIMES) for trial in tuning.trials]
        tuning = tuning.model_copy(update={**NO_TIMES, "trials": trials})
    return quality(record), tuning


def test_a_run_whose_node_is_lost_continues_elsewhere_until_it_is_stopped(
    cluster: Any, folder: Path, tmp_path: Path
) -> None:
    one = cell(folder, "id", "patience=0", "epochs=100000")
    seen: list[str] = []

    def lose() -> None:
        try:
            wait_for(lambda: list(tmp_path.rglob("last.pt")))
            (node,) = (node for node in cluster.worker_nodes if cells_of(node))
            cluster.remove_node(node, allow_graceful=False)
            wait_for(lambda: any("going on after epoch" in log for log in logs(tmp_path)))
            seen.append("resumed")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    killer = Thread(target=lose)
    with pytest.raises(KeyboardInterrupt), make_executor("ray", Options(tmp_path)) as executor:
        killer.start()
        executor.run([one])
    killer.join()
    assert seen == ["resumed"]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert {Path(path).suffix for path in left} == {".json", ".log", ".pt"}, (left, logs(tmp_path))
    record = read_record(one.record_path(tmp_path))
    assert record.status == "interrupted" and record.epochs_run > 0


def cells_of(node: Any) -> int:
    """How many processes of cells a node runs, below that of its raylet."""
    (raylet,), found = node.all_processes["raylet"], 0
    for one in psutil.Process(raylet.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += "benchmark" in one.cmdline()
    return found


def wait_for(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def logs(results: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return [path.read_text() for path in results.rglob("*.log")]
    return []


def test_more_than_any_node_has_is_one_line(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no node of the Ray cluster has the 5 CPUs of a run"):
        make_executor("ray", Options(tmp_path, processes=5)).__enter__()
    assert not list(tmp_path.iterdir())


def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 10.0.0.1:6379: nobody there"):
        RayExecutor(Options(tmp_path)).__enter__()
    assert ray_module.RETRIES > 0
