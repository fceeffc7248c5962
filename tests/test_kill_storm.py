"""The storm of kills counts what it should, and reports a program that a kill damages."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_records import record, store

from benchmark.results.record import RunRecord
from studies.common.chain import Chain, Phase, adaptrec, write_data
from studies.common.copies import import_all
from studies.common.outcome import differences, snapshot
from studies.kill_storm.attempt import Attempt, Kill, Operation
from studies.kill_storm.judge import saved_again
from studies.kill_storm.storm import Storm

PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path

fault = sys.argv[1]
if fault == "lock":  # 1
    os.close(os.open("lock", os.O_CREAT | os.O_EXCL))
if fault == "leftover":
    own = Path(f"{os.getpid()}.tmp")
    own.write_text("")
if fault == "appends":
    Path("log").open("a").write("begun ")
if fault == "again":
    record = Path("results/data/model/method/0-s0.json")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text('{"status": "ok"}')
if fault == "traceback" and Path("result.tmp").exists():
    raise RuntimeError("what is this file?")
if fault == "hangs" and Path("result.tmp").exists():
    time.sleep(60)
if fault == "orphan":
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
new = Path("result.tmp")
new.write_text("the result")
new.replace("result")
if fault == "leftover":
    own.unlink()
if fault == "lock":
    os.unlink("lock")
"""
"""Does its work in a way that outlives kills, but for the fault that it is asked for."""


class OneKill(Storm):
    """A storm with a single, given kill."""

    kill: Kill

    def plan(self, *_: object) -> list[Kill]:
        return [self.kill]


@pytest.fixture
def survive(tmp_path: Path) -> Callable[..., Any]:
    """A storm over PROGRAM that kills it once, just before its rename."""

    def run(fault: str, target: str = "tree") -> Any:
        phase = Phase("work", (sys.executable, "-c", PROGRAM, fault))
        done = OneKill(Chain((phase,), limit=2.0, patience=0.2), 1, 0, tmp_path, lambda line: None)
        done.undisturbed()
        operation = done.reference["work"].operations - AFTER.get(fault, 0)
        done.kill = Kill("operation", target, operation)
        done.run()
        return done

    return run


AFTER = {"leftover": 1, "lock": 1}
"""Operations that PROGRAM does after its rename."""


def test_a_program_that_outlives_kills_deviates_in_nothing(survive: Callable[..., Any]) -> None:
    done = survive("none")
    assert done.deviations == []
    assert done.rows == [[0, "work", "operation", "process", "operation 2, os.rename result", -9]]
    result = done.result()
    assert result["kills"]["by_phase"] == {"work": 1}
    assert result["kills"]["status_after_kill"] == {"process: -9": 1}
    assert set(result["passed"].values()) == {0, 1}  # there is no report


@pytest.mark.parametrize(
    ("fault", "check", "what"),
    [
        ("leftover", "files, digests and figures are those of the undisturbed run", "a file is left over: "),
        ("appends", "files, digests and figures are those of the undisturbed run", "content differs: log"),
        ("again", "finished records and stored files are not written again", "results/data/model/method/0"),
        ("traceback", "no traceback", "001-work.log"),
        ("lock", "the last command ends with status 0", "status 1"),
        ("hangs", "each command ends in time", "still running after "),
    ],
)
def test_a_fault_is_reported(survive: Callable[..., Any], fault: str, check: str, what: str) -> None:
    deviations = [deviation for deviation in survive(fault).deviations if deviation["check"] == check]
    assert [deviation["what"][: len(what)] for deviation in deviations] == [what]
    assert deviations[0]["kills"] == [f"process at {deviations[0]['kills'][0].partition(' at ')[2]}"]


def test_children_that_outlive_a_killed_command_are_reported(survive: Callable[..., Any]) -> None:
    (deviation,) = survive("orphan", target="parent").deviations
    assert deviation["check"] == "children of a killed command end by themselves"


def test_of_a_record_all_but_what_a_clock_measures_is_compared(tmp_path: Path) -> None:
    def kept(name: str, *runs: RunRecord) -> dict[str, str]:
        store(tmp_path / name / "results", list(runs))
        return snapshot(tmp_path / name)

    first = kept("first", record("id"), record("ssna", recall=0.2))
    assert differences(first, kept("slower", record("id"), record("ssna", recall=0.2, seconds=9.0))) == {}
    other = differences(first, kept("worse", record("id"), record("ssna", recall=0.1)))
    assert [*other] == ["content differs"]
    assert {Path(name).parent.name for name in other["content differs"]} == {"ssna"}
    assert [*differences(first, kept("fewer", record("id")))] == ["a file is missing"]


def test_an_epoch_that_is_saved_twice_is_reported() -> None:
    """Save for the one that a killed process had only announced."""

    def save(process: int) -> Operation:
        return Operation(process, 0.0, "os.rename", "results/x.checkpoint/last.pt")

    expected = {"results/x.checkpoint/last.pt": 3}
    killed = Attempt(Path("log"), killed_pids={1}, operations=[save(1), save(1)])
    assert saved_again([killed, Attempt(Path("log"), operations=[save(2), save(2)])], expected) == []
    again = [killed, Attempt(Path("log"), operations=[save(2)] * 3)]
    assert saved_again(again, expected) == ["results/x.checkpoint/last.pt: 5 times, not 3"]


OPERATIONS = {"preparation": (3, 12, 20), "encoding": (4, 36), "record": (9, 14, 40, 24, 8)}
"""Phase -> file operations before which its command is killed, each counted from its start."""


class TenKills(Storm):
    """Ten kills of the real commands."""

    def plan(self, phase: Phase, *_: object) -> list[Kill]:
        return [Kill("operation", "tree", number) for number in OPERATIONS[phase.name]]


def test_the_commands_outlive_ten_kills(tmp_path: Path) -> None:
    """Against a reference of which one digest is another's, which alone deviates."""
    chain = adaptrec(write_data(tmp_path / "data", 0))
    import_all({})
    phases = tuple(replace(phase, begins="") for phase in chain.phases if phase.name in OPERATIONS)
    done = TenKills(replace(chain, phases=phases), 10, 0, tmp_path / "work", lambda line: None)
    done.quota = {name: len(numbers) for name, numbers in OPERATIONS.items()}
    done.undisturbed()
    known = done.reference["preparation"].files
    changed = next(name for name in known if name.endswith("users.arrow"))
    known[changed] = "another digest"
    done.run()
    assert Counter(row[1] for row in done.rows) == {
        name: len(numbers) for name, numbers in OPERATIONS.items()
    }
    assert [deviation["what"] for deviation in done.deviations] == [f"content differs: {changed}"]
