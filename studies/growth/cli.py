"""Measure how cost grows with the catalogue, and how fast a large catalogue is encoded.

python studies growth train --method M --json FILE     training and evaluation, size by size
python studies growth encode --json FILE               a million texts into the cache
python studies growth show FILE ...                    the tables again, from the records
python studies growth plot FILE --folder docs          the plot, as PNG and SVG
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands.options import Parser, add_set, names, numbers, protocols
from benchmark.config import PROTOCOLS
from methods.errors import UserError

SIZES = ["synthetic-10000", "synthetic-30000", "synthetic-100000", "synthetic-300000", "synthetic-1000000"]
LLM = "random-bert-tiny"


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return int(options.call(options))


def _parser() -> Parser:
    parser = Parser("python studies growth", description="Measure how cost grows.")
    sub = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    train = sub.add_parser("train", description="Training and evaluation on datasets of growing size.")
    train.add_argument("--method", required=True, help="see `adaptrec list methods`")
    train.add_argument("--llm", default=LLM, help="whose shape the states have; their values are random")
    train.add_argument("--datasets", type=names, default=SIZES, help="names or folders, by commas")
    train.add_argument(
        "--protocol", default="fair", choices=list(PROTOCOLS), metavar="PROTOCOL", help=protocols()
    )
    train.add_argument("--users", type=int, default=1024, help="users that a validation pass ranks, at most")
    train.add_argument("--rounds", type=int, default=3, help="processes for each size, in turn")
    train.add_argument("--steps", type=int, default=20, help="optimiser steps that each times")
    train.add_argument("--warm-up", type=int, default=3, help="optimiser steps before them")
    train.add_argument("--passes", type=int, default=2, help="validation passes that each times")
    add_set(train)
    train.set_defaults(call=_train)
    encode = sub.add_parser("encode", description="Encode a catalogue; compare with bare forward passes.")
    encode.add_argument("--dataset", default=SIZES[-1], help="a name or a folder")
    encode.add_argument("--llm", default=LLM, help="a short name, a hub id or a folder")
    encode.add_argument("--items", type=int, help="the first so many texts only")
    encode.add_argument("--layers", type=numbers, default=[], help="by commas; the top one if not given")
    encode.add_argument("--states-dtype", default="float32", choices=["float32", "bfloat16"])
    encode.add_argument("--no-kill", action="store_true", help="leave out the run that is killed and resumed")
    encode.set_defaults(call=_encode)
    for command in (train, encode):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the record to this file")
    show = sub.add_parser("show", description="Print the tables of records.")
    show.add_argument("files", type=Path, nargs="+", metavar="FILE")
    show.set_defaults(call=_show)
    plot = sub.add_parser("plot", description="Draw the record of `train`.")
    plot.add_argument("file", type=Path, metavar="FILE")
    plot.add_argument("--folder", type=Path, default=Path("docs"), help="where the files go")
    plot.set_defaults(call=_plot)
    return parser


def _train(options: argparse.Namespace) -> int:
    from benchmark.run.spec import RunSpec
    from benchmark.speed.measure import Amounts
    from studies.growth.record import write
    from studies.growth.table import show
    from studies.growth.training import grow

    own = ("epochs=1", *options.set)  # the schedule of all epochs is not needed, and takes its time
    cells = [
        RunSpec(dataset, options.llm, options.method, options.protocol, 0, own)
        for dataset in options.datasets
    ]
    amounts = Amounts(options.steps, options.warm_up, options.passes, detail=False)
    record = grow(cells, options.users, options.rounds, amounts)
    if options.json:
        write(record, options.json)
    print(show(record))
    return 0 if len(record.measured) == len(record.sizes) else 1


def _encode(options: argparse.Namespace) -> int:
    from studies.growth.encoding import measure_encoding
    from studies.growth.record import write
    from studies.growth.table import show

    record = measure_encoding(
        options.dataset, options.llm, options.items, options.layers, options.states_dtype, not options.no_kill
    )
    if options.json:
        write(record, options.json)
    print(show(record))
    return 0


def _show(options: argparse.Namespace) -> int:
    from studies.growth.record import read
    from studies.growth.table import show

    print("\n\n".join(show(read(path)) for path in options.files))
    return 0


def _plot(options: argparse.Namespace) -> int:
    from studies.growth.plot import save
    from studies.growth.record import GrowthRecord, read

    record = read(options.file)
    if not isinstance(record, GrowthRecord):
        raise UserError(f"{options.file} is a record of encoding, which has no plot; give one of `train`.")
    print(*save(record, options.folder), sep="\n")
    return 0
