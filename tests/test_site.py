"""The documentation site: every page has a place, references are complete, a link into nothing fails."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmark.results.record import RunRecord

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
spec = importlib.util.spec_from_file_location("site_build", SITE / "build.py")
assert spec is not None and spec.loader is not None
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    build.stage(folder)
    return folder


def test_every_page_of_the_documents_stands_once_in_the_navigation(staged: Path) -> None:
    listed = Counter(
        re.findall(r"^(?:docs|reference|studies|reports)/[\w/-]+$", build.contents(staged), re.M)
    )
    assert set(listed.values()) == {1}
    pages = {path.relative_to(staged).with_suffix("").as_posix() for path in (staged / "docs").glob("*.md")}
    pages |= {f"docs/methods/{path.stem}" for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages <= set(listed)


def test_what_pages_link_is_staged_at_the_same_place(staged: Path) -> None:
    for name in ("docs/record.schema.json", "docs/growth.png", "CITATION.cff", "extra/reports/index.html"):
        assert (staged / name).is_file()
    assert (staged / "docs" / "grid.md").read_bytes() == (ROOT / "docs" / "grid.md").read_bytes()


def test_the_reference_has_every_field_of_a_record(staged: Path) -> None:
    page = (staged / "reference" / "record.md").read_text()
    (own,) = re.findall(r"^## RunRecord\n(.*?)^## ", page, re.M | re.S)
    assert re.findall(r"^\| `(\w+)` ", own, re.M) == list(RunRecord.model_fields)
    named = set(re.findall(r"\]\(#(\w+)\)", page))
    assert named <= {heading.lower() for heading in re.findall(r"^## (\w+)", page, re.M)}


def test_the_gallery_has_every_plot_of_the_report(staged: Path) -> None:
    shown = re.findall(r"\]\(reports/([^)]+\.png)\)", (staged / "gallery.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (ROOT / "reports").glob("*.png"))


@pytest.mark.parametrize(
    ("link", "status"), [("docs/a.md", 0), ("docs/b.md", 1), ("docs/a.md#nowhere", 1), ("docs/a.md#b-c", 0)]
)
def test_a_link_into_nothing_fails_the_build(tmp_path: Path, link: str, status: int) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    (tmp_path / "docs").mkdir()
    (tmp_path / "extra").mkdir()
    shutil.copy(SITE / "conf.py", tmp_path)
    (tmp_path / "docs" / "a.md").write_text("# A\n\n## B c\n")
    pages = "```{toctree}\ndocs/a\n```\n"
    (tmp_path / "README.md").write_text(f"# First\n\n[there]({link})\n\n{pages}")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        str(tmp_path),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
