"""Relative links of the documents lead somewhere, to a heading where they name one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "datasets/*/*.md", "results/paper/*.md", "reports/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """What a reader sees as text: no blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def links(document: str) -> list[tuple[Path, str]]:
    """Files and anchors that a document names, addresses of other hosts left out."""
    path = ROOT / document
    found = []
    for link in LINK.findall(prose(path)):
        if not re.match(r"\w+:", link):
            name, _, anchor = link.partition("#")
            found.append(((path.parent / name).resolve() if name else path, anchor))
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    found = links(document)
    gone = [str(path.relative_to(ROOT)) for path, _ in found if not path.exists()]
    assert gone == []
    named = [(path, anchor) for path, anchor in found if anchor and path.suffix == ".md"]
    assert [f"{path.name}#{anchor}" for path, anchor in named if anchor not in anchors(path)] == []


def test_there_are_links_to_follow() -> None:
    assert len([one for document in DOCUMENTS for one in links(document)]) > 50
