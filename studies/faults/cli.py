"""Commands under faults of the machine.

`python studies faults --seed 0 --json results/reliability/faults.json --page docs/reliability.md`

Each command of a small chain, from preparation to bundle, runs in a copy of the folder that it finds
undisturbed, under a fault. It may do all that it does without the fault, or end with one line. The fault is
then lifted, and the same command has to leave what it leaves undisturbed. The result is written after each
trial, and the same command goes on with the next fault. It needs Linux, root (for disks in memory) and a C
compiler (for the clock).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.commands.options import Parser
from benchmark.files import write_json
from studies import command_line
from studies.common.chain import write_data
from studies.faults.faults import FAULTS
from studies.faults.table import on_page
from studies.faults.trial import Row, Worlds

PHASES = ("preparation", "encoding", "record", "report", "bundle", "training")


def main(arguments: Sequence[str]) -> int:
    """Run the faults; the exit status is 0 where each trial ends well and nothing is lost."""
    options = _parser().parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows, complete = _earlier(options)
    work = Path(tempfile.mkdtemp(prefix="faults.", dir=options.work)).resolve()
    worlds = Worlds(work, write_data(work / "data", options.seed), PHASES)
    for name in options.faults:
        if name in complete:
            continue
        rows[name] = []
        for row in FAULTS[name](worlds, random.Random(f"{options.seed}/{name}")):
            rows[name].append(asdict(row))
            print(row, file=sys.stderr, flush=True)
            _save(options, arguments, rows, complete)
        complete.append(name)
        _save(options, arguments, rows, complete)
    if options.page:
        options.page.write_text(on_page(options.page.read_text(encoding="utf-8"), rows), encoding="utf-8")
    wrong = [row for found in rows.values() for row in found if not Row(**row).well]
    print(
        f"{len(wrong)} trials did not end well; logs: {work / 'logs'}" if wrong else "all trials ended well"
    )
    if not wrong:
        shutil.rmtree(work)
    return 1 if wrong else 0


def _parser() -> Parser:
    parser = Parser("python studies faults", description="Run commands under faults of the machine.")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS], help="only these")
    parser.add_argument("--seed", type=int, default=0, help="fixes the data and the random moments")
    parser.add_argument("--json", type=Path, help="where the result is written; faults that it has are kept")
    parser.add_argument("--page", type=Path, help="a page whose table is written anew")
    parser.add_argument("--work", type=Path, help="folder for the trials; a temporary one if not given")
    return parser


Rows = dict[str, list[dict[str, Any]]]


def _earlier(options: argparse.Namespace) -> tuple[Rows, list[str]]:
    """The trials of an earlier try with the same seed, and the faults that it has finished."""
    if options.json and options.json.exists():
        earlier: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
        if earlier["seed"] == options.seed:
            return earlier["rows"], earlier["complete"]
    return {}, []


def _save(options: argparse.Namespace, arguments: Sequence[str], rows: Rows, complete: list[str]) -> None:
    if options.json:
        head = {"study": "faults", "command": command_line("faults", arguments), "seed": options.seed}
        write_json(options.json, {**head, "complete": complete, "rows": rows})
