"""Tables in the documents are what their commands print; `WRITE_DOCS=1` writes them anew.

A command is named in a comment before the table, or is the script `python - <<'END'` that stands above it.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from benchmark.cli import main as adaptrec
from studies.__main__ import main as studies

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"((?:python - <<'END'\n(?P<script>(?:(?!```).)*)\nEND\n```\n\n)?"
    r"<!-- output of: (?:the script above|python (?P<command>[^\n]+)) -->\n)(.*?)(<!-- end of output -->)",
    re.DOTALL,
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if BLOCK.search(path.read_text(encoding="utf-8"))
)


def printed(block: re.Match[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script, `-m benchmark ...` or `studies ...` in the root of the checkout; returns its output."""
    capsys.readouterr()
    if (command := block["command"]) is None:
        exec(compile(block["script"], "the script above", "exec"), {})
        return capsys.readouterr().out
    words = [
        name for word in shlex.split(command) for name in (sorted(map(str, Path().glob(word))) or [word])
    ]
    status = studies(words[1:]) if words[0] == "studies" else adaptrec(words[2:])
    assert status == 0, command
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_a_table_is_what_its_command_prints(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    fresh = BLOCK.sub(lambda block: block[1] + printed(block, capsys) + block[5], text)
    if os.environ.get("WRITE_DOCS"):
        path.write_text(fresh, encoding="utf-8")
    assert fresh == text, "the page is out of date: WRITE_DOCS=1 writes it"
