"""How fast a dataset is prepared, in how much memory, and against a plain pandas version.

    python studies prepare_speed --rows 50000000 --pandas-rows 5000000 --memory 6 --json FILE

Makes long-tailed interactions and a catalogue in CSV files, then prepares them (exact repeats, join with the
items, iterative 5-core, sort, most recent 50, leave-one-out), each time in a fresh process. Ours is killed as
soon as its resident set exceeds `--memory`: limits of the kernel on address space (RLIMIT_AS, RLIMIT_DATA)
count what an allocator has given back but keeps reserved, and control groups need rights that few have. The
peak is the largest resident set that the kernel saw (`wait4`), mapped files included: no moment between two
looks is missed, and a run that exceeded the limit has failed. Both versions are checked to give the same
counts and the same digest of the content.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands.options import Parser
from benchmark.files import write_json
from studies.prepare_speed.measure import VERSIONS, run


def main(arguments: Sequence[str]) -> int:
    """Measure and print the record; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.child:
        name, folder, cache = options.child
        print(json.dumps(VERSIONS[name](Path(folder), Path(cache))))
        return 0
    record = run(options.rows, options.pandas_rows, options.memory, options.folder)
    if options.json:
        write_json(options.json, record)
    print(json.dumps(record, indent=1))
    return 0


def _parser() -> Parser:
    parser = Parser("python studies prepare_speed", description="Measure the preparation of a large dataset.")
    parser.add_argument("--rows", type=int, default=50_000_000, help="interactions of the large set")
    parser.add_argument("--pandas-rows", type=int, default=5_000_000, help="of the set for both versions")
    parser.add_argument("--memory", type=float, default=6, help="gigabytes that our version may take")
    parser.add_argument("--folder", type=Path, help="where to make a temporary folder, some 200 bytes a row")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser
