"""Print the main columns of a report's tables, best row first, as one Markdown table.

python studies short_table reports/scientific-minilm-fair.md --without top_layers,mlp_layers,lr_factor
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.commands.options import Parser, names
from methods.errors import UserError

QUALITY = ["masked R@10", "masked N@10", "raw R@10", "raw N@10", "seeds"]
COST = ["CPU s/epoch", "best / epochs", "peak GiB", "trainable"]


def main(arguments: Sequence[str]) -> int:
    """Print the table; returns the exit status."""
    options = _parser().parse_args(arguments)
    print(short(_tables(options.report), options.without))
    return 0


def short(tables: Sequence[pd.DataFrame], without: Sequence[str]) -> str:
    """Rows whose name has none of the texts `without`, best masked R@10 first, as Markdown."""
    quality = next(table for table in tables if QUALITY[0] in table)[QUALITY]
    cost = next(table for table in tables if COST[0] in table)[COST]
    rows = quality.join(cost).fillna("").replace("n/a", "")
    rows = rows[[not any(text in name for text in without) for name in rows.index]]
    rows = rows.sort_values(
        QUALITY[0], key=lambda cells: cells.str.strip("*"), ascending=False, kind="stable"
    )
    rows.index = [name if name == "chance" else _marked(name) for name in rows.index]
    return rows.rename_axis("method").to_markdown(
        disable_numparse=True, colalign=("left", *["right"] * rows.shape[1])
    )


def _marked(name: str) -> str:
    """The name in code type, the dagger of an earlier generation behind it."""
    return f"`{name.removesuffix(' †')}`" + " †" * name.endswith(" †")


def _tables(path: Path) -> list[pd.DataFrame]:
    """The Markdown tables of a file, each with the first column as its index."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; name a file such as reports/DATASET-LLM-fair.md."
        ) from None
    tables = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if block.startswith("|") and len({*map(len, lines)}) == 1:
            head, _, *rows = lines
            tables.append(pd.DataFrame(rows, columns=head).set_index(head[0]))
    if not all(any(column in table for table in tables) for column in (QUALITY[0], COST[0])):
        raise UserError(
            f"{path} has no tables with the columns '{QUALITY[0]}' and '{COST[0]}': name a report."
        )
    return tables


def _parser() -> Parser:
    parser = Parser("python studies short_table", description="Main columns of a report, best row first.")
    parser.add_argument("report", type=Path, help="the Markdown file of a report")
    parser.add_argument(
        "--without", type=names, default=[], help="texts, by commas: rows that have one are left out"
    )
    return parser
