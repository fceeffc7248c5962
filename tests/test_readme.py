"""The README and the other documents: the example works, and commands have options that exist."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from test_layout import FLOORS

from benchmark.cli import main
from methods.checks import check_method

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = re.compile(r"^```(?:sh)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^ *(?:[A-Z_]+=\S+ )?(?:adaptrec|python -m benchmark) (.*)", re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each command in the page's blocks of shell code."""
    blocks = "".join(SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    words = [shlex.split(command, comments=True) for command in COMMAND.findall(blocks)]
    return [list(takewhile(lambda word: word not in {"|", ">", "&&", "..."}, line)) for line in words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        try:
            status = main([*command, "--help"])
        except SystemExit as end:
            status = end.code
        assert status == 0, f"{command}: {capsys.readouterr().err}"


def test_there_are_commands_to_check() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40


def test_the_method_of_the_readme_keeps_the_contract() -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    scope: dict[str, Any] = {"__name__": "linear_probe"}
    exec(code, scope)
    check_method(scope["LinearProbe"])


def test_make_targets_exist() -> None:
    targets = set(
        re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for page in PAGES:
        blocks = "".join(SHELL.findall(page.read_text(encoding="utf-8")))
        assert set(re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE)) <= targets


def test_the_architecture_page_lists_the_rooms_from_the_bottom_up() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = [
        (int(floor), room) for floor, room in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    ]
    assert [floor for floor, _ in listed] == sorted(floor for floor, _ in listed)
    assert set(listed) == {(floor, room) for floor, rooms in enumerate(FLOORS, 1) for room in rooms}


@pytest.mark.parametrize("page", [PAGES[0], *PAGES[2:]], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_of_the_code_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(r"`((?:benchmark|methods|studies|tests)/[\w./]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []
