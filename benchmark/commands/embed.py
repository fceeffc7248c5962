"""`adaptrec embed`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmark.commands.options import Parser, add_columns, name, reading

SUMMARY = "Embed new items with a model folder, without training."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a folder that `adaptrec export` wrote")
    parser.add_argument(
        "--items", type=Path, required=True, metavar="FILE",
        help="a .tsv, .csv or .parquet file with item_id and text columns",
    )  # fmt: skip
    add_columns(parser, "the file of items", "item_id=asin")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("embedded.parquet"), metavar="FILE",
        help="file to write, .parquet or .npz; `adaptrec recommend --items` reads it",
    )  # fmt: skip
    parser.add_argument(
        "--llm", type=name, help="where the language model is, if the name in the folder does not lead to it"
    )


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.results.measures import several
    from benchmark.serve.items import EmbeddedItems, check_output, read_new_items, write_embedded
    from benchmark.serve.model import load_model

    check_output(options.out)
    model = load_model(options.model)
    ids, texts = read_new_items(options.items, model.config, reading(options))
    model.check_new(ids, str(options.items))
    start = time.perf_counter()
    vectors = model.embed(texts, options.llm).cpu().numpy()
    seconds = time.perf_counter() - start
    write_embedded(options.out, EmbeddedItems(ids, texts, vectors, str(options.items)), model.config)
    print(options.out)
    count = several(len(ids), "item")
    print(f"{count} in {seconds:.2f} s, the loading of the models included", file=sys.stderr)
    return 0
