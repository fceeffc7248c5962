"""Studies of the harness itself. They are no part of the package: `python studies` lists and runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join

FOLDER = Path(__file__).resolve().parent
"""This folder: what Python runs to run a study."""


def command_line(study: str, words: Sequence[str]) -> str:
    """The command that runs `study` with the arguments `words`, as one types it in the root of a checkout."""
    return join(["python", FOLDER.name, study, *words])
