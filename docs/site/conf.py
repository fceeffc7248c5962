"""How Sphinx makes the site: Markdown as the usual hosts of repositories read it, so that the pages of the
repository are those of the site. `build.py` stages the pages; see there."""

import importlib.metadata
from typing import Any

from markdown_it import MarkdownIt

project = "AdaptRec"
author = copyright = "The AdaptRec founders"
release = importlib.metadata.version("adaptrec")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
root_doc = "README"
html_theme = "furo"
html_title = f"AdaptRec {release}"
html_show_sourcelink = False
html_extra_path = ["extra"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 5
myst_links_external_new_tab = True
autodoc_typehints = "signature"
autodoc_member_order = "groupwise"
# pages of Markdown may begin below the first level, and a lexer need not know every line of a terminal
suppress_warnings = ["myst.header", "misc.highlighting_failure"]


def as_html(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are Markdown as well, which autodoc would take for reStructuredText."""
    html = MarkdownIt("commonmark").enable("table").render("\n".join(lines))
    lines[:] = [".. raw:: html", "", *(f"   {line}" for line in html.splitlines()), ""] if html else []


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_html)
