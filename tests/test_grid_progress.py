"""What a person watching a grid sees, and the time that it is said to take."""

from __future__ import annotations

import io
import re

import pytest

from benchmark.grid.progress import STATUS_SECONDS, Board, Tracker
from benchmark.run.spec import RunSpec
from benchmark.train.status import RunStatus, duration

TMOE = [RunSpec("tiny", "minilm", "tmoe", "fair", seed) for seed in range(4)]
ID = RunSpec("tiny", "minilm", "id", "fair")


def status(least: float, most: float) -> RunStatus:
    return RunStatus(
        epoch=3, epochs=200, loss=5.4321, valid=0.0912, valid_masked=0.1012, best_epoch=2, train_seconds=1.5,
        eval_seconds=0.25, seconds_left=(least, most),
    )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (9e5, "10.4 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_no_time_is_printed_while_none_is_known() -> None:
    tracker = Tracker([*TMOE, ID], clock=Clock())
    tracker.begin(TMOE[0])
    assert tracker.left(1) is None
    assert tracker.status(1) == "0 of 5 runs ended | [1] begins"


def test_the_time_left_of_runs_that_wait_is_what_the_running_one_looks_like() -> None:
    clock = Clock()
    tracker = Tracker(TMOE[:3], clock=clock)
    tracker.begin(TMOE[0])
    clock.now += 10
    tracker.update(TMOE[0], status(20, 80))
    assert tracker.left(1) == (20 + 2 * 30, 80 + 2 * 90)
    assert tracker.left(2) == (40, 130)
    assert "left 80 s to 4 min | [1] epoch 3/200, R@10 0.0912" in tracker.status(1)


def test_the_time_left_is_what_the_most_similar_runs_took() -> None:
    clock = Clock()
    tracker = Tracker([*TMOE, ID], clock=clock)
    for run, seconds in ((TMOE[0], 40), (TMOE[1], 60), (ID, 7)):
        tracker.begin(run)
        clock.now += seconds
        assert tracker.end(run, ok=True) == seconds
    assert tracker.left(1) == (80, 120)  # two more like the first two
    tracker.begin(TMOE[2])
    clock.now += 50
    assert tracker.left(1) == (0 + 40, 10 + 60)
    later = Tracker([], later=2, clock=clock)
    assert later.left(1) is None
    tracker.later = 2
    assert tracker.left(1) == (40 + 2 * 7, 70 + 2 * 60)


def test_a_failure_does_not_count_in_the_estimate() -> None:
    tracker = Tracker(TMOE[:2], clock=Clock())
    tracker.begin(TMOE[0])
    tracker.end(TMOE[0], ok=False)
    assert tracker.left(1) is None


def test_a_run_cannot_take_less_time_than_the_longest_that_runs() -> None:
    tracker = Tracker(TMOE[:2], clock=Clock())
    for run, span in ((TMOE[0], (5, 6)), (TMOE[1], (60, 180))):
        tracker.begin(run)
        tracker.update(run, status(*span))
    assert tracker.left(2) == (60, 180)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_kept_up_to_date_and_lines_that_stay_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    board = Board(stream)
    board.status("0 of 2 runs ended | " + "x" * 100)
    board.print("[1/2] a: ok")
    board.status("1 of 2")
    board.status("1 of 2")
    board.close()
    shown = stream.getvalue()
    assert shown.count("1 of 2") == 1, "not written again where nothing changed"
    assert [part.rpartition("\r")[2] for part in shown.split("\n")] == ["[1/2] a: ok", ""]
    assert max(map(len, re.split(r"[\r\n]", shown))) <= 39, "no line is wrapped"


def test_in_a_log_the_line_comes_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    board = Board(stream, clock)
    for _ in range(10):
        clock.now += STATUS_SECONDS / 5
        board.status("1 of 2")
    board.print("done")
    assert stream.getvalue() == "1 of 2\n1 of 2\ndone\n"
