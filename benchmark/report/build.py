"""Write the report: the files of every section, a page that links them, and one that holds everything.

Equal records give equal bytes, so that a report can be committed and its changes read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

from benchmark.escape import escape_markdown, fenced
from benchmark.files import write_atomically, write_json
from benchmark.report.page import ANSWER, LEFT_OUT, Front, overview, page, tiles
from benchmark.report.rendering import Style, latex_document, markdown, render
from benchmark.report.section import Chapter, Section
from benchmark.results.figures import Results
from benchmark.results.groups import slug
from benchmark.results.index import Entry, entries_below
from benchmark.results.published import SOURCES, Source
from benchmark.results.schema import METRICS
from benchmark.results.store import OnFault, StoredRun, ignore, usable_run
from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered, one_line

MADE_FROM: dict[Source, str] = {
    "ours": "run records",
    "paper": "the published figures alone",
    "both": "run records, with the published figures beside them",
}
GROUP = "adaptrec.sections"
"""Entry points of other packages: functions of `Results` that give `Section`s."""
BUILT_IN = {
    ANSWER: ["answer"],
    "Leaderboard": ["leaderboard"],
    "Runs": ["tables"],
    "The paper's tables": ["paper"],
    "Differences between methods": ["differences"],
    "Recommended items and groups of users": ["recommended"],
    "Figures": ["tuning", "sweeps", "total_cost", "agreement"],
}
"""Chapter -> modules of this folder whose `sections` it holds."""
OTHERS = "Sections of other packages"
SUFFIXES: dict[str, Style] = {".csv": "csv", ".tex": "latex"}
TITLE = "AdaptRec report"
MANIFEST = "manifest.json"
RESERVED = {"readme.md", "index.html", "report.tex", MANIFEST}
Only = Mapping[str, Collection[str]]


def build_report(
    results: Path,
    out: Path,
    only: Only | None = None,
    source: Source = "ours",
    on_fault: OnFault = ignore,
    metrics: Sequence[str] = METRICS,
) -> list[Path]:
    """Write tables (Markdown, CSV, LaTeX) and plots (PNG, SVG) of the records below `results`, and what holds
    all of them: `README.md`, `report.tex` and `index.html`.

    `only` narrows the records: a field of NARROWED_BY -> its values; an empty collection does not narrow.
    Records without language model stay whatever `only["llm"]` says. Tables of runs and tests of differences
    show `metrics`. Records that do not count are left out; the report and `on_fault` get the reason of each.
    Returns the files written, in order.
    Files of an earlier report that the records no longer give are removed, if `manifest.json` has them and
    nobody has changed them since. Raises `UserError` where there is no such record (`source` "paper" reads
    none), and before it would write over a file that no report has made.
    """
    selected = {name: sorted(values) for name, values in (only or {}).items() if values}
    if source not in SOURCES:
        raise unknown("source of a report:", source, SOURCES)
    if source == "paper" and selected:
        raise UserError(
            f"source 'paper' reads no records, so that it cannot be narrowed by {', '.join(selected)}."
        )
    left_out: list[str] = []
    runs = [] if source == "paper" else _read(results, selected, left_out.append, metrics)
    entries = {} if source == "paper" else entries_below(results)
    others = _submitted(entries, selected, left_out.append, metrics)
    shown = Results(tuple(runs), source, tuple(metrics), entries, tuple(others))
    parts = _named(_chapters(shown, left_out))
    for line in left_out:
        on_fault(line)
    left_out = [_below(line, results) for line in left_out]
    files = {
        name: data for part in parts for section in part.sections for name, data in _files(section).items()
    }
    command = _command(results, out, selected, source, metrics)
    below = Path(os.path.relpath(results.resolve(), out.resolve())).as_posix()
    front = Front(TITLE, MADE_FROM[source], command, below, tiles(shown), overview(shown), left_out)
    files["README.md"] = _index(front, parts).encode()
    files["report.tex"] = latex_document(TITLE, parts, left_out).encode()
    files["index.html"] = page(front, parts).encode()
    return write_files(out, files)


def _chapters(results: Results, left_out: list[str]) -> list[Chapter]:
    """All sections; chapters without any left out. Appends to `left_out` which sections fail, and why."""
    chapters = []
    for heading, modules in BUILT_IN.items():
        points = [EntryPoint(name, f"benchmark.report.{name}:sections", GROUP) for name in modules]
        chapters.append(Chapter(heading, [section for point in points for section in point.load()(results)]))
    others: list[Section] = []
    for point in offered(GROUP):
        try:
            others += _checked(point.load()(results))
        except BROKEN as error:
            package = point.dist.name if point.dist else "an unknown package"
            left_out.append(
                f"The section '{point.name}' of {package} ({point.value}) is left out: {one_line(error)}."
            )
    return [chapter for chapter in (*chapters, Chapter(OTHERS, others)) if chapter.sections]


def _checked(sections: Iterable[Section]) -> list[Section]:
    """The sections of another package; raises where one of them cannot be written."""
    checked = list(sections)
    for section in checked:
        if not isinstance(section, Section):
            raise TypeError(f"a section must be a benchmark.report.section.Section, not {section!r}")
        if section.stem != slug(section.stem):
            raise ValueError(f"stem '{section.stem}' must have only letters, digits and . _ -")
        _files(section)
    return checked


def _read(results: Path, only: Only, on_fault: OnFault, metrics: Sequence[str]) -> list[StoredRun]:
    """The runs whose figures `only` leaves."""
    from benchmark.results.figures import PAPER_ALONE, measured, narrow, read_runs

    runs = read_runs(results, on_fault, metrics, PAPER_ALONE)
    if not only:  # the long table is made for all sections later
        return runs
    kept = set(narrow(measured(runs, metrics), only).record.dropna())
    return [run for run in runs if run.name in kept]


def _submitted(
    entries: Mapping[Path, Entry], only: Only, on_fault: OnFault, metrics: Sequence[str]
) -> Iterator[StoredRun]:
    """The runs of bundles that `only` leaves."""
    for path, entry in entries.items():
        run = usable_run(path, on_fault, metrics) if entry.bundle else None
        if run and all(_is_one(getattr(run.record, name), name, values) for name, values in only.items()):
            yield run


def _is_one(value: str | None, name: str, values: Collection[str]) -> bool:
    return value in values or (name == "llm" and value is None)


def _below(line: str, results: Path) -> str:
    """The line with paths as seen from the folder of the results, so that equal records give equal bytes."""
    return line.replace(f"{results}/", "")


def _named(parts: Sequence[Chapter]) -> list[Chapter]:
    """The same with a number after the stem of a section whose files would take another's place."""
    taken = set(RESERVED)  # in lower case: some file systems do not tell cases apart
    chapters = []
    for part in parts:
        sections = []
        for section in part.sections:
            number, named = 1, section
            while taken & (names := {name.lower() for name in _names(named)}):
                number += 1
                named = replace(section, stem=f"{section.stem}-{number}")
            taken |= names
            sections.append(named)
        chapters.append(Chapter(part.heading, sections))
    return chapters


def _names(section: Section) -> Iterator[str]:
    """The files of a section."""
    yield from (section.stem + suffix for suffix in (*SUFFIXES, ".md"))
    yield from (f"{section.stem}-{plot.name}.{form}" for plot in section.plots for form in plot.forms)


def _files(section: Section) -> dict[str, bytes]:
    """All files of a section, by name."""
    stem = section.stem
    files = {stem + suffix: render(section, style).encode() for suffix, style in SUFFIXES.items()}
    plots = []
    for plot in section.plots:
        files |= {f"{stem}-{plot.name}.{form}": data for form, data in plot.forms.items()}
        heading = escape_markdown(plot.heading)
        drawn = f"![{heading}]({stem}-{plot.name}.png)" if plot.forms else "No run has what this plot shows."
        plots.append(f"## {heading}\n\n{drawn}")
    tables = render(section, "markdown").rstrip("\n")
    parts = [*plots, tables] if section.plots_first else [tables, *plots]
    lines = [f"# {escape_markdown(section.title)}", *parts]
    files[f"{stem}.md"] = ("\n\n".join(lines) + "\n").encode()
    return files


def _index(front: Front, parts: Sequence[Chapter]) -> str:
    """The page that links everything."""
    lines = [
        "# Report",
        "",
        "[index.html](index.html) has everything on one page: sortable tables, and the configuration of each "
        "figure. [report.tex](report.tex) is one document (`pdflatex report.tex`).",
        "",
        f"Made from {front.source}; do not edit. To regenerate it, run in the parent folder:",
        "",
        fenced(front.command),
    ]
    for section in (section for part in parts if part.heading == ANSWER for section in part.sections):
        pictures = [
            f"![{escape_markdown(plot.heading)}]({section.stem}-{plot.name}.png)" for plot in section.plots
        ]
        lines += ["", escape_markdown(section.caption), "", *pictures]
    if front.runs.rows:
        lines += ["", markdown("", [front.runs], ()).rstrip("\n")]
    if front.left_out:
        lines += ["", f"## {LEFT_OUT}", "", *(f"- {escape_markdown(line)}" for line in front.left_out)]
    for part in parts:
        lines += [
            "",
            f"## {escape_markdown(part.heading)}",
            "",
            "| section | forms | plots |",
            "|:--|:--|:--|",
        ]
        lines += [_link(section) for section in part.sections]
    return "\n".join(lines) + "\n"


def _link(section: Section) -> str:
    stem = section.stem
    forms = " ".join(f"[{suffix[1:]}]({stem}{suffix})" for suffix in SUFFIXES)
    plots = [
        f"{escape_markdown(plot.heading)} "
        + " ".join(f"[{form}]({stem}-{plot.name}.{form})" for form in sorted(plot.forms))
        for plot in section.plots
        if plot.forms
    ]
    cells = [f"[{escape_markdown(section.title)}]({stem}.md)", forms, ", ".join(plots) or "none"]
    return f"| {' | '.join(cells)} |"


def _command(
    results: Path, out: Path, selected: Mapping[str, Collection[str]], source: Source, metrics: Sequence[str]
) -> str:
    """What makes this report again, as seen from the folder above it."""
    whole = out.resolve()
    words = [] if source == "ours" else ["--source", source]
    if source != "paper":
        words += ["--results", Path(os.path.relpath(results.resolve(), whole.parent)).as_posix()]
    words += ["--out", whole.name]
    for name, values in selected.items():
        words += [f"--{name}s", ",".join(values)]
    if tuple(metrics) != METRICS:
        words += ["--metrics", ",".join(metrics)]
    return shlex.join(["python", "-m", "benchmark", "report", *words])


def write_files(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files, then remove what an earlier report left; the manifest names them all throughout.

    Raises `UserError` before it would write over a file that no report has made.
    """
    out.mkdir(parents=True, exist_ok=True)
    old = _manifest(out / MANIFEST)
    for name in files:
        if name not in old and (out / name).exists():
            raise UserError(
                f"{out / name} exists and {out / MANIFEST} does not say that a report made it. "
                "Move it away or give another folder by --out."
            )
    new = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_json(out / MANIFEST, {**old, **new})
    for name, data in files.items():
        write_atomically(out / name, data)
    for name in old.keys() - new.keys():
        path = out / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == old[name]:
            path.unlink()
    write_json(out / MANIFEST, new)
    return [out / name for name in sorted([*files, MANIFEST])]


def _manifest(path: Path) -> dict[str, str]:
    """File name -> SHA-256 of what an earlier report wrote; empty where there was none."""
    if not path.exists():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        known = {str(name): str(digest) for name, digest in read.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not the list of files that a report writes; move it away.") from error
    if strange := [name for name in known if Path(name).name != name]:
        raise UserError(f"{path} names '{strange[0]}', which is no file of its folder; move it away.")
    return known
