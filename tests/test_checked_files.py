"""Stored files carry checksums, locks tell who writes, and a folder that cannot be written can be read."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from data_folders import BLINK
from forked import die, ended, fork

from benchmark import files
from benchmark.files import (
    DamagedError,
    held,
    opening_checked,
    read_checked,
    remove_abandoned,
    replacing_checked,
    replacing_folder,
    write_checked,
)
from benchmark.grid.engine import clear
from benchmark.run.run import run
from benchmark.run.spec import RunSpec, resolve_run
from methods.errors import UserError

FIELDS = {"a": 1.5, "b": ["x", None], "c": {"é": 2}}


def test_checked_json_comes_back(tmp_path: Path) -> None:
    write_checked(tmp_path / "a.json", FIELDS)
    assert read_checked(tmp_path / "a.json", FIELDS) == FIELDS
    assert set(json.loads((tmp_path / "a.json").read_text())) == {*FIELDS, "checksum"}


def test_numbers_as_keys_are_read_as_strings(tmp_path: Path) -> None:
    write_checked(tmp_path / "a.json", {"a": {2: "two", 10: (1, 2)}})
    assert read_checked(tmp_path / "a.json", ["a"]) == {"a": {"2": "two", "10": [1, 2]}}


def test_every_flipped_bit_of_checked_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_checked(path, FIELDS)
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            with suppress(DamagedError):
                assert read_checked(path, FIELDS) == FIELDS  # E9 for e9 in an escaped letter


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\x00" * 10, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[]", "does not hold a, b"),
        (b'{"a": 1}', "does not hold a, b"),
        (b'{"a": 1, "b": 2, "d": 3}', "does not hold a, b"),
        (b'{"a": 1, "b": 2, "checksum": "0"}', "does not match its checksum"),
    ],
)
def test_what_is_no_checked_json(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedError, match=message):
        read_checked(tmp_path / "a.json", ("a", "b"))


def test_json_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1, "b": 2}')
    assert read_checked(tmp_path / "a.json", ("a", "b")) == {"a": 1, "b": 2}


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "a.json", ("a",))
    with pytest.raises(FileNotFoundError), opening_checked(tmp_path / "a.bin"):
        pass


@pytest.mark.parametrize("size", [0, 1, files._BLOCK - 1, files._BLOCK, files._BLOCK + 1])
def test_a_checked_file_of_any_size(size: int, tmp_path: Path) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "a.bin"
    with replacing_checked(path) as file:
        file.write(data[:size])
    with opening_checked(path) as file:
        assert file.read(size) == data[:size]
    stored = path.read_bytes()
    for place in {0, size // 2, len(stored) - 1, len(stored) - 5, len(stored) - 70}:
        path.write_bytes(stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :])
        with pytest.raises(DamagedError), opening_checked(path):
            pass
    for damaged in (stored[:-1], stored[1:], stored + b"x", stored + stored, b""):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError), opening_checked(path):
            pass


def killed(work: Callable[[], object]) -> None:
    assert ended(fork(work)) == -signal.SIGKILL


def test_what_a_killed_process_leaves_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    def victim() -> None:
        with replacing_checked(tmp_path / "a"), replacing_folder(tmp_path / "b") as folder:
            (folder / "inside").touch()
            die()

    killed(victim)
    (tmp_path / "mine.tmp").touch()
    assert len(list(tmp_path.iterdir())) == 3
    with replacing_checked(tmp_path / "c"), replacing_folder(tmp_path / "d"):
        remove_abandoned(tmp_path)
        names = sorted(path.name.partition(".")[0] for path in tmp_path.iterdir())
        assert names == ["c", "d", "mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d", "mine.tmp"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with replacing_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/x"]


def test_an_earlier_try_goes_where_folders_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "a.abcdefgh.tmp").mkdir()
    handle = os.open(tmp_path / "a.abcdefgh.tmp", os.O_RDONLY)
    files.fcntl.flock(handle, files.fcntl.LOCK_EX)  # stands for a lock that cannot be had
    with replacing_folder(tmp_path / "a"):
        pass
    os.close(handle)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_that_can_never_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written.*ADAPTREC_CACHE"), held(tmp_path / "file" / "x"):
        pass


def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    waited: list[bool] = []
    go, come = os.pipe()

    def holder() -> None:
        with held(tmp_path / "x.lock"):
            os.write(come, b"1")
            os.read(back, 1)

    back, forth = os.pipe()
    process = fork(holder)
    os.read(go, 1)
    with held(tmp_path / "x.lock", lambda: waited.append(bool(os.write(forth, b"1")))) as writable:
        assert writable
    assert ended(process) == 0
    assert waited == [True]


def leftover(path: Path) -> Path:
    """What a process that was killed while it wrote `path` has left."""
    left = path.with_name(f"{path.name}.abcdefgh.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half of i")
    return left


def test_a_run_removes_files_that_killed_runs_left_next_to_its_record(folder: Path, tmp_path: Path) -> None:
    asked = RunSpec(str(folder), "none", "id", overrides=(*BLINK, "epochs=1"))
    path = resolve_run(asked).record_path(tmp_path)
    for finished in (False, True):
        left = [leftover(path), leftover(path.with_name("other-s0.ranks.parquet"))]
        with replacing_checked(path.with_name("of a living process")):
            run(asked, tmp_path)
            assert len(list(path.parent.glob("of a living process.*.tmp"))) == 1
        assert not any(entry.exists() for entry in left), finished
    left = [leftover(path)]
    clear(path)  # as a bench does that finds the record finished
    assert not left[0].exists()
