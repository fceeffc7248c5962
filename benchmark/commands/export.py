"""`adaptrec export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser

SUMMARY = "Write the model of a finished run as a folder that needs no data."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("record", type=Path, metavar="RECORD", help="the record of a run with --keep-model")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help="folder to write; one below models when left out"
    )
    parser.add_argument(
        "--onnx", action="store_true",
        help="also write ONNX files of the user side and, where it reads texts alone, of the item side; "
        "wants `pip install 'adaptrec[onnx]'`",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.serve.export import export

    print(export(options.record, options.out, options.onnx))
    return 0
