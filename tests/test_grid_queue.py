"""Which cell is next, who does it, and that nothing is left behind: no training here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from data_folders import write_folder
from report_records import write_at

from benchmark.grid import engine as engine_module
from benchmark.grid.child import Child, Exit, stop
from benchmark.grid.engine import ClaimedRun, Engine, claim, clear
from benchmark.grid.executor import Options, make_executor
from benchmark.grid.local import share_of_machine, slots
from benchmark.process import lifeline
from benchmark.process.exit_status import ExitCode
from benchmark.process.locks import Lock, held
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from methods.errors import UserError

Write = Callable[[ClaimedRun], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "POLL", 0.001)
    monkeypatch.setattr(engine_module, "RETRY", 0.01)


def runs_of(folder: Path, count: int) -> list[ResolvedRun]:
    return [resolve_run(RunSpec(str(folder), "none", "id", seed=seed)) for seed in range(count)]


class Fake(Engine):
    """Cells end as `write` has it, in the order in which they began, one a look."""

    def __init__(self, options: Options, write: Write, busy: Sequence[ResolvedRun] = ()) -> None:
        super().__init__(options)
        self.begun: list[ResolvedRun] = []
        self.most = 0
        self._write, self._busy, self._running = write, list(busy), list[ClaimedRun]()

    def prepare(self, runs: Sequence[ResolvedRun]) -> None:
        self.prepared = list(runs)

    def room(self) -> int:
        return self.options.jobs or 1

    def start(self, task: ClaimedRun) -> None:
        self.begun.append(task.run)
        self._running.append(task)
        self.most = max(self.most, len(self._running))

    def ended(self) -> list[tuple[ClaimedRun, Exit]]:
        if not self._running:
            return []
        task = self._running.pop(0)
        if task.run in self._busy:
            self._busy.remove(task.run)
            return [(task, Exit(ExitCode.BUSY))]
        self._write(task)
        return [(task, Exit(ExitCode.OK, ["a last word"]))]

    def stop(self) -> None:
        self._running.clear()


def ending(status: str = "ok") -> Write:
    def write(task: ClaimedRun) -> None:
        error = None if status == "ok" else "a fault"
        write_at(task.path, status=status, error=error)

    return write


def left_behind(results: Path) -> list[str]:
    return [path.name for path in results.rglob("*") if path.suffix in (".claim", ".lock", ".log")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_made_once(folder: Path, tmp_path: Path, jobs: int) -> None:
    asked = runs_of(folder, 5)
    engine = Fake(Options(tmp_path, jobs=jobs), ending())
    found = engine.run([*asked, asked[0]])
    assert list(found) == asked == engine.begun
    assert [record.seed for record in found.values()] == [0, 1, 2, 3, 4]
    assert engine.most == jobs
    assert len(engine.prepared) == 1, "one configuration, whatever the seeds"
    asked[0].record_path(tmp_path).with_suffix(".log").touch()  # by a bench that was killed
    assert engine.run(asked) == found
    assert engine.begun == asked, "finished cells are returned"
    assert left_behind(tmp_path) == []
    again = Fake(Options(tmp_path, fresh=True), ending())
    again.run(asked[:2])
    assert again.begun == asked[:2], "--fresh runs them anew"


def test_failures_are_records_too_and_are_tried_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = runs_of(folder, 2)
    found = Fake(Options(tmp_path), ending("failed")).run(asked)
    assert [found[cell].status for cell in asked] == ["failed", "failed"]
    assert "[1/2]" in (errors := capsys.readouterr().err) and "failed: a fault" in errors
    engine = Fake(Options(tmp_path), ending("oom"))
    assert [record.status for record in engine.run(asked).values()] == ["oom", "oom"]
    assert engine.begun == asked


def test_a_process_without_a_record_is_reported_and_absent(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = runs_of(folder, 1)
    ending("failed")(ClaimedRun(cell, cell.record_path(tmp_path), None, None))  # type: ignore[arg-type]
    assert Fake(Options(tmp_path), lambda _: None).run([cell]) == {}, (
        "the old record is not taken for a new one"
    )
    assert "ended without a record; its last line: a last word" in capsys.readouterr().err


def test_runs_of_the_same_configuration_are_made_once(folder: Path, tmp_path: Path) -> None:
    plain = resolve_run(RunSpec(str(folder), "none", "id"))
    same = ("batch_size=256",)  # what the protocol has anyway
    spelt = resolve_run(RunSpec(str(folder), "none", "id", overrides=same))
    for jobs in (1, 2):
        engine = Fake(Options(tmp_path / str(jobs), jobs=jobs), ending())
        found = engine.run([plain, spelt])
        assert engine.begun == [plain] and found[plain] == found[spelt]


def test_a_run_of_another_bench_comes_last_and_its_record_is_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = runs_of(folder, 3)
    path = asked[0].record_path(tmp_path)
    other = claim(path)
    assert other is not None

    def write(task: ClaimedRun) -> None:
        ending()(task)
        if task.run == asked[2]:  # by then the other bench is done, and failed
            write_at(path, status="failed", error="theirs")
            other.remove()

    engine = Fake(Options(tmp_path), write)
    found = engine.run(asked)
    assert engine.begun == asked[1:]
    assert list(found) == asked
    assert found[asked[0]].error == "theirs", "is not tried again by the same command"
    output = capsys.readouterr().err
    assert output.count("another process works on it") == 1
    assert left_behind(tmp_path) == []


def test_a_run_of_another_bench_that_was_killed_is_made(folder: Path, tmp_path: Path) -> None:
    asked = runs_of(folder, 2)
    other = claim(asked[0].record_path(tmp_path))
    assert other is not None

    def write(task: ClaimedRun) -> None:
        ending()(task)
        other.release()  # as the system does: the file stays

    engine = Fake(Options(tmp_path), write)
    assert len(engine.run(asked)) == 2
    assert engine.begun == [asked[1], asked[0]]
    assert left_behind(tmp_path) == []


def test_a_run_started_by_hand_is_waited_for(folder: Path, tmp_path: Path) -> None:
    asked = runs_of(folder, 2)
    path = asked[0].record_path(tmp_path)
    assert claim(path) is not None
    with held(path.with_suffix(".lock")):
        engine = Fake(Options(tmp_path), ending(), busy=[asked[1]])
        engine_cells = engine.run(asked[1:])
    assert list(engine_cells) == asked[1:]
    assert engine.begun == [asked[1], asked[1]], "told that it is busy, then free"


def test_what_is_locked_is_not_claimed_and_what_is_claimed_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x-s0.json"
    first = claim(path)
    assert first is not None and claim(path) is None
    first.remove()
    with held(path.with_suffix(".lock")):
        assert claim(path) is None
    again = claim(path)
    assert again is not None
    again.remove()
    assert not path.with_suffix(".claim").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):  # the command line says it in one line
        claim(tmp_path / "file" / "x-s0.json")


def test_a_run_that_another_bench_interrupted_is_made(folder: Path, tmp_path: Path) -> None:
    asked = runs_of(folder, 2)
    path = asked[0].record_path(tmp_path)
    other = claim(path)
    assert other is not None

    def write(task: ClaimedRun) -> None:
        ending()(task)
        if task.run == asked[1]:
            write_at(path, status="interrupted", error="theirs")
            other.remove()

    engine = Fake(Options(tmp_path), write)
    assert engine.run(asked)[asked[0]].status == "ok"
    assert engine.begun == [asked[1], asked[0]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_and_frees_the_claims(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    engine = Fake(Options(tmp_path), lambda _: os.kill(os.getpid(), number))
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), engine:
            engine.run(runs_of(folder, 2))
    finally:
        signal.signal(signal.SIGINT, ours)
    assert left_behind(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


GPUS = ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("processes", "jobs", "expected"),
    [(1, 1, [("0",)]), (1, 3, [("0",), ("1",), ("2",)]), (2, 2, [("0", "1"), ("2", "3")])],
)
def test_no_two_runs_share_a_gpu(processes: int, jobs: int, expected: list[tuple[str, ...]]) -> None:
    assert slots(GPUS, processes, jobs) == expected
    assert share_of_machine(expected[-1], jobs, processes)["CUDA_VISIBLE_DEVICES"] == ",".join(expected[-1])


@pytest.mark.parametrize(
    ("processes", "jobs", "named"),
    [
        (6, 1, "--processes 6: this machine has 5 GPUs"),
        (2, 3, "needs 6 GPUs"),
        (1, 6, "give --jobs 5 at most"),
    ],
)
def test_too_few_gpus_are_one_line(processes: int, jobs: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        slots(GPUS, processes, jobs)


def test_on_a_cpu_runs_divide_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots([], processes=2, jobs=3) == [(), (), ()]
    monkeypatch.setattr("benchmark.grid.local.usable_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share_of_machine((), 1, 2) == {}
    assert share_of_machine((), 2, 2) == {"OMP_NUM_THREADS": "4"}
    assert share_of_machine((), 32, 1) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert share_of_machine((), 2, 2) == {}


@pytest.mark.parametrize(("name", "value"), [("processes", 0), ("jobs", 0), ("cpus", -1)])
def test_options_that_cannot_be_are_one_line(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{name} must be 1 or more, got {value}"):
        Options(tmp_path, **{name: value})


def test_an_unknown_executor_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'lokal'. Did you mean 'local'\? Allowed: local, ray"):
        make_executor("lokal", Options(tmp_path))


def test_without_ray_one_line_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'adaptrec\[ray\]'"):
        make_executor("ray", Options(tmp_path))


SLEEPER = """
import os, signal, sys, time
from benchmark.process import lifeline
lifeline.GRACE = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
lifeline.hold()
print("ready", os.getpid(), flush=True)
try:
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if len(sys.argv) < 3:
                raise
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("interrupted")
"""


def wait_for(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def started() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: str, **options: object) -> Child:
        children.append(Child([sys.executable, "-c", SLEEPER, *arguments], **options))  # type: ignore[arg-type]
        wait_for(lambda: children[-1].tail)
        return children[-1]

    yield start
    for child in children:
        child.kill()


def test_a_child_that_is_stopped_is_interrupted(started: Callable[..., Child], tmp_path: Path) -> None:
    heard: list[str] = []
    child = started(str(tmp_path / "out"), log=tmp_path / "log", on_line=heard.append)
    assert child.ended() is None
    stop([child])
    assert child.ended() == 0
    assert (tmp_path / "out").read_text() == "interrupted"
    assert heard == list(child.tail) == [f"ready {child.process.pid}"]
    assert (tmp_path / "log").read_text() == heard[0] + "\n"


def test_a_child_that_does_not_listen_is_killed(started: Callable[..., Child], tmp_path: Path) -> None:
    child = started(str(tmp_path / "out"), "9")
    stop([child], grace=0.2)
    assert child.ended() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("busy", [False, True])
def test_files_that_a_killed_process_left_next_to_a_finished_record_are_removed(
    folder: Path, tmp_path: Path, busy: bool
) -> None:
    """Unless another process works on the cell."""
    (cell,) = runs_of(folder, 1)
    path = cell.record_path(tmp_path)
    path.with_suffix(".checkpoint").mkdir(parents=True)
    for suffix in (".checkpoint/last.pt", ".lock", ".claim", ".log"):
        Path(f"{path.with_suffix('')}{suffix}").touch()
    lock = Lock(path.with_suffix(".lock"))
    if busy:
        lock.acquire()
    clear(path)
    left = sorted(found.suffix for found in path.parent.iterdir())
    lock.release()
    assert left == ([".checkpoint", ".lock", ".log"] if busy else [])


def test_a_child_reads_what_it_is_given_and_then_waits_for_its_starter() -> None:
    """What is handed over lies in no file, which a kill would leave behind."""
    child = Child(
        [sys.executable, "-c", "import sys; print(len(input()), flush=True); input()"], given="x" * 99 + "\n"
    )
    try:
        wait_for(lambda: child.tail)
        assert (list(child.tail), child.ended()) == (["99"], None)
    finally:
        child.kill()


def test_an_interruption_that_python_drops_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finalised:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    lifeline.keep_interruptions()
    try:
        with pytest.raises(KeyboardInterrupt):
            Finalised()
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)


STARTER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
from benchmark.grid.child import Child
child = Child([sys.executable, "-c", *sys.argv[1:]])
while not child.tail:
    time.sleep(0.02)
print(child.tail[0], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_children_of_a_bench_that_was_killed_end(tmp_path: Path, stubborn: bool) -> None:
    """Also where SIGINT is ignored, as in what a shell runs in the background, or blocked, as by Ray."""
    arguments = [SLEEPER, str(tmp_path / "out"), *(["0.5"] if stubborn else [])]
    command = [sys.executable, "-c", STARTER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        orphan = int(bench.stdout.readline().split()[1])
        assert alive(orphan)
        bench.kill()
    wait_for(lambda: not alive(orphan))
    assert (tmp_path / "out").exists() is not stubborn
