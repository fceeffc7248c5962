"""Documents: relative links lead to a file and, where they name one, to a heading; pages are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    ".",
    "docs",
    "docs/measurements",
    "docs/methods",
    "studies",
    "datasets/*",
    "results/paper",
    "reports",
)
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md")
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """The page without blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def links(document: str) -> list[tuple[Path, str]]:
    """Files and anchors that a document names, without addresses of other hosts."""
    path = ROOT / document
    relative = [link.partition("#") for link in LINK.findall(prose(path)) if not re.match(r"\w+:", link)]
    return [((path.parent / name).resolve() if name else path, anchor) for name, _, anchor in relative]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    targets = links(document)
    assert [str(path.relative_to(ROOT)) for path, _ in targets if not path.exists()] == []
    headings = [(path, anchor) for path, anchor in targets if anchor and path.suffix == ".md"]
    assert [f"{path.name}#{anchor}" for path, anchor in headings if anchor not in anchors(path)] == []


def test_there_are_links_to_follow() -> None:
    assert sum(len(links(document)) for document in DOCUMENTS) > 50


@pytest.mark.parametrize(
    "document",
    [
        name
        for name in DOCUMENTS
        if name.startswith(("docs/", "README", "studies/")) and name != "docs/settings.md"
    ],
)
def test_a_page_is_short(document: str) -> None:
    """Use first, measurements and arguments on pages of their own: at most 250 lines each.

    The page of settings is a reference that is made from the classes, a table for each method.
    """
    assert len((ROOT / document).read_text(encoding="utf-8").splitlines()) <= 250
