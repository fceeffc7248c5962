"""Files are written whole or not at all, and what a killed writer leaves goes with the next write."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from forked import die, ended, fork

from benchmark.files import replacing, temporary_folder, write_atomically
from studies.faults.machine import limit_files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]


def test_what_a_killed_writer_leaves_goes_with_the_next_write(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"

    def victim() -> None:
        with replacing(path), replacing(other):
            die()

    assert ended(fork(victim)) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, "new")
    assert [found.name.partition(".")[0] for found in sorted(tmp_path.iterdir())] == ["file", "other"]
    assert path.read_text() == "new"
    write_atomically(other, "new")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "other"]


def test_what_another_writes_at_the_time_stays_and_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        write_atomically(path, "in between")
        file.write(b"last")
    assert path.read_text() == "last"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Also one that a link with the name of a temporary file leads to."""
    (tmp_path / "file.mine.tmp").write_text("mine")
    (tmp_path / "target").write_text("mine")
    (tmp_path / "file.abcdefgh.tmp").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file.mine.tmp").read_text() == (tmp_path / "target").read_text() == "mine"


def test_a_temporary_folder_goes_where_hardly_any_descriptor_is_left(tmp_path: Path) -> None:
    """And what a link in it leads to stays."""
    (tmp_path / "mine").mkdir()

    def victim() -> None:
        with temporary_folder(tmp_path, "deep") as folder:
            below = folder.joinpath(*"abcdefgh")
            below.mkdir(parents=True)
            (below / "file").touch()
            (folder / "link").symlink_to(tmp_path / "mine")
            limit_files(64)
            taken = []
            with suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for last in taken[-2:]:
                os.close(last)

    assert ended(fork(victim)) == 0
    assert [found.name for found in tmp_path.iterdir()] == ["mine"]
