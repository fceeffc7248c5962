"""Run a study: `python studies NAME ...`. Each folder here with a file `cli.py` is a study."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # Python put this folder first; the packages of this checkout lie beside it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.process import startup

startup.secure_imports()
startup.wait_briefly()

import warnings
from collections.abc import Sequence
from importlib import import_module

from benchmark.process.exit_status import exit_status
from methods.errors import unknown
from studies import FOLDER


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study that the first argument names with the other arguments; returns the exit status."""
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    known = names()

    def command() -> int:
        if name in ("-h", "--help"):
            print(_help(known))
            return 0
        if name not in known:
            raise unknown("study", name, known)
        return int(import_module(f"studies.{name}.cli").main(rest))

    return exit_status(command, name if name in known else "studies")


def names() -> list[str]:
    """The studies, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/cli.py"))


def _help(known: Sequence[str]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {import_module(f'studies.{name}').__doc__}" for name in known]
    return "\n".join(
        ["usage: python studies NAME ...", "", *lines, "", "`python studies NAME --help` lists the options."]
    )


if __name__ == "__main__":
    sys.exit(main())
