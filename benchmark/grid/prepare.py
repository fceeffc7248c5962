"""What the cells of a grid read of a language model, computed in one pass a model, in a process of its own.

`python -m benchmark.grid.prepare` is that process; it reads the cells as a line of JSON from its standard
input. No file hands them over: a kill would leave it behind.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from pydantic import TypeAdapter

from benchmark.grid import lifeline
from benchmark.grid.child import Child, stop
from benchmark.process.exit_status import exit_status
from benchmark.run.spec import RunSpec, resolve_run
from methods.errors import UserError

PROGRAM = "adaptrec"
MISTAKE = f"{PROGRAM}: error: "
POLL = 0.1


def prepare(cells: Sequence[RunSpec], say: Callable[[str], None]) -> None:
    """Compute hidden states and try to build what `cells` train; raises `UserError` with the first fault."""
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for cell in cells:
        if resolve_run(cell).llm is not None:
            groups.setdefault((cell.dataset, cell.llm), []).append(cell)
    for (dataset, llm), group in groups.items():
        child = Child(
            [sys.executable, "-m", "benchmark.grid.prepare"],
            listen=_unless_end(say),
            given=json.dumps([asdict(cell) for cell in group]) + "\n",
        )
        try:
            while (status := child.ended()) is None:
                time.sleep(POLL)
        except BaseException:
            stop([child])
            raise
        if status:
            last = next((line for line in reversed(child.tail) if line.strip()), f"status {status}")
            if last.startswith(MISTAKE):
                raise UserError(last.removeprefix(MISTAKE))
            raise UserError(f"preparing {llm} for {dataset} failed ({last}); see above.")


def _unless_end(say: Callable[[str], None]) -> Callable[[str], None]:
    """All but the line that says why the process ends: this one says it."""
    return lambda line: None if line.startswith(f"{PROGRAM}: ") else say(line)


def read_cells(text: str) -> list[RunSpec]:
    """The cells in what `prepare` wrote."""
    return TypeAdapter(list[RunSpec]).validate_json(text)


def main(cells: str) -> int:
    """Prepare what `cells`, as JSON, read."""
    from benchmark.run.inputs import prepare_cells

    def command() -> int:
        lines: Iterable[str] = prepare_cells(read_cells(cells))
        for line in lines:
            print(line, flush=True)
        return 0

    return exit_status(command, PROGRAM)


if __name__ == "__main__":
    line = sys.stdin.readline()  # empty where the starter was killed meanwhile
    lifeline.hold()  # from here on it watches standard input
    lifeline.keep_interruptions()
    sys.exit(main(line) if line else 130)
