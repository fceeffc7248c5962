"""How commands end: what the system refuses and what a terminal would obey, each in one line."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forked
import psutil
import pytest
from data_folders import TEN, TWELVE, write_folder

from benchmark.cli import main
from benchmark.files import replacing, write_atomically
from benchmark.process import exit_status
from methods.errors import UserError

SMALL = ["--set", "width=8", "sasrec_inner=8", "epochs=1", "learning_rate=0.05", "precision=no"]


def ended(error: BaseException) -> int:
    def command() -> int:
        raise error

    return exit_status.exit_status(command)


@pytest.mark.parametrize("number", sorted(exit_status.REFUSED))
def test_what_the_system_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(OSError(number, os.strerror(number), "/some/where")) == 2
    line = capsys.readouterr().err
    assert line.startswith("adaptrec: error: ") and line.count("\n") == 1 and line.endswith(".\n")
    assert "/some/where" in line or number in (errno.ENOMEM, errno.EAGAIN)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is too little memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "too little memory"),
        (RuntimeError("Out of Memory Error: Failed to create view"), "too little memory"),
        (RuntimeError('Could not write "/big/x": No space left on device'), "the disk of /big/x is full"),
        (UserError("a mistake."), "adaptrec: error: a mistake."),
        (KeyboardInterrupt(), "adaptrec: interrupted"),
    ],
)  # fmt: skip
def test_libraries_without_a_number_are_understood(
    error: BaseException, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(error) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_the_cause_of_another_error_counts(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/full/x")
    assert ended(error) == 2
    assert "the disk of /full/x is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "expected"),
    [(0, "no command works with less than 67 MB"), (130 << 20, "needs at least 268 MB")],
)
def test_a_limit_on_address_space_is_one_line(
    left: int,
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    command = ["prepare", "--dataset", str(write_folder(tmp_path / "shop"))]

    def limited() -> None:
        import resource

        limit = psutil.Process().memory_info().vms + left
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        os._exit(main(command))

    assert forked.ended(forked.fork(limited)) == 2
    line = capfd.readouterr().err
    assert expected in line and line.count("\n") == 1
    assert main(command) == 0


def test_an_error_of_any_kind_without_address_space_is_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exit_status, "address_space_left", lambda: 1e6)  # when the command has failed
    assert ended(SystemError("error return without exception set")) == 2
    assert "too little memory" in capsys.readouterr().err


def test_causes_that_lead_back_to_themselves_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As DuckDB's do on a full disk."""
    error, full = RuntimeError("writing failed"), OSError(errno.ENOSPC, "No space left on device")
    error.__cause__, full.__context__, full.__cause__ = full, error, error
    with pytest.raises(RuntimeError), replacing(tmp_path / "file"):
        raise error
    assert full.filename == str(tmp_path / "file")
    assert ended(error) == 2
    assert f"the disk of {tmp_path / 'file'} is full" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ESPIPE, "Illegal seek"), ValueError("a fault of the code")])
def test_a_fault_of_the_code_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ended(error)


def test_a_file_that_cannot_be_replaced_is_named_and_its_temporary_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken") as caught:
        write_atomically(tmp_path / "taken", "content")
    assert caught.value.filename == str(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    full_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "small", TWELVE, TEN)
    command = [
        "run",
        "--dataset",
        str(folder),
        "--method",
        "id",
        "--results",
        str(full_disk / "results"),
        *SMALL,
    ]
    filler = full_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        file.write(bytes(60 * 1024))
    assert main(command) == 2
    output = capfd.readouterr().err.splitlines()[-1]
    assert output.startswith("adaptrec: error: the disk of ") and "is full; make room there" in output
    assert not list((full_disk / "results").rglob("*.tmp"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(full_disk)], check=True)
    assert main(command) == 0


def test_a_report_on_a_full_disk_is_one_line(full_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--source", "paper", "--out", str(full_disk / "reports")]) == 2
    output = capfd.readouterr().err
    assert output.count("\n") == 1 and "the disk of " in output


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a\x1b[2Jb\x07", r"a\x1b[2Jb\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202etxt", r"user\u202etxt"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("h\u00e9llo \u4e2d \U0001f600", "h\u00e9llo \u4e2d \U0001f600"),
        ("\r 50% |###  |", "\r 50% |###  |"),
        ("over\rwritten", r"over\rwritten"),
        ("", ""),
    ],
)
def test_what_would_control_a_terminal_is_shown(written: str, shown: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    exit_status.Escaped(stream).write(written)
    stream.flush()
    assert stream.buffer.getvalue().decode() == shown  # type: ignore[attr-defined]


def test_a_line_that_quotes_a_long_value_keeps_its_beginning_and_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recommend", "model", "--history", "a", "--k", "9" * 50_000]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 3100 and "99 [...] 99" in error
    assert "--k: invalid int value" in error and error.endswith("lists the options.\n")


def test_an_id_of_the_data_cannot_control_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "small", TWELVE, TEN)
    with (folder / "interactions.tsv").open("a", encoding="utf-8") as file:
        file.write("u1\t\x1b[2J\x1b]0;pwned\x07zz\t5\n")
    assert main(["prepare", "--dataset", str(folder)]) == 2
    output = capfd.readouterr().err
    assert "\x1b" not in output and r"\x1b[2J\x1b]0;pwned\x07zz" in output


def test_a_folder_in_place_of_a_record_stops_no_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results/a/b/c/0-s0.json").mkdir(parents=True)
    assert main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 2
    output = capfd.readouterr().err
    assert "Traceback" not in output and "0-s0.json" in output
