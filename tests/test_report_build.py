"""The files of a report: complete, the same for the same records, and nobody else's touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_records import failure, few, record, store

from benchmark.cli import main
from benchmark.report.build import _named, build_report
from benchmark.report.section import Chapter, Plot, Section
from methods.errors import UserError

WHOLE = ["README.md", "index.html", "manifest.json", "report.tex"]
"""What holds, links or lists all of a report."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return store(tmp_path_factory.mktemp("study") / "results", few())


@pytest.fixture(scope="module")
def written(results):
    return build_report(results, results.parent / "reports")


@pytest.fixture(scope="module")
def report(results, written):
    return results.parent / "reports"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tables(path):
    """Whether a CSV is one of the tables of runs."""
    return "seeds_not_ok" in path.read_text().splitlines()[0]


def inputs(folder):
    return re.findall(r"\\input\{([^}]+)\.tex\}", (folder / "report.tex").read_text())


def test_every_table_in_every_form_with_its_plots(report):
    ends = [".csv", ".md", ".tex", "-curves.png", "-curves.svg", "-quality.png", "-quality.svg"]
    wanted = [f"toy-minilm-{protocol}{end}" for protocol in ("fair", "paper") for end in ends]
    assert {*wanted, *WHOLE} <= set(names(report))
    assert all((report / name).read_bytes()[:4] == b"\x89PNG" for name in wanted if name.endswith("png"))


def test_readme_links_every_file_and_has_the_command(report):
    text = (report / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert linked | {"README.md", "manifest.json"} == set(names(report))
    page = set(re.findall(r'href="([^"#:]+)"', (report / "index.html").read_text()))
    assert {link for link in page if "/" not in link} == linked - {"index.html", "report.tex"}
    assert {f"{link}.tex" for link in inputs(report)} == {
        name for name in linked if name.endswith(".tex")
    } - {"report.tex"}
    assert "python -m benchmark report --results results --out reports\n" in text
    assert re.search(r"\| toy +\| +1,200 \| +300 \| +9,000 \| minilm +\| fair +\|", text)
    for made in report.glob("*.md"):
        assert all((report / link).exists() for link in re.findall(r"\]\(([^)]+)\)", made.read_text()))


def test_returns_what_it_wrote(written, report):
    assert written == [report / name for name in names(report)]


def test_same_records_same_bytes_in_another_process_and_folder(results, report, tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmark.report.build import build_report;"
        "build_report(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    copy = store(tmp_path / "results", reversed(few()))
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: none\n")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run(
        [sys.executable, "-c", code, str(copy), str(tmp_path / "reports")], check=True, env=environment
    )
    for name in names(report):
        assert (tmp_path / "reports" / name).read_bytes() == (report / name).read_bytes(), name


def test_no_records_is_one_line_with_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"no run records .*-s<seed>\.json.*python -m benchmark bench"
    ) as caught:
        build_report(tmp_path / "results", tmp_path / "reports")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "reports").exists()


def test_only_narrows_and_keeps_the_control(results, tmp_path):
    build_report(results, tmp_path / "r", {"llm": ["minilm"], "protocol": {"fair"}, "dataset": []})
    assert [path.stem for path in (tmp_path / "r").glob("toy-*.csv") if tables(path)] == ["toy-minilm-fair"]
    assert not list((tmp_path / "r").glob("*paper*"))
    assert "\nid," in (tmp_path / "r" / "toy-minilm-fair.csv").read_text().replace("no,run,", "\n")
    assert "--llms minilm --protocols fair" in (tmp_path / "r" / "README.md").read_text()


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"protocol": ["fare"]}, "unknown protocol .*'fare'.*Did you mean 'fair'"),
        ({"llm": ["bert"]}, "unknown llm .*Allowed: minilm"),
        ({"metod": ["ssna"]}, "unknown field.*Did you mean 'method'"),
    ],
)
def test_only_refuses_what_is_not_there(results, tmp_path, only, message):
    with pytest.raises(UserError, match=message):
        build_report(results, tmp_path / "r", only)
    assert not (tmp_path / "r").exists()


def test_only_that_leaves_nothing_is_reported(tmp_path):
    runs = [record("ssna"), record("tmlp", protocol="fair")]
    with pytest.raises(UserError, match="no figure has all of these at once: method: ssna; protocol: fair"):
        build_report(store(tmp_path / "s", runs), tmp_path / "r", {"method": ["ssna"], "protocol": ["fair"]})


def test_files_no_longer_justified_go_unless_changed_by_hand(tmp_path):
    results, out = tmp_path / "s", tmp_path / "r"
    store(results, [record("ssna"), record("ssna", dataset="other")])
    build_report(results, out)
    (out / "mine.txt").write_text("keep")
    (out / "other-minilm-paper.csv").write_text("edited")
    next((results / "other").rglob("*.json")).unlink()
    build_report(results, out)
    left = names(out)
    assert [name for name in left if name.startswith("other")] == ["other-minilm-paper.csv"]
    assert "mine.txt" in left
    assert "toy-minilm-paper.md" in left
    assert set(json.loads((out / "manifest.json").read_text())) == set(left) - {
        "manifest.json", "mine.txt", "other-minilm-paper.csv"
    }  # fmt: skip


def test_a_foreign_file_is_never_overwritten(tmp_path):
    store(tmp_path / "s", [record()])
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md exists and .*--out"):
        build_report(tmp_path / "s", tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert names(tmp_path) == ["README.md", "s"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"../x": "0"}'])
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    out = tmp_path / "r"
    out.mkdir()
    (out / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="move it away"):
        build_report(store(tmp_path / "s", [record()]), out)


def test_tables_of_one_name_are_numbered_by_age(tmp_path):
    runs = [
        record("ssna", 0.3, device_name="A new one", created="2026-05"),
        record("tmlp", 0.2, device_name="The old one", created="2026-01"),
    ]
    out = tmp_path / "r"
    build_report(store(tmp_path / "s", runs), out)
    assert ",The old one," in (out / "toy-minilm-paper.csv").read_text()
    assert ",A new one," in (out / "toy-minilm-paper-2.csv").read_text()
    assert "device_name=A new one" in (out / "README.md").read_text()


def test_names_that_differ_in_case_alone_make_files_of_their_own(tmp_path):
    build_report(store(tmp_path / "s", [record(), record(dataset="TOY")]), tmp_path / "r")
    made = [path.name.lower() for path in (tmp_path / "r").iterdir()]
    assert len(set(made)) == len(made)
    assert {"toy-minilm-paper.csv", "toy-minilm-paper-2.csv"} <= set(made)


def test_names_of_hub_and_folder_make_safe_file_names(tmp_path):
    found = [record("a", llm="org/model"), record("b", llm="/some/where/my model", config_hash="q")]
    build_report(store(tmp_path / "s", found), tmp_path / "r")
    assert {path.stem for path in (tmp_path / "r").glob("toy-*.csv") if tables(path)} == {
        "toy-org-model-paper",
        "toy-my-model-paper",
    }


def test_only_failures_give_a_table_and_no_plot(tmp_path):
    build_report(store(tmp_path / "s", [failure("lora", "oom")]), tmp_path / "r")
    made = [name for name in names(tmp_path / "r") if name.startswith("toy-minilm-paper")]
    assert made == [f"toy-minilm-paper{end}" for end in (".csv", ".md", ".tex")]
    assert "No run has what this plot shows" in (tmp_path / "r" / "toy-minilm-paper.md").read_text()


def test_no_path_of_this_machine_in_the_report(report):
    here = str(Path(report).parent)
    for path in report.iterdir():
        assert here.encode() not in path.read_bytes()


def test_the_published_figures_alone_need_no_records(tmp_path):
    out = tmp_path / "r"
    build_report(tmp_path / "none", out, source="paper")
    assert {"paper-table2.tex", "paper-derived.md", *WHOLE} <= set(names(out))
    assert "python -m benchmark report --source paper --out r\n" in (out / "README.md").read_text()
    assert "What was run" not in (out / "index.html").read_text()


def test_both_sources_stand_in_one_report(results, tmp_path):
    build_report(results, tmp_path / "r", {"protocol": ["fair"]}, "both")
    assert {"toy-minilm-fair.md", "paper-table2.md"} <= set(names(tmp_path / "r"))
    assert "--source both" in (tmp_path / "r" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "papers"], "unknown value of --source: 'papers'. Did you mean 'paper'"),
        (["--source", "paper", "--datasets", "toy"], "cannot be narrowed by dataset"),
        (["--source", "both"], "no run records .* --source paper"),
    ],
)
def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert re.search(message, complaint)
    assert complaint.count("\n") == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("below", [".", "reports"])
def test_a_file_in_place_of_the_folder_is_one_line(tmp_path, capsys, below):
    (tmp_path / "taken").write_text("mine")
    assert main(["report", "--source", "paper", "--out", str(tmp_path / "taken" / below)]) == 2
    output = capsys.readouterr().err
    assert re.match(r"adaptrec: error: .*taken.* move it away, or name another folder \(--results", output)
    assert output.count("\n") == 1 and (tmp_path / "taken").read_text() == "mine"


def test_the_page_of_the_paper_counts_what_it_prints(tmp_path):
    build_report(tmp_path / "none", tmp_path / "r", source="paper")
    page = (tmp_path / "r" / "index.html").read_text()
    tiles = dict(re.findall(r"<div><dt>([^<]+)</dt><dd>([^<]+)</dd></div>", page.partition("</dl>")[0]))
    figures = 25 + 3 * 120 + 60 + 2 * 45 + 60 + 3 * 40  # Tables 1; 2-4; 5; 6, 7; 8; S1-S3
    assert tiles == {
        "published figures": str(figures), "datasets": "5", "language models": "3", "methods": "8",
    }  # fmt: skip


def test_the_paper_s_report_has_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--source", "paper"]) == 0
    assert names(tmp_path) == ["reports"]
    assert names(tmp_path / "reports") == ["paper"]
    made = len(names(tmp_path / "reports" / "paper"))
    assert capsys.readouterr().out == f"{made} files in reports/paper\nreports/paper/index.html\n"


def test_sections_that_would_share_files_are_numbered():
    sections = [Section(stem, stem, "", []) for stem in ("a", "A", "index", "report", "a-p")]
    plot = Plot("p", "p", {"md": b""})  # its file is that of the section a-p
    sections.append(Section("a", "a", "", [], plots=[plot]))
    (part,) = _named([Chapter("x", sections)])
    assert [section.stem for section in part.sections] == ["a", "A-2", "index", "report-2", "a-p", "a-3"]


def test_an_unknown_source_is_one_line(results: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'paper'"):
        build_report(results, results.parent / "r", source="papers")  # type: ignore[arg-type]
