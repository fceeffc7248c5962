"""`adaptrec audit`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_data_dir, add_reading, output_file, reading

SUMMARY = "Print what decides what a comparison on a dataset can show."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("dataset", metavar="DATASET", help="a recipe's name or a folder")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write all figures to this file"
    )
    add_reading(parser)
    add_data_dir(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.audit.figures import audit, lines
    from benchmark.data.catalogue import find
    from benchmark.data.prepare import prepare
    from benchmark.files import cache_folder, write_json
    from benchmark.process.progress import print_steps

    file: Path | None = options.json
    recipe = find(options.dataset, reading(options))
    with print_steps(recipe.name) as begin:
        prepared = prepare(recipe, cache_folder(), begin)
        figures = audit(prepared, recipe, cache_folder(), begin)
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for line in lines(prepared, figures):
        print(line)
    if file is not None:
        write_json(file, figures)
    return 0
