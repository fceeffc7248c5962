"""`adaptrec recommend`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser

SUMMARY = "Recommend items from a model folder."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a folder that `adaptrec export` wrote")
    parser.add_argument(
        "--history", required=True, metavar="FILE|IDS",
        help="item ids by commas, the most recent last; or a file with a user a line: .jsonl, .tsv or .txt",
    )  # fmt: skip
    parser.add_argument("--k", type=int, default=10, help="items of a list")
    parser.add_argument("--exclude-history", action="store_true", help="leave out items of the history")
    parser.add_argument("--format", default="table", choices=["table", "jsonl"], metavar="table|jsonl")
    parser.add_argument(
        "--items", type=Path, metavar="FILE", help="new items that `adaptrec embed` wrote, to recommend too"
    )
    parser.add_argument(
        "--index", default="exact", choices=["exact", "hnsw"], metavar="exact|hnsw",
        help="hnsw: approximate search, which needs `pip install 'adaptrec[index]'`; its recall is printed",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.serve.answers import recommend
    from benchmark.serve.items import read_embedded
    from benchmark.serve.model import load_model

    model = load_model(options.model)
    if options.items:
        model = model.with_items(read_embedded(options.items, model.config))
    recommend(model, options.history, options.k, options.exclude_history, options.format, options.index)
    return 0
