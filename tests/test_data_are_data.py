"""Names from outside are shown and never obeyed: by a terminal, a spreadsheet, Markdown, LaTeX, HTML or JSON.

One name that would do harm in each of them stands for everything that comes from data, records and packages.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from data_folders import BLINK, TEN, TWELVE, write_folder
from matplotlib.figure import Figure
from method_packages import install
from report_records import record, store

from benchmark.cli import main
from benchmark.escape import code_span, csv_cell, escape_markdown, json_line, one_line, visible_line
from benchmark.serve.card import model_card
from benchmark.serve.folder import ModelConfig
from methods import plugins, registry

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\u202e\u2066\ufeff"
MARKUP = (
    r"=1+cmd|'x'!A0 <img src=x onerror=alert(1)> **b** `c` [l](http:--x) | $x_1$ \input{secret} _i_ &amp;"
)
HOSTILE = f"{MARKUP} {ESCAPES}\nFORGED: ok\r\x1b[A"
"""No `/`, so that it can be the name of a folder."""
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
Run = Callable[..., str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints, after the test that no terminal obeys any of it."""

    def run(*command: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(list(command)) == status, capsys.readouterr().err
        out, errors = capsys.readouterr()
        for text in (out, errors):
            assert not UNSEEN.search(text), text
            assert not re.search(r"^FORGED", text, re.M), text
        return out + errors

    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with the hostile name in each field that holds a text."""
    details = {"name": HOSTILE, "source": HOSTILE}
    more = {"dataset": HOSTILE, "llm": HOSTILE, "llm_details": details, "overrides": [f"a={HOSTILE}"]}
    more |= {"device_name": HOSTILE, "packages": {HOSTILE: HOSTILE}, "hyperparameters": {HOSTILE: HOSTILE}}
    source = {"distribution": HOSTILE, "version": HOSTILE, "external": True}
    runs = [record(name, 0.2 + n / 10, method_source=source, config_hash=f"h{n}", **more)
            for n, name in enumerate((HOSTILE, "ssna"))]  # fmt: skip
    failed = {"status": "failed", "error": HOSTILE, "metrics": {}, "curve": [], "best_epoch": None}
    runs.append(record("tmlp", epochs_run=0, config_hash="h9", **{**more, **failed}))
    return store(tmp_path_factory.mktemp("hostile") / "results", runs)


@pytest.fixture(scope="module")
def report(results: Path) -> dict[str, str]:
    """The files of the report, but for pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *_, **__: None)  # pictures take most of the time
        assert main(["report", "--results", str(results), "--out", str(results.parent / "out")]) == 0
    files = [path for path in (results.parent / "out").iterdir() if path.suffix not in (".png", ".svg")]
    return {path.name: path.read_bytes().decode() for path in files}


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines(keepends=True), strict=True))


def is_no_formula(cell: str) -> bool:
    number = re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?", cell)
    return cell == "-" or bool(number) or not cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def plain_markdown(text: str) -> str:
    """The text that a reader of the Markdown sees; fails where a name made a tag, a link or emphasis."""
    markdown_it = pytest.importorskip("markdown_it")
    shown = []
    for token in markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        assert token.type != "html_block", token.content
        for part in token.children or ():
            assert part.type not in ("html_inline", "em_open"), token.content
            if part.type in ("link_open", "image"):
                target = str(part.attrs.get("href") or part.attrs.get("src"))
                assert re.fullmatch(r"[\w.-]+\.(csv|tex|md|html|png|svg)", target), target
            shown.append(part.content)
    return "\n".join(shown)


def test_a_report_in_markdown_shows_names_as_they_are(report: dict[str, str]) -> None:
    texts = [text for name, text in report.items() if name.endswith(".md")]
    assert len(texts) > 2
    assert any(one_line(MARKUP) in plain_markdown(text) for text in texts)
    for text in texts:
        plain_markdown(text)
        assert not UNSEEN.search(text) and not re.search(r"^FORGED", text, re.M)


def test_a_report_in_csv_has_no_formula(report: dict[str, str]) -> None:
    tables = [rows(text) for name, text in report.items() if name.endswith(".csv")]
    cells = [cell for table in tables for row in table for cell in row]
    assert any(cell.startswith("'=1+cmd") for cell in cells)
    assert all(map(is_no_formula, cells)) and not any(map(UNSEEN.search, cells))
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def test_a_report_in_latex_has_no_command_of_a_name(report: dict[str, str]) -> None:
    for name, text in report.items():
        if name.endswith(".tex"):
            assert r"\input{secret}" not in text and not UNSEEN.search(text)
            inputs = set(re.findall(r"(?<!\\)\\input\{([^}]*)\}", text))
            assert inputs <= {other for other in report if other.endswith(".tex")}
            body = re.sub(r"\\[a-zA-Z]+|\\[^a-zA-Z]|\$\\[a-z]+\$|\$\^\\circ\$|^%.*", "", text, flags=re.M)
            assert not re.search(r"[$#^~]", body), body
    assert any(r"\textbackslash{}input\{secret\}" in text for text in report.values())


class Tags(HTMLParser):
    """The start tags of a page, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(f"{tag} {name}" for name, _ in attrs)]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_page_of_a_report_has_no_tag_of_a_name(report: dict[str, str]) -> None:
    tags = Tags(report["index.html"])
    assert tags.found.count("script") == 1 and not [name for name in tags.found if re.search(r" on\w", name)]
    assert all(re.match(r"#|data:,|data:image/|[\w./%-]+$", link) for link in tags.links)
    assert "&lt;img src=x onerror=alert(1)&gt;" in report["index.html"]
    assert not UNSEEN.search(report["index.html"])


@pytest.mark.parametrize("form", ["csv", "md"])
def test_the_long_table_keeps_its_shape(results: Path, output: Run, form: str) -> None:
    text = output("results", "--results", str(results), "--format", form)
    if form == "md":
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1 and len(table) > 20
        assert "<img" not in plain_markdown("\n".join(table)).replace("<img src=x", "", 10**6)
    else:
        table = rows(text)
        assert len({len(row) for row in table}) == 1
        assert all(is_no_formula(cell) for row in table for cell in row)


def test_tables_on_a_terminal_have_a_line_a_row(results: Path, output: Run) -> None:
    text = output("advise", "--results", str(results))
    assert r"\nFORGED: ok\r" in text or "FORGED" in text
    one, other = (str(path) for path in sorted(results.rglob("h[01]-s0.json")))
    assert "[2J" in output("explain", one, other, "--results", str(results))
    assert output("explain", HOSTILE, other, "--results", str(results), status=2).count("\n") == 1


def test_a_folder_with_a_hostile_name_and_hostile_data(tmp_path: Path, output: Run, in_process: None) -> None:
    items = {item: f"{text} {ESCAPES} {MARKUP}" for item, text in TEN.items()}
    data = write_folder(tmp_path / HOSTILE, TWELVE, {**items, "j": items["a"]})
    assert "12 users" in output("prepare", "--dataset", str(data))
    assert r"10 items: thing a \x1b[2J" in output("audit", str(data))
    command = ("bench", "--datasets", str(data), "--methods", "id", "--protocols", "fair", "--epochs", "1")
    text = output(*command, "--set", *BLINK, "--results", str(tmp_path / "results"), "--tune", "none",
                  "--llms", "random-tiny")  # fmt: skip
    assert "masked" in text
    bad = write_folder(tmp_path / "bad", {**TWELVE, MARKUP + ESCAPES: "a b ?"}, TEN)
    output("prepare", "--dataset", str(bad), status=2)
    for option in ("--method", "--llm", "--set", "--protocol", "--dataset"):
        given = {"--dataset": str(data), "--method": "tmlp", option: HOSTILE}
        words = [word for pair in given.items() for word in pair]
        error = output("run", *words, "--results", str(tmp_path / "none"), status=2)
        assert error.count("\n") == 1


def test_the_label_of_a_plug_in_is_listed_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Run
) -> None:
    label = HOSTILE.partition("\n")[0].replace("=", "-").replace("[", "(").replace("\x7f", "")
    source = f"class Odd:\n    {label!a}\n    reads = 'ids'\n"
    install(tmp_path, "odd-package", {"odd": "odd:Odd", label: "odd:Odd"}, {"odd": source})
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.entries.cache_clear()
    plugins.warn.cache_clear()
    try:
        listed = output("list", "methods")
        assert "may hold letters, digits" in listed and re.search(r"^odd +-1\+cmd", listed, re.M)
    finally:
        registry.entries.cache_clear()


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """Of a model whose every text is hostile."""
    texts = {
        "adaptrec": "0.1.0",
        "created": "now",
        "dataset": HOSTILE,
        "method": HOSTILE,
        "protocol": HOSTILE,
    }
    return ModelConfig(
        format=1, seed=0, best_epoch=1, config_hash=HOSTILE, llm=HOSTILE, pooling=HOSTILE, total_steps=1,
        llm_details={"digest": HOSTILE, "revision": HOSTILE}, settings={}, hyperparameters={HOSTILE: HOSTILE},
        data={"key": HOSTILE, "fingerprint": {"users": 1, "sha256": HOSTILE}}, packages={HOSTILE: HOSTILE},
        method_source={"reads": [HOSTILE]}, metrics={"test": {HOSTILE: 0.5}}, files={}, **texts,
    )  # fmt: skip


def test_a_model_card_shows_names_as_they_are(config: ModelConfig) -> None:
    card = model_card(config, Path(HOSTILE))
    assert not UNSEEN.search(card)
    blocks = re.findall(r"^```+(sh|python)\n(.*?)^```+$", card, re.M | re.S)
    assert [language for language, _ in blocks] == ["sh", "python"]
    shown = plain_markdown(card)
    assert one_line(HOSTILE) in shown and shown.count("<img") >= 8
    compile(blocks[1][1], "card", "exec")


IDS = [HOSTILE, "a\tb", "", "\x7f", "\u2028x", "=1", "plain"]


def test_one_function_for_each_form() -> None:
    for name in IDS:
        assert not UNSEEN.search(visible_line(name)) and len(visible_line(name).splitlines()) <= 1
        assert json.loads(json_line(name)) == name and json_line(name).isascii()
        assert json_line(name).isprintable()
        assert is_no_formula(csv_cell(name))
    for name in (
        "- a",
        "+ a",
        "1. a",
        "2) a",
        "# a",
        "---",
        "===",
        "http://a.b",
        "www.a.b",
        "`",
        "a``b",
        HOSTILE,
    ):
        assert plain_markdown(escape_markdown(name)).replace("\n", "") == one_line(name)
        assert plain_markdown(f"- {escape_markdown(name)}").replace("\n", "") == one_line(name)
        assert plain_markdown(f"x {code_span(name)} y") == "x \n" + one_line(name) + "\n y"
    assert escape_markdown("http://a.b www.c.d") == r"http\://a.b www\.c.d"  # GitHub makes links of these
