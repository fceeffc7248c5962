"""Name the files that one interaction passes from the raw file to a cell of a table.

python studies walk --method tmlp
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from benchmark.commands.options import Parser

PACKAGES = ("adaptrec", "benchmark", "methods")
SET_UP = (
    "benchmark/process/", "benchmark/escape.py", "benchmark/config.py", "benchmark/measure.py",
    "benchmark/run/tracking.py", "benchmark/train/status.py",
    "methods/registry.py", "methods/declarations.py", "methods/fields.py", "methods/code.py",
)  # fmt: skip
"""What no interaction passes: the process with its locks and limits, its settings, its messages, and the
choice of a method."""
SETTINGS = ("epochs=1", "precision=no", "width=8", "sasrec_inner=8", "batch_size=16")
ITEMS = "abcdefghij"


def main(arguments: Sequence[str]) -> int:
    """Print the files and their number; returns the exit status."""
    parser = Parser("python studies walk", description="Files from the raw file to a table.")
    parser.add_argument("--method", default="tmlp", help="the method that the run trains")
    parser.add_argument("--llm", default="random-tiny", help="the language model that it reads")
    options = parser.parse_args(arguments)
    files = walk(options.method, options.llm)
    print("\n".join([*files, f"{len(files)} files"]))
    return 0


def walk(method: str, llm: str) -> list[str]:
    """Files in which a function runs between raw file and table, less `SET_UP`, in the order of first use.

    A dataset is prepared, encoded, trained on and shown twice in this process. The second time counts: what
    is imported, and what is looked up once a process, is set-up. So is the command line, which is not used.
    """
    with tempfile.TemporaryDirectory() as name:
        root, outer = Path(name), os.environ.get("ADAPTREC_CACHE")
        try:
            _raw_to_table(root / "first", method, llm)
            return _watched(lambda: _raw_to_table(root / "second", method, llm))
        finally:
            os.environ.pop("ADAPTREC_CACHE")
            if outer is not None:
                os.environ["ADAPTREC_CACHE"] = outer


def _raw_to_table(folder: Path, method: str, llm: str) -> str:
    """The printed table of a run on a small dataset, everything of which lies in `folder`."""
    from benchmark.report.tables import print_tables
    from benchmark.results.figures import read_runs
    from benchmark.run.run import run
    from benchmark.run.spec import RunSpec

    os.environ["ADAPTREC_CACHE"] = str(folder / "cache")
    data = folder / "small"
    data.mkdir(parents=True)
    rows = [f"u{user}\t{ITEMS[(3 * user + time) % 10]}\t{time}" for user in range(12) for time in range(6)]
    (data / "interactions.tsv").write_text("\n".join(["user_id\titem_id\ttimestamp", *rows, ""]))
    (data / "items.tsv").write_text("\n".join(["item_id\ttitle", *(f"{i}\tthing {i}" for i in ITEMS), ""]))
    run(RunSpec(str(data), llm, method, "fair", overrides=SETTINGS), folder / "results")
    return print_tables(read_runs(folder / "results"))


def _watched(work: Callable[[], object]) -> list[str]:
    """Files below `PACKAGES` in which a function runs during `work`."""
    root = Path(__file__).resolve().parents[2]
    files: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # neither a module nor a class body
            files[code.co_filename] = None

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    below = [Path(file).relative_to(root) for file in files if Path(file).is_relative_to(root)]
    names = [path.as_posix() for path in below if path.parts[0] in PACKAGES]
    return [name for name in names if not name.startswith(SET_UP)]
