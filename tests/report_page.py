"""A page of made-up sections, with names that would break out of where they stand."""

from __future__ import annotations

from dataclasses import replace

from report_records import grouped, results_of, study

from benchmark.report import tables
from benchmark.report.page import Front, overview, page, tiles
from benchmark.report.section import Block, Cell, Chapter, Plot, Section

SCRIPT = "<script>alert(1)</script>"
QUOTES = """a&b "c" 'd' {{ 7 * 7 }} </script></style>"""
BREAK = '"><img src=x onerror=alert(2)>'
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="540pt" height="316pt" viewBox="0 0 540 316">'
    b'<defs><clipPath id="p1"><rect width="9" height="9"/></clipPath></defs>'
    b'<rect width="540" height="316" fill="#eee"/><text x="9" y="40">100 % of "it" &amp; more</text></svg>'
)
FIGURES = [".0939 ± .0075", "1,234 GPU", ".5", "n/a", "30.8x", "-2 %", "oom", "10"]


def nasty() -> Section:
    """Names from outside in every place."""
    cells = [
        [Cell(f"{SCRIPT} {n}", record=BREAK), Cell(text, record=BREAK)] for n, text in enumerate(FIGURES)
    ]
    block = Block(f"{QUOTES} {SCRIPT}", ["name", BREAK], [*cells, [Cell("chance"), Cell(".0001")]], bounds=1)
    behind = {
        BREAK: {
            "command": f"run --dataset '{SCRIPT}' {QUOTES}",
            "files": ["toy/<i>/a b.json"],
            "deep": {"er": {"still": None}, SCRIPT: [1, True]},
            QUOTES: BREAK,
        }
    }
    plot = Plot("p", f"{BREAK} {QUOTES}", {"svg": SVG, "png": b"\x89PNG"})
    return Section("nasty", f"{SCRIPT} {QUOTES}", BREAK, [block], [SCRIPT, QUOTES], [plot, plot], (), behind)


def board() -> Section:
    """A leaderboard of two tables, with hostile names where a table, a badge and a download have theirs."""
    heads = ["row", "checked", "total cost", "trials", "bundle"]
    rows = [
        ("plain", "L2", "90 s", "12"),
        (SCRIPT, "local", "1,234 CPU s", "1"),
        ("slow", "L3", "7,201 s", "1"),
    ]
    cells = [
        [Cell(name, record=name), Cell(level, badge="local" if level == "local" else "level"), Cell(cost),
         Cell(trials), Cell("a b.adaptrec.zip", link=f"submitted/{QUOTES}.zip")]
        for name, level, cost, trials in rows
    ]  # fmt: skip
    limits = {"total cost": 2, "trials": 3}
    blocks = [
        Block(dataset, heads, cells, facets={"dataset": dataset, BREAK: protocol}, limits=limits)
        for dataset, protocol in (("toy", "one"), (QUOTES, "two"))
    ]
    return Section("board", "Rows", "All.", blocks, records={name: {} for name, *_ in rows})


def runs() -> list[Section]:
    """The tables of the made-up study, without plots."""
    found = []
    for group in grouped(study()):
        section = tables.section(group, f"toy-minilm-{group.key.protocol}")
        plain = {name: {"method": "m", "seeds": {"seed 0": "fine"}} for name in section.records}
        found.append(replace(section, records=plain))
    return found


def front(**changes: str) -> Front:
    """What the page says first."""
    results = results_of(study())
    defaults = {"title": "AdaptRec report", "source": "records", "command": "python -m benchmark report"}
    return Front(
        **{**defaults, **changes}, results="../results", counts=tiles(results), runs=overview(results)
    )


def whole() -> str:
    """The page of all of it."""
    return page(front(), [Chapter("Runs", runs()), Chapter(f"Hostile {SCRIPT}", [nasty(), board()])])
