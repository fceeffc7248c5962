"""The report as one HTML page without network: sortable tables, plots, the configuration behind each figure.

Everything that a record says reaches the page as escaped text; no data is put into the script, and the page's
own policy lets no other script run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from benchmark.config import NO_PROTOCOL
from benchmark.escape import visible
from benchmark.report.rendering import marked, number, numeric
from benchmark.report.section import Block, Cell, Chapter, Plot, Section
from benchmark.results.figures import Results
from benchmark.results.measures import share
from benchmark.results.published import COUNTS

if TYPE_CHECKING:
    import pandas as pd

ANSWER = "The answer"
"""Heads the chapter with which the page begins."""
LEFT_OUT = "Left out"
"""Heads the list of records that do not count."""
LARGEST_SVG = 250_000
"""Bytes of a vector plot above which the page takes the bitmap, if that is smaller."""


@dataclass(frozen=True)
class Front:
    """What the page and the index say first."""

    title: str
    source: str
    """What the figures are made from."""
    command: str
    """Makes the report again."""
    results: str
    """The folder of the records as seen from the report's."""
    counts: Mapping[str, int]
    """What is counted -> how many."""
    runs: Block
    """What was run on what."""
    left_out: Sequence[str] = ()
    """Why records do not count, a line each."""


def page(front: Front, chapters: Sequence[Chapter]) -> str:
    """The whole page. Equal input gives equal text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    configurations = Configurations()
    parts = [
        {"heading": chapter.heading, "sections": [_section(s, configurations) for s in chapter.sections]}
        for chapter in chapters
    ]
    first = sum(chapter.heading == ANSWER for chapter in chapters)  # it stands before the overview
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_visible
    )
    environment.tests["nested"] = lambda value: isinstance(value, Mapping)
    return environment.from_string(_asset("page.html")).render(
        front=front,
        left_out=LEFT_OUT,
        runs=_table(front.runs, {}),
        parts=[parts[first:], parts[:first]][::-1],
        configurations=configurations.listed,
        style=Markup(_asset("page.css")),  # ours, and no data in it
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _visible(value: Any) -> Any:
    """Text of a record without invisible characters; anything else as it is."""
    return visible(value) if type(value) is str else value


@cache
def _asset(name: str) -> str:
    return files("benchmark.report").joinpath(name).read_text(encoding="utf-8")


@dataclass
class Configurations:
    """The configurations of the page: each once, under an id, whatever sections name it."""

    listed: list[dict[str, Any]] = field(default_factory=list)
    _ids: dict[str, str] = field(default_factory=dict)

    def id_of(self, name: str, configuration: Any) -> str:
        """The id in the page of a configuration."""
        key = json.dumps([name, configuration], sort_keys=True, default=str)
        if key not in self._ids:
            self._ids[key] = f"c{len(self._ids) + 1}"
            self.listed.append({"anchor": self._ids[key], "name": name, **_split(configuration)})
        return self._ids[key]


def _split(configuration: Any) -> dict[str, Any]:
    """A configuration as command, files, single values, and groups of values."""
    values = dict(configuration) if isinstance(configuration, Mapping) else {"configuration": configuration}
    command, paths = values.pop("command", ""), values.pop("files", [])
    groups = {name: _flat(value) for name, value in values.items() if isinstance(value, Mapping) and value}
    single = {name: _written(value) for name, value in values.items() if not isinstance(value, Mapping)}
    return {"command": command, "files": paths, "values": single, "groups": groups}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, the names joined by a point."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": _written(value)}
    return flat


def _written(value: Any) -> str:
    """A value as a reader writes it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_written, value)) or "none"
    if value is None or value == {}:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _section(section: Section, configurations: Configurations) -> dict[str, Any]:
    ids = {name: configurations.id_of(name, section.records[name]) for name in _named(section)}
    return {
        "stem": section.stem,
        "title": section.title,
        "caption": section.caption,
        "tables": [_table(block, ids) for block in section.blocks],
        "legend": marked(section.blocks),
        "notes": section.notes,
        "plots": [_plot(section.stem, plot) for plot in section.plots if plot.forms],
        "plots_first": section.plots_first,
        "facets": _facets(section),
        "limits": list(dict.fromkeys(name for block in section.blocks for name in block.limits)),
        "missing": [plot.heading for plot in section.plots if not plot.forms],
    }


def _facets(section: Section) -> dict[str, list[str]]:
    """What a reader may choose the tables of a section by -> the values, in their order."""
    found: dict[str, dict[str, None]] = {}
    for block in section.blocks:
        for name, value in block.facets.items():
            found.setdefault(name, {})[value] = None
    return {name: [*values] for name, values in found.items()}


def _named(section: Section) -> Iterator[str]:
    """The records that cells name, in the order of their first cell."""
    cells = (cell for block in section.blocks for row in block.rows for cell in row)
    yield from dict.fromkeys(cell.record for cell in cells if cell.record)


def _table(block: Block, ids: Mapping[str, str]) -> dict[str, Any]:
    kinds = numeric(block)
    widths = [_spread(block, column) for column in range(len(block.heads))]
    rows = [
        [_cell(cell, kind, width, ids) for cell, kind, width in zip(row, kinds, widths, strict=True)]
        for row in block.rows
    ]
    inner = len(rows) - block.bounds
    limits = {column: name for name, column in block.limits.items()}
    heads = [
        {"text": head, "figures": kind, "limit": limits.get(place)}
        for place, (head, kind) in enumerate(zip(block.heads, kinds, strict=True))
    ]
    return {
        "title": block.title,
        "heads": heads,
        "bodies": [body for body in (rows[:inner], rows[inner:]) if body],
        "facets": [*block.facets.values()],
    }


def _spread(block: Block, column: int) -> int:
    """Characters of the longest `± half-width` of a column: so much room is left, so that digits stand below
    each other."""
    return max((len(row[column].text.partition(" ± ")[2]) for row in block.rows), default=0)


def _cell(cell: Cell, figures: bool, width: int, ids: Mapping[str, str]) -> dict[str, Any]:
    mean, _, spread = cell.text.partition(" ± ") if figures and width else (cell.text, "", "")
    return {
        "text": mean,
        "spread": spread,
        "width": width + 2 if figures and width else 0,
        "mark": cell.mark,
        "anchor": ids.get(cell.record, ""),
        "badge": cell.badge,
        "link": cell.link,
        "sort": _sort(cell.text) if figures else "",
        "figures": figures,
    }


def _sort(text: str) -> str:
    """The number that a cell is sorted by; empty where it has none, or its text is the number."""
    value = number(text)
    plain = value is None or re.fullmatch(r"-?\d*\.?\d+", text)
    return "" if plain else str(value).removesuffix(".0")


def _plot(stem: str, plot: Plot) -> dict[str, Any]:
    """As a picture of its own, so that ids of two plots cannot clash and nothing in it can run."""
    from markupsafe import Markup

    svg, png = plot.forms.get("svg", b""), plot.forms.get("png", b"")
    if svg and (len(svg) <= LARGEST_SVG or not png or len(svg) <= len(png)):
        drawn = re.sub(r">\s+<", "><", svg.decode())
        drawn = re.sub(r"<[^>']*>", lambda tag: tag[0].replace('"', "'"), drawn)  # the page has to escape `"`
        data = "data:image/svg+xml," + quote(" ".join(drawn.split()), safe=" !$'()*+,-./:;<=>?@[]_~")
    else:
        data = "data:image/png;base64," + base64.b64encode(png).decode()
    links = {form: f"{stem}-{plot.name}.{form}" for form in sorted(plot.forms)}
    return {"heading": plot.heading, "data": Markup(data), "links": links}


OVERVIEW_HEADS = [
    "dataset", "users", "items", "interactions", "language model", "protocol", "methods", "runs", "hardware",
    "best masked R@10",
]  # fmt: skip


def overview(results: Results) -> Block:
    """A row for each dataset, language model and protocol; runs without a language model have their own."""
    figures = results.figures
    sizes = figures[figures.kind == "count"].drop_duplicates(["record", "measure"])
    sizes = sizes.pivot(index="record", columns="measure", values="value").reindex(columns=[*COUNTS])
    runs = figures[figures.kind == "run"].fillna({"llm": "none"}).join(sizes, on="record")
    machine = {run.name: run.record.environment.device_name for run in results.runs}
    data = {run.name: str(run.record.data.get("key")) for run in results.runs}
    runs = runs.assign(device=runs.record.map(machine), data=runs.record.map(data))
    quality = figures[(figures.split == "test_masked") & (figures.measure == "recall@10")]
    rows = []
    for (dataset, llm, protocol, _), same in runs.groupby(["dataset", "llm", "protocol", "data"]):
        finished = int(same.value.sum())
        texts = [
            dataset,
            *("n/a" if math.isnan(size) else f"{size:,.0f}" for size in same[[*COUNTS]].max()),
            llm,
            protocol,
            ", ".join(sorted(same.method.unique())),
            str(finished) if finished == len(same) else f"{finished} of {len(same)}",
            "; ".join(sorted(same.device.unique())),
        ]
        texts.append(_best(quality[quality.record.isin(same.record)]))
        rows.append([Cell(str(text)) for text in texts])
    return Block("What was run", OVERVIEW_HEADS, rows)


def _best(figures: pd.DataFrame) -> str:
    """The largest mean of a configuration, its method, and its number of seeds."""
    means = [
        (values.mean(), f"{method} (n = {len(values)})")
        for (method, _), values in figures.groupby(["method", "configuration"]).value
    ]
    return " ".join((share(max(means)[0]), max(means)[1])) if means else "n/a"


def tiles(results: Results) -> dict[str, int]:
    """Counts that tell the size of the study, or of what the paper prints, at a glance."""
    figures = results.figures
    names = {"dataset": "datasets", "llm": "language models", "method": "methods"}
    counts = {label: figures[column].nunique() for column, label in names.items()}
    if results.source == "paper":
        return {"published figures": len(figures), **counts}
    runs = figures[figures.kind == "run"]
    counts = {label: runs[column].nunique() for column, label in names.items()}
    finished = int(runs.value.sum())
    counts = {"runs": finished, **counts, "protocols": runs.protocol[runs.protocol != NO_PROTOCOL].nunique()}
    return counts if finished == len(runs) else {**counts, "runs that failed": len(runs) - finished}
