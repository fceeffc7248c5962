"""docs/settings.md says what the classes say."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from benchmark.config import Settings
from benchmark.explain.settings_page import render
from methods import BUILTIN, CONTROLS, registry

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m benchmark.explain.settings_page > docs/settings.md"
    )


def test_every_setting_has_a_row_with_default_and_meaning() -> None:
    rows: dict[str, list[list[str]]] = {}
    for line in render().splitlines():
        if line.startswith("| `"):
            rows.setdefault(line.split(" | ")[0].strip("| `"), []).append(line.strip("|\n ").split(" | "))
    configs = [registry.load(name).Config for name in (*BUILTIN, *CONTROLS)]
    declared = [field for cls in (Settings, *configs) for field in fields(cls)]
    assert set(rows) == {field.name for field in declared}
    for field in declared:
        assert f"`{field.default}`" in [row[1] for row in rows[field.name]]
        described = all(len(row[-1]) > 10 for row in rows[field.name])
        assert described, f"{field.name} has no line that says what it is"


def test_bounds_and_choices_are_spelled_out() -> None:
    page = render()
    assert "| `temperature` | `0.07` |  |  |  | number above 0 to 100 |" in page
    assert "| `sasrec_dropout` | `0.5` |  |  |  | number from 0 below 1 |" in page
    assert (
        "| `candidates` | `batch` | `batch` | `auto` | `auto` | `batch`, `catalogue`, `sampled`, `auto` |"
        in page
    )
    assert "`paper` sets `init=paper`; `fair` sets `init=standardised`" in page
