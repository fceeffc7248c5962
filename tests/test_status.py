"""The status of a run: as JSON for programs, as a line for people, through a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.train.status import VARIABLE, RunStatus, StatusFile, duration, publish, time_range

STATUS = RunStatus(
    epoch=3, epochs=200, loss=5.4321, metric="ndcg@10", valid=0.0912, valid_masked=0.1012, best_epoch=2,
    train_seconds=1.5, eval_seconds=0.25, seconds_left=(60.0, 5000.0),
)  # fmt: skip


def test_json_is_one_line_and_is_read_again() -> None:
    assert "\n" not in STATUS.to_json()
    assert RunStatus.from_json(STATUS.to_json()) == STATUS


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"kind": "begin"}', '{"kind": "epoch", "epoch": "x"}'])
def test_other_lines_are_no_status(line: str) -> None:
    assert RunStatus.from_json(line) is None


def test_people_read_the_metric_that_selects_the_epoch() -> None:
    assert str(STATUS) == (
        "epoch   3/200  loss 5.4321  valid N@10 0.0912 (masked 0.1012)  best epoch 2  "
        "train 1.50 s, eval 0.25 s, left 60 s to 83 min"
    )


def test_a_file_carries_each_status_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.status"
    path.write_text("of an earlier run\n")
    file = StatusFile(path)
    publish(STATUS)
    assert file.read() == [], "nobody named the file"
    for name, value in file.environment.items():
        monkeypatch.setenv(name, value)
    publish(STATUS)
    later = STATUS.model_copy(update={"epoch": 4})
    publish(later)
    with path.open("a") as open_file:
        open_file.write("no status\n" + later.to_json()[:20])  # the run is writing
    assert file.read() == [STATUS, later]
    with path.open("a") as open_file:
        open_file.write(later.to_json()[20:] + "\n")
    assert file.read() == [later]
    assert file.read() == []
    file.remove()
    assert not path.exists()
    assert file.read() == []


def test_the_file_of_a_run_that_began_again_is_read_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StatusFile(tmp_path / "run.status")
    monkeypatch.setenv(VARIABLE, str(file.path))
    publish(STATUS)
    publish(STATUS)
    assert len(file.read()) == 2
    file.path.unlink()
    publish(STATUS)
    assert file.read() == [STATUS]


def test_a_file_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no folder" / "file"))
    publish(STATUS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (9e5, "10.4 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert time_range(seconds, seconds) == text
