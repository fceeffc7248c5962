"""What the cells of a grid read of a language model, computed in one pass a model, in a process of its own.

`python -m benchmark.grid.prepare FILE` is that process; FILE holds the cells as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmark.cell import Cell, resolve_cell
from benchmark.grid import lifeline
from benchmark.grid.child import Child, stop
from methods.errors import UserError

MISTAKE = "adaptrec: error: "
POLL = 0.1


def prepare(cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Compute hidden states and try to build what `cells` train; raises `UserError` with the first fault."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if resolve_cell(cell).llm is not None:
            groups.setdefault((cell.dataset, cell.llm), []).append(cell)
    for (dataset, llm), group in groups.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump([asdict(cell) for cell in group], file)
            file.flush()
            child = Child(
                [sys.executable, "-m", "benchmark.grid.prepare", file.name], listen=_unless_mistake(say)
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


def _unless_mistake(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: None if line.startswith(MISTAKE) else say(line)


def read_cells(text: str) -> list[Cell]:
    """The cells in what `prepare` wrote."""
    return [Cell(**{**cell, "overrides": tuple(cell["overrides"])}) for cell in json.loads(text)]


def main(file: str) -> int:
    """Prepare what the cells of `file` read."""
    from benchmark.inputs import prepare_cells

    lines: Iterable[str] = prepare_cells(read_cells(Path(file).read_text(encoding="utf-8")))
    try:
        for line in lines:
            print(line, flush=True)
    except UserError as error:
        print(f"{MISTAKE}{error}", flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    lifeline.hold()
    lifeline.keep_interruptions()
    sys.exit(main(sys.argv[1]))
