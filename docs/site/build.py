"""Build the documentation site: `make docs`, or `python docs/site/build.py [FOLDER]` (default: build/site).

The pages are those of the repository, staged at the same places, so that a link works there and here. What is
made from code is added: the Python API, the fields of a record, a gallery of the report's plots. Every link
that leads nowhere fails the build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SITE = Path("docs/site")
PAGES = ("*.md", "docs/**/*.md", "studies/**/*.md", "datasets/*/*.md", "results/paper/*.md", "reports/*.md")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]+)")
CONTENTS = {
    "Start": ["docs/results", "docs/paper", "CHANGELOG"],
    "Use": [
        "docs/datasets", "docs/llms", "docs/grid", "docs/report", "docs/api", "docs/audit", "docs/temporal",
        "docs/verify", "docs/leaderboard",
    ],
    "Extend": ["CONTRIBUTING", "docs/architecture"],
    "Methods": [],
    "Reference": [
        "docs/settings", "reference/python", "reference/record", "docs/records", "docs/statistics",
        "docs/costs", "docs/reliability", "docs/planted",
    ],
    "Evidence": ["gallery", "reports/README", "docs/measurements/README", "studies/README"],
}  # fmt: skip
"""Heading -> pages. Pages of docs/ that stand nowhere follow those to use; methods have their own heading."""
FIRST = "README"
QUIET = {**os.environ, "PYTHONWARNINGS": "ignore:The pynvml package is deprecated"}
BELOW = {
    "reports/README.md": "*",
    "docs/datasets.md": "../datasets/*/README",
    "docs/measurements/README.md": "*",
    "docs/paper.md": "../results/paper/README",
}
"""Page -> pages below it that the navigation does not list."""
FORWARD = """<!doctype html>
<meta charset="utf-8"><title>AdaptRec</title>
<meta http-equiv="refresh" content="0; url=README.html"><a href="README.html">AdaptRec</a>
"""
PYTHON = """# Python API
Made from the code. How to use it: [docs/api.md](../docs/api.md).

```{eval-rst}
.. automodule:: adaptrec
   :members:
   :imported-members:
```
"""


def main(arguments: list[str]) -> int:
    """Build into the folder that the arguments name; returns the exit status of Sphinx."""
    out = Path(arguments[0]) if arguments else ROOT / "build" / "site"
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", folder, str(out)]
        status = subprocess.run(command, check=False, env=QUIET).returncode
    if not status:
        print(out / "index.html")
    return status


def stage(folder: Path) -> None:
    """Lay out all pages, and the files that they link, below `folder`."""
    pages = sorted({page for pattern in PAGES for page in ROOT.glob(pattern)})
    linked = {path for page in pages for path in _linked(page)}
    for path in (*pages, *linked):
        place = folder / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for page, below in BELOW.items():
        with (folder / page).open("a", encoding="utf-8") as file:
            file.write(f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{below}\n```\n")
    shutil.copy(ROOT / SITE / "conf.py", folder)
    (folder / "extra").mkdir()
    shutil.copytree(ROOT / "reports", folder / "extra" / "reports", ignore=shutil.ignore_patterns("*.md"))
    (folder / "reference").mkdir()
    (folder / "reference" / "python.md").write_text(PYTHON)
    (folder / "reference" / "record.md").write_text(record_page())
    (folder / "gallery.md").write_text(gallery())
    with (folder / f"{FIRST}.md").open("a", encoding="utf-8") as file:
        file.write(contents(folder))
    (folder / "extra" / "index.html").write_text(FORWARD)


def _linked(page: Path) -> Iterator[Path]:
    """Files of the repository that a page links and that are no pages."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / link).resolve()
        if path.is_file() and path.suffix != ".md" and path.is_relative_to(ROOT):
            yield path


def contents(folder: Path) -> str:
    """The navigation, as directives at the end of the first page."""
    listed = {page for pages in CONTENTS.values() for page in pages}
    found = {
        "Use": [f"docs/{path.stem}" for path in sorted((folder / "docs").glob("*.md"))],
        "Methods": [f"docs/methods/{path.stem}" for path in sorted((folder / "docs/methods").glob("*.md"))],
    }
    parts = []
    for heading, pages in CONTENTS.items():
        more = [page for page in found.get(heading, []) if page not in listed]
        lines = "\n".join([*pages, *more])
        parts.append(f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n:maxdepth: 1\n\n{lines}\n```\n")
    return "".join(parts)


def record_page() -> str:
    """The fields of a record by their schema, docs/record.schema.json."""
    schema = json.loads((ROOT / "docs" / "record.schema.json").read_text())
    parts = ["# Fields of a record", "Made from [record.schema.json](../docs/record.schema.json)."]
    for name, model in {"RunRecord": schema, **schema.get("$defs", {})}.items():
        if fields := model.get("properties"):
            parts += [f"## {name}", str(model.get("description", ""))]
            lines = [f"| `{field}` | {_kind(one)} | {_cell(one)} |" for field, one in fields.items()]
            parts.append("\n".join(["| field | type | meaning |", "|:--|:--|:--|", *lines]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _kind(field: dict[str, Any]) -> str:
    """The type of a field in a few words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(one) for one in field["anyOf"]))
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _cell(field: dict[str, Any]) -> str:
    return " ".join(str(field.get("description", "")).split()).replace("|", "\\|")


def gallery() -> str:
    """All plots of the committed report, those of the answers first."""
    plots = sorted(
        (ROOT / "reports").glob("*.png"), key=lambda path: ("-answer-" not in path.name, path.name)
    )
    shown = [f"## {path.stem}\n\n![{path.stem}](reports/{path.name})" for path in plots]
    return (
        "\n\n".join(["# Gallery", "The plots of the committed [report](reports/README.md).", *shown]) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
