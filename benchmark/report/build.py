"""Write the report: tables and plots of all records below a folder, and a page that links them.

Equal records give equal bytes, so that a report can be committed and its changes read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from benchmark.record import RunRecord, iter_records, write_atomically, write_json
from benchmark.report.forms import Style
from benchmark.report.names import stems_of
from benchmark.report.plots import Kind, draw
from benchmark.report.styles import escape_markdown
from benchmark.report.tables import Group, groups, render
from methods.errors import UserError, unknown

FIELDS = ("dataset", "llm", "method", "protocol")
MANIFEST = "manifest.json"
SUFFIXES: dict[str, Style] = {".csv": "csv", ".tex": "latex"}
PLOTS: dict[Kind, str] = {"curves": "Learning curves", "quality": "Quality, time and memory"}
Only = Mapping[str, Collection[str]]


def build_report(results: Path, out: Path, only: Only | None = None) -> list[Path]:
    """Write tables (Markdown, CSV, LaTeX), plots (PNG, SVG) and `README.md` of the records below `results`.

    `only` narrows the records: a field of FIELDS -> the values wanted; an empty collection does not narrow.
    Records without language model stay whatever `only["llm"]` says. Returns the files written, in order.
    Files of an earlier report that the records no longer give are removed, if `manifest.json` has them and
    nobody has changed them since. Raises `UserError` where there is no such record, and before it would
    write over a file that no report has made.
    """
    wanted = {name: sorted(values) for name, values in (only or {}).items() if values}
    files: dict[str, bytes] = {}
    stems = stems_of(groups(_select(results, wanted)))
    for stem, group in stems.items():
        files |= _files(stem, group)
    files["README.md"] = _index(stems, files, _command(results, out, wanted)).encode()
    return _write(out, files)


def _select(results: Path, wanted: Mapping[str, Collection[str]]) -> list[RunRecord]:
    runs = [run for _, run in iter_records(results)]
    if not runs:
        raise UserError(
            f"there are no run records to report: nothing matches "
            f"{results}/<dataset>/<llm>/<method>/<hash>-s<seed>.json. "
            "Make some with `python -m benchmark bench`, or give their folder by --results."
        )
    for name, values in wanted.items():
        if name not in FIELDS:
            raise unknown("field to select records by:", name, FIELDS)
        there = sorted({str(getattr(run, name)) for run in runs if getattr(run, name) is not None})
        for value in values:
            if value not in there:
                raise unknown(f"{name} among the records below {results}:", value, there)
    chosen = [run for run in runs if all(getattr(run, name) in {None, *wanted[name]} for name in wanted)]
    if not chosen:
        asked = "; ".join(f"{name}: {', '.join(values)}" for name, values in wanted.items())
        raise UserError(f"no record below {results} has all of these at once: {asked}. Ask for less.")
    return chosen


def _files(stem: str, group: Group) -> dict[str, bytes]:
    """All files of a table, by name."""
    files = {stem + suffix: render(group, style).encode() for suffix, style in SUFFIXES.items()}
    page = [f"# {_title(group)}", render(group, "markdown").rstrip("\n")]
    for kind, heading in PLOTS.items():
        drawn = draw(group, kind)
        files |= {f"{stem}-{kind}.{form}": data for form, data in drawn.items()}
        shown = f"![{heading}]({stem}-{kind}.png)" if drawn else "No run has what this plot shows."
        page.append(f"## {heading}\n\n{shown}")
    files[f"{stem}.md"] = ("\n\n".join(page) + "\n").encode()
    return files


def _title(group: Group) -> str:
    key = group.key
    return escape_markdown(f"{key.dataset}, {key.llm or 'no language model'}, protocol {key.protocol}")


def _index(stems: Mapping[str, Group], files: Mapping[str, bytes], command: str) -> str:
    """The page that links everything."""
    lines = [
        "# Report",
        "",
        "Made from run records; do not edit. To make it again, in the folder above this one:",
        "",
        f"```\n{command}\n```",
        "",
        "| table | set apart by | hardware | rows | forms | learning curves | quality, time, memory |",
        "|:--|:--|:--|--:|:--|:--|:--|",
    ]
    for stem, group in stems.items():
        apart = escape_markdown(", ".join(group.differs)) or "-"
        forms = " ".join(f"[{suffix[1:]}]({stem}{suffix})" for suffix in SUFFIXES)
        plots = [
            " ".join(
                f"[{form}]({name})" for form in ("png", "svg") if (name := f"{stem}-{kind}.{form}") in files
            )
            for kind in PLOTS
        ]
        title = f"[{_title(group)}]({stem}.md)"
        hardware = escape_markdown(group.hardware)
        cells = [title, apart, hardware, str(len(group.rows)), forms, *(plot or "none" for plot in plots)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _command(results: Path, out: Path, wanted: Mapping[str, Collection[str]]) -> str:
    """What makes this report again, as seen from the folder above it."""
    whole = out.resolve()
    words = [
        "--results",
        Path(os.path.relpath(results.resolve(), whole.parent)).as_posix(),
        "--out",
        whole.name,
    ]
    for name, values in wanted.items():
        words += [f"--{name}s", ",".join(values)]
    return shlex.join(["python", "-m", "benchmark", "report", *words])


def _write(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files, then remove what an earlier report left; the manifest names them all throughout."""
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
