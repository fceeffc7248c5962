"""The page of the report as text: one file, no network, nothing breaks out, the same each time."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from report_page import BREAK, QUOTES, SCRIPT, SVG, front, nasty, runs, whole
from report_records import as_runs, record, store

from benchmark.cli import parsers
from benchmark.report.page import page
from benchmark.report.rendering import number, numeric
from benchmark.report.section import Block, Cell, Chapter, Plot, Section, configuration
from benchmark.results.record import below_results
from benchmark.results.tuning import Trial, Tuning

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Elements with their attributes and own text; complains of what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.text.setdefault(tag, []).append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def text():
    return whole()


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_it_is_whole_and_the_same_twice(text):
    assert text.startswith("<!DOCTYPE html>")
    assert whole() == text


def test_nothing_is_loaded_and_only_our_script_may_run(read):
    loaded = [e[key] for _, e in read.found for key in ("src", "srcset", "poster", "data") if key in e]
    assert loaded
    assert all(source.startswith("data:") for source in loaded)
    assert [e["href"] for e in read.of("link")] == ["data:,"]
    assert len(read.of("script")) == len(read.of("style")) == 1
    policy = next(e["content"] for e in read.of("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    links = [e["href"] for e in read.of("a")]
    assert not [link for link in links if re.match(r"\w+:|//", link)]


def test_names_stand_as_text(read):
    assert not [e for _, e in read.found if any(name.startswith("on") for name in e)]
    assert [e["alt"] for e in read.of("img")] == [f"{BREAK} {QUOTES}: {SCRIPT} {QUOTES}"] * 2
    assert f"run --dataset '{SCRIPT}' {QUOTES}" in read.text["code"]
    assert {SCRIPT, QUOTES} <= set(read.text["li"])
    assert {BREAK, "none", "1, true"} <= set(read.text["dd"])
    assert {"deep", "er.still", SCRIPT, QUOTES} <= {*read.text["dt"], *read.text["h5"]}


def test_every_link_inside_the_page_leads_somewhere_and_ids_are_single(read):
    ids = [e["id"] for _, e in read.found if "id" in e]
    assert len(ids) == len(set(ids))
    assert {e["href"][1:] for e in read.of("a") if e["href"].startswith("#")} <= set(ids)


def test_each_figure_of_a_run_leads_to_its_configuration(text):
    table = text[text.index('id="s-toy-minilm-fair"') :]
    row = next(line for line in table.split("<tr>") if "ssna-mean" in line)
    anchors = set(re.findall(r'href="#(c\d+)"', row))
    assert len(anchors) == 1
    assert row.count("<a ") == row.count("<td") + 1
    config = text[text.index(f'<details id="{anchors.pop()}"') :]
    assert config[:200].count("toy/minilm/ssna-mean") == 1


def test_a_configuration_stands_once_though_sections_share_it():
    behind = {"x": {"a": 1}}
    cells = [[Cell("r", record="x"), Cell("1", record="x")]]
    sections = [
        Section(stem, stem, "", [Block("t", ["r", "v"], cells)], records=behind) for stem in ("a", "b")
    ]
    other = Section("c", "c", "", [Block("t", ["r", "v"], cells)], records={"x": {"a": 2}})
    assert page(front(), [Chapter("p", sections)]).count('class="config"') == 1
    assert page(front(), [Chapter("p", [*sections, other])]).count('class="config"') == 2


def test_figures_of_a_configuration_are_as_long_as_a_reader_needs():
    facts = {"per item": 13.552337514253136, "rate": 0.0003, "eps": 1e-12, "items": 4385, "on": True}
    section = Section("s", "s", "", [Block("t", ["r"], [[Cell("r", record="x")]])], records={"x": facts})
    shown = re.findall(
        r"<dd>([^<]+)</dd>", page(front(), [Chapter("p", [section])]).partition('class="config"')[2]
    )
    assert shown == ["13.5523", "0.0003", "1e-12", "4385", "true"]


def test_paths_of_records_are_links_from_the_folder_of_the_report(text):
    assert 'href="../results/toy/%3Ci%3E/a%20b.json"' in text


def test_plots_are_pictures_of_their_own(read):
    for image in read.of("img"):
        assert image["src"].startswith("data:image/svg+xml,")
        drawn = unquote(image["src"].partition(",")[2])
        assert ElementTree.canonicalize(drawn) == ElementTree.canonicalize(SVG.decode())


def test_a_large_vector_plot_is_shown_as_its_bitmap():
    section = Section("s", "s", "", [], plots=[Plot("p", "P", {"svg": SVG * 2000, "png": b"\x89PNG"})])
    assert "data:image/png;base64,iVBORw==" in page(front(), [Chapter("x", [section])])


def test_a_plot_without_data_is_reported():
    section = Section("s", "s", "", [], plots=[Plot("p", "Curves", {})])
    assert "Curves: no run has what this plot shows." in page(front(), [Chapter("x", [section])])


def test_a_cell_that_names_no_record_is_refused():
    with pytest.raises(ValueError, match="section s: cell '1' names no record: gone"):
        Section("s", "s", "", [Block("t", ["a", "b"], [[Cell("r"), Cell("1", record="gone")]])])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".0939 ± .0075", 0.0939), ("1,234,567", 1234567), ("1.67 host", 1.67), ("32.5 / 42.5", 32.5),
        ("<.001", 0.001), ("-9.7 %", -9.7), ("\N{MINUS SIGN}9.7%", -9.7), ("+3", 3), ("30.8x", 30.8),
        ("2\N{MULTIPLICATION SIGN}", 2), ("1e-4", 1e-4), ("12.5*", 12.5), ("1 of 2", 1), ("0", 0),
        ("n/a", None), ("", None), ("-", None), (".", None), ("3-gram", None), ("6542df63c0d0", None),
        ("oom", None), ("x3", None), ("2xyz", None),
    ],
)  # fmt: skip
def test_the_number_that_a_cell_begins_with(text, value):
    assert number(text) == value


def test_columns_of_figures_and_of_words():
    rows = [
        ["1", "1", "a better", "n/a", "oom", "3 of 4"],
        ["2", "n/a", "b better", "n/a", ".2", "a and b"],
    ]
    block = Block("t", list("abcdef"), [[Cell(text) for text in row] for row in rows])
    assert numeric(block) == [False, True, False, True, True, False]


def test_figures_carry_the_number_they_are_sorted_by(text):
    inside = text[text.index('id="s-nasty"') :]
    cells = re.findall(r'<td(?: data-n="([^"]+)")?><a [^>]*>([^<]+)<', inside)
    assert [(key or text) for key, text in cells] == [
        "0.0939", "1234", ".5", "n/a", "30.8", "-2", "oom", "10",
    ]  # fmt: skip


def test_of_several_seeds_one_configuration_with_all_files(tmp_path):
    made = [record(seed=seed, overrides=["ids=add", "x=a b"], world_size=2) for seed in (0, 1)]
    folder = store(tmp_path / "results", made)
    stored = as_runs(made, folder)
    found = configuration(stored)
    assert stored[0].configuration == stored[1].configuration == f"toy/minilm/ssna/{made[0].config_hash}"
    assert found["files"] == [below_results(run.path) for run in stored]
    assert str(tmp_path) not in str(found)
    assert found["seeds"] == dict.fromkeys(["seed 0", "seed 1"], "12 epochs, the best 8")
    assert found["settings"] == made[0].settings
    assert found["tuning"] == {}


def test_a_configuration_states_how_it_was_tuned():
    trials = [Trial(overrides=[f"heads={n}"], config_hash=str(n), status="ok", recall=0.1) for n in (1, 2)]
    search = Tuning(mode="grid", chosen=["heads=2"], grid={"heads": [1, 2]}, seed=5, trials=trials)
    run = record(tuning=search, trials=2)
    found = configuration(as_runs([run]))["tuning"]
    assert found == {
        "mode": "grid", "chosen": ["heads=2"], "searched": {"heads": [1, 2]}, "trials": 2, "seed": 5,
    }  # fmt: skip


def test_the_command_of_a_configuration_is_one_that_bench_takes():
    made = [record(seed=seed, overrides=["ids=add", "x=a b"], world_size=2) for seed in (3, 1)]
    words = shlex.split(configuration(as_runs(made))["command"])
    assert words[:3] == ["python", "-m", "benchmark"]
    options = parsers()[0].parse_args(words[3:])
    assert (options.command, options.datasets, options.llms, options.methods) == (
        "bench", ["toy"], ["minilm"], ["ssna"],
    )  # fmt: skip
    assert (options.protocols, options.seeds, options.processes) == (["paper"], [3, 1], 2)
    assert options.set == ["ids=add", "x=a b"]


def test_sections_of_runs_link_all_but_bounds():
    for section in runs():
        for block in section.blocks:
            linked = [row for row in block.rows if row[0].record]
            assert all(cell.record == row[0].record for row in linked for cell in row)
            assert {row[0].text for row in block.rows if not row[0].record} <= {"chance", "ceiling"}


def test_the_nasty_section_is_used_whole(text):
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > len(nasty().blocks[0].rows)
