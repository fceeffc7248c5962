"""The table of trials by fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.faults.trial import AS_WITHOUT, ONE_LINE, Row

MARKS = "<!-- faults of the machine -->\n", "<!-- end of faults -->\n"
HEAD = ("fault", "trials", "as without it", "one clear line", "anything else", "something lost")


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """In Markdown, a fault a line, and their sum."""
    trials = [Row(**row) for found in rows.values() for row in found]
    groups = {
        fault: [row for row in trials if row.fault == fault]
        for fault in dict.fromkeys(row.fault for row in trials)
    }
    lines = [HEAD, ("---", *["--:"] * (len(HEAD) - 1))]
    lines += [(fault, *_counts(found)) for fault, found in (groups | {"all": trials}).items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _counts(rows: Sequence[Row]) -> list[str]:
    same, line = (sum(row.outcome == outcome for row in rows) for outcome in (AS_WITHOUT, ONE_LINE))
    lost = sum(bool(row.lost) for row in rows)
    return [str(number) for number in (len(rows), same, line, len(rows) - same - line, lost)]


def on_page(page: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """`page` with the table between its marks."""
    before, _, rest = page.partition(MARKS[0])
    return f"{before}{MARKS[0]}{table(rows)}{MARKS[1]}{rest.partition(MARKS[1])[2]}"
