"""Locks keep other processes out, end with their holder, and are refused where a disk does not lock."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest
from forked import die, ended, fork

from benchmark.files import remove_abandoned
from benchmark.grid.engine import claim
from benchmark.process.locks import Lock, held
from methods.errors import UserError
from studies.faults.machine import answer_flock


def test_a_lock_keeps_others_out_until_it_is_removed(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire() and not second.acquire(0.1)
    first.remove()
    assert not (tmp_path / "lock").exists()
    assert second.acquire() and not first.acquire()
    second.release()
    assert (tmp_path / "lock").exists() and first.acquire()
    first.release()


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    def victim() -> None:
        assert Lock(tmp_path / "lock").acquire()
        die()

    assert ended(fork(victim)) == -signal.SIGKILL
    assert Lock(tmp_path / "lock").acquire()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (errno.ENOLCK, "No locks available"),
        (errno.ENOSYS, "Function not implemented"),
        (errno.EOPNOTSUPP, "Operation not supported"),
        (0, "it grants a lock to everyone"),
    ],
)
def test_a_disk_without_working_locks_is_refused_in_one_line(answer: int, why: str, tmp_path: Path) -> None:
    """The system itself gives the answer."""
    (tmp_path / "file.abcdefgh.tmp").touch()

    def victim() -> None:
        answer_flock(answer)
        for use in (
            lambda: held(tmp_path / "cache" / "lock").__enter__(),
            lambda: claim(tmp_path / "x-s0.json"),
        ):
            with pytest.raises(UserError) as caught:
                use()
            assert f"has no working locks ({why})" in str(caught.value) and "\n" not in str(caught.value)
        remove_abandoned(tmp_path)  # another process may be writing it

    assert ended(fork(victim)) == 0
    assert (tmp_path / "file.abcdefgh.tmp").exists()
