"""What commands do where the user leaves options out."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_folders import BLINK, write_folder

from benchmark.cli import main, parsers
from benchmark.commands.bench import request
from benchmark.grid.defaults import default_report, default_source
from benchmark.grid.request import GridRequest
from benchmark.process.exit_status import ExitCode

STUDY = ["sci", "pantry", "tools", "toys", "ins"]


def asked(*words: str) -> GridRequest:
    return request(parsers()[0].parse_args(["bench", *words]))


def test_bench_alone_is_the_embedded_default() -> None:
    options = asked()
    assert (options.datasets, options.llms, options.methods) == (["tiny"], ["minilm"], None)
    assert (options.protocols, options.seeds, options.tune) == (["paper", "fair"], [0], None)
    assert options.results == Path("results/tiny")
    assert default_source(options.datasets) == "ours"
    assert default_report("ours", options.datasets) == Path("reports/tiny")


@pytest.mark.parametrize(
    ("words", "tune"),
    [
        (["--llms", "bert-medium"], "paper"),
        (["--llms", "distilbert,distilroberta"], "paper"),
        (["--llms", "some/other-model"], None),
        (["--llms", "minilm,bert-medium"], None),
        (["--llms", "bert-medium", "--tune", "grid"], "grid"),
    ],
)
def test_another_language_model_means_the_papers_study(words: list[str], tune: str | None) -> None:
    options = asked(*words)
    assert (options.datasets, options.protocols, options.tune) == (STUDY, ["paper"], tune)
    assert options.results == Path("results")
    assert default_source(options.datasets) == "both"
    assert default_report("both", options.datasets) == Path("reports")


@pytest.mark.parametrize(("datasets", "tune"), [("scientific", "paper"), ("sci,beauty", None)])
def test_published_values_are_taken_where_there_are_some(datasets: str, tune: str | None) -> None:
    assert asked("--llms", "bert-medium", "--datasets", datasets).tune == tune
    assert asked("--llms", "bert-medium", "--datasets", datasets, "--protocols", "tuned").tune is None


def test_folders_follow_the_source_and_what_the_user_gives() -> None:
    assert default_report("paper", ["tiny"]) == Path("reports/paper")
    assert default_report("both", ["tiny", "beauty"]) == Path("reports")
    options = asked("--results", "mine", "--protocols", "fair")
    assert (options.results, options.protocols) == (Path("mine"), ["fair"])


@pytest.mark.usefixtures("in_process")
def test_bench_writes_its_report_also_where_a_run_failed_and_none_after_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "small")
    out = tmp_path / "out"
    command = ["bench", "--datasets", str(folder), "--methods", "id", "--protocols", "paper", "--epochs", "1"]
    command += ["--results", str(tmp_path / "r"), "--report", str(out), "--source", "ours", "--set", *BLINK]
    assert main([*command, "--tune", "some"]) == 2 and not out.exists()
    assert main([*command, "--dry-run"]) == 0 and not out.exists()
    assert main(command) == 0
    assert (out / "index.html").exists()
    assert str(out / "index.html") in capsys.readouterr().out
    (out / "index.html").unlink()
    monkeypatch.setattr("benchmark.grid.bench.bench", lambda *_: ExitCode.FAILED)
    assert main(command) == ExitCode.FAILED and (out / "index.html").exists()
