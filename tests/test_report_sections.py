"""Sections of other packages: the example of the docs works, and a broken one stops nothing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from method_packages import install
from report_records import few, store

from benchmark.cli import main
from benchmark.report.build import GROUP

DOCS = Path(__file__).resolve().parents[1] / "docs" / "report.md"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return store(tmp_path / "results", [run for run in few() if run.protocol == "fair"])


def report(results: Path) -> Path:
    out = results.parent / "reports"
    assert main(["report", "--results", str(results), "--out", str(out)]) == 0
    return out


def offer(folder: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], **modules: str) -> None:
    """Install a package with these sections."""
    install(folder / "site", "adaptrec-others", points, modules, group=GROUP)
    monkeypatch.syspath_prepend(str(folder / "site"))


def test_the_example_of_the_docs_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n# gap\.py\n(.*?)^```$", text, re.M | re.S)
    (project,) = re.findall(r"^```toml\n(\[project\S+sections.*?)^```$", text, re.M | re.S)
    assert len(source.splitlines()) < 30
    offer(tmp_path, monkeypatch, tomllib.loads(project)["project"]["entry-points"][GROUP], gap=source)
    out = report(results)
    assert "warning" not in capsys.readouterr().err
    table = (out / "toy-gap.md").read_text()
    assert "| ssna, fair" in table and "+0.0000" in table
    assert "Gap on toy" in (out / "index.html").read_text()
    assert "Sections of other packages" in (out / "README.md").read_text()
    assert r"\input{toy-gap.tex}" in (out / "report.tex").read_text()


BROKEN = {
    "raises": (
        "def sections(results):\n    raise KeyError('no such column')\n",
        "KeyError: 'no such column'",
    ),
    "ends": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "gives_text": ("def sections(results):\n    return ['text']\n", "not 'text'"),
    "escapes": (
        "from benchmark.report.section import Section\n"
        "def sections(results):\n    return [Section('../away', 'title', 'caption', [])]\n",
        "stem '../away' must have only letters",
    ),
}


def test_a_broken_section_is_one_line_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {name: f"{name}:sections" for name in [*BROKEN, "gone"]}
    offer(tmp_path, monkeypatch, points, **{name: source for name, (source, _) in BROKEN.items()})
    out = report(results)
    errors, page = capsys.readouterr().err.splitlines(), (out / "README.md").read_text()
    for name, reason in {
        **{name: reason for name, (_, reason) in BROKEN.items()},
        "gone": "No module",
    }.items():
        (line,) = [line for line in errors if f"The section '{name}' of adaptrec-others" in line]
        assert line.startswith("warning: ") and reason in line
        assert f"The section '{name}' of adaptrec-others" in page
    assert (out / "toy-minilm-fair.csv").exists() and not list(tmp_path.glob("away*"))
