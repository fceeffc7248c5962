"""The command line: every mistake is one line and status 2; what is finished is not run again."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_folders import BLINK, TEN, TWELVE, write_folder

from benchmark.cli import main
from benchmark.config import Settings, parse, split_overrides
from benchmark.grid import child
from benchmark.grid.plan import expand
from benchmark.process.exit_status import BusyError
from benchmark.process.locks import held
from benchmark.results.record import RunRecord, read_record
from benchmark.results.schema import METRICS
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train import loop
from methods import registry
from methods.errors import UserError

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "matplotlib",
    "pyarrow",
    "accelerate",
    "numpy",
    "peft",
}
SMALL = ["--set", *BLINK, "--epochs", "2"]


def run(folder: Path, results: Path, *more: str, method: str = "id") -> list[str]:
    return ["run", "--dataset", str(folder), "--method", method, "--results", str(results), *SMALL, *more]


def complaint(capfd: pytest.CaptureFixture[str], arguments: list[str], status: int = 2) -> str:
    """The one line that a mistake makes."""
    capfd.readouterr()
    assert main(arguments) == status
    output = capfd.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("adaptrec: error: ")
    return line


CELL = ["run", "--dataset", "tiny", "--llm", "random-tiny", "--method", "tmoe"]
ID = ["run", "--dataset", "tiny", "--method", "id"]
CONTROL = ["run", "--dataset", "tiny", "--llm", "random-tiny", "--method", "blend"]
GRID = ["bench", "--datasets", "tiny", "--llms", "random-tiny", "--methods", "tmoe"]
MISTAKES: list[tuple[list[str], list[str]]] = [
    ([], ["command"]),
    (["rnu"], ["'rnu'", "Did you mean 'run'?", "bench"]),
    ([*CELL, "--epoch", "3"], ["'--epoch'", "Did you mean '--epochs'?", "--results"]),
    (["run", "--metod", "tmoe"], ["'--metod'", "Did you mean '--method'?"]),
    (["run", "--llm", "random-tiny"], ["--dataset", "--method"]),
    ([*CELL, "-x"], ["-x"]),
    (["run", "--dataset", "tiny", "--method", "tmeo"], ["'tmeo'", "Did you mean 'tmoe'?", "ssna-mean"]),
    (["run", "--dataset", "tinny", "--method", "id"], ["'tinny'", "Did you mean 'tiny'?", "scientific"]),
    ([*CELL, "--llm", "random-tyni"], ["'random-tyni'", "Did you mean 'random-tiny'?", "minilm"]),
    ([*ID, "--llm", "random-tyni"], ["'random-tyni'", "Did you mean 'random-tiny'?"]),
    ([*GRID, "--methods", "id", "--llms", "random-tyni", "--dry-run"], ["'random-tyni'", "'random-tiny'?"]),
    ([*GRID, "--slurm", "gpus=1", "mem=4G"], ["--slurm gpus=1 mem=4G", "add --executor slurm"]),
    ([*CELL, "--protocol", "none"], ["'none'", "controls", "paper or fair"]),
    ([*CONTROL, "--set", "epochs=3"], ["'epochs'", "decay", "window"]),
    ([*CONTROL, "--set", "decay=2"], ["decay=2", "less than or equal to 1"]),
    ([*CONTROL, "--set", "geometry=round"], ["geometry", "'round'", "zca"]),
    ([*CONTROL, "--llm", "none"], ["'blend'", "language model", "--llm"]),
    ([*GRID, "--methods", "blend", "--set", "heads=2"], ["'heads'", "decay"]),
    (["speed", "--dataset", "tiny", "--method", "blend"], ["'blend'", "control without training"]),
    ([*CELL, "--protocol", "fare"], ["'fare'", "Did you mean 'fair'?", "paper"]),
    ([*CELL, "--set", "batch_sise=3"], ["'batch_sise'", "Did you mean 'batch_size'?", "temperature"]),
    ([*CELL, "--set", "top_layers=2"], ["'top_layers'", "heads", "noise"]),  # ssna's, not tmoe's
    ([*CELL, "--set", "batch_size"], ["key=value", "'batch_size'"]),
    ([*CELL, "--set", "=3"], ["key=value", "'=3'"]),
    ([*CELL, "--set", "heads=2", "heads=3"], ["'heads' twice"]),
    ([*CELL, "--set", "heads=2", "--set", "heads=2"], ["'heads' twice"]),
    ([*CELL, "--epochs", "3", "--set", "epochs=4"], ["'epochs' twice"]),
    ([*CELL, "--set", "temperature=0"], ["temperature=0", "greater than 0"]),
    ([*CELL, "--set", "temperature=nan"], ["temperature=nan"]),
    ([*CELL, "--set", "learning_rate=inf"], ["learning_rate=inf", "finite"]),
    ([*CELL, "--set", "sasrec_dropout=1"], ["sasrec_dropout=1", "less than 1"]),
    ([*CELL, "--set", "batch_size=1.5"], ["batch_size=1.5", "integer"]),
    ([*CELL, "--set", "heads=0"], ["heads=0", "greater than or equal to 1"]),
    ([*CELL, "--set", "candidates=catalog"], ["'catalog'", "Did you mean 'catalogue'?", "sampled"]),
    ([*CELL, "--set", "noise=nevr"], ["'nevr'", "Did you mean 'never'?", "always"]),
    ([*CELL, "--set", "mask_false_negatives=perhaps"], ["mask_false_negatives=perhaps", "boolean"]),
    ([*CELL, "--set", f"batch_size={2**63}"], [f"batch_size={2**63}", "1000000000"]),
    ([*CELL, "--set", "sasrec_layers=1000000000"], ["sasrec_layers=1000000000", "128"]),
    ([*CELL, "--set", "samples=1e400"], ["samples=1e400"]),
    ([*CELL, "--results", "a\0b"], ["--results", "'a\\x00b' holds a NUL character"]),
    (["prepare", "--dataset", "a\0b"], ["--dataset", "NUL"]),
    ([*CELL, "--set", "width=7"], ["width=7", "sasrec_heads=2"]),
    ([*CELL, "--set", "select_by=ndgc@10"], ["unknown metric 'ndgc@10'", "Did you mean 'ndcg@k'?"]),
    ([*CELL, "--set", "select_by=ndcg"], ["'ndcg' needs a cut-off", "ndcg@10"]),
    ([*CELL, "--epochs", "0"], ["epochs=0"]),
    ([*CELL, "--epochs", "many"], ["--epochs", "'many'"]),
    ([*CELL, "--seed", "one"], ["--seed", "'one'"]),
    ([*CELL, "--seed", "-1"], ["--seed", "-1"]),
    ([*CELL, "--seed", str(2**64)], ["--seed", str(2**64)]),
    ([*GRID, "--methods", "tmoe,tmpl"], ["'tmpl'", "Did you mean 'tmlp'?"]),
    ([*GRID, "--datasets", "tiny,tinier"], ["'tinier'", "Did you mean 'tiny'?"]),
    ([*GRID, "--llms", "random-tiny,minlim"], ["'minlim'", "Did you mean 'minilm'?"]),
    ([*GRID, "--protocols", "fiar"], ["'fiar'", "Did you mean 'fair'?"]),
    ([*GRID, "--seeds", "0,x"], ["'0,x'"]),
    ([*GRID, "--seeds", "0,-2"], ["--seed", "-2"]),
    ([*GRID, "--set", "hedas=2"], ["'hedas'", "Did you mean 'heads'?"]),
    ([*GRID, "--set", "heads"], ["key=value", "'heads'"]),
    ([*GRID, "--set", "heads=0"], ["heads=0"]),
    ([*GRID, "--methods", ","], ["--methods", "at least one"]),
    ([*GRID, "--processes", "0"], ["--processes", "0"]),
    ([*GRID, "--tune", "gird"], ["unknown value of --tune: 'gird'", "Did you mean 'grid'?", "paper"]),
    (["list", "method"], ["unknown argument 'method'", "Did you mean 'methods'?", "llms"]),
    (["report", "--results", "nowhere"], ["nowhere"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=lambda value: " ".join(value[-2:]))
def test_a_mistake_is_one_line(
    arguments: list[str],
    named: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = complaint(capfd, arguments)
    assert all(name in line for name in named), line
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_mistake_ends_the_process_with_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "list", "methds"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


LIGHT = """
import resource, sys
from benchmark.cli import main
for arguments in (["list", "methods"], ["list", "llms"], ["list", "datasets"], ["--version"], ["--help"],
                  ["run", "--help"], ["bench", "--help"], ["report", "--help"], ["prepare", "--help"]):
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert not end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print("heavy:", sorted(set(sys.modules) & set(sys.argv[1:])), file=sys.stderr)
print("seconds:", used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def test_lists_and_help_import_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *HEAVY], capture_output=True, text=True, check=True
    )  # fmt: skip
    heavy, seconds = done.stderr.splitlines()
    assert heavy == "heavy: []"
    assert float(seconds.removeprefix("seconds: ")) < 1, "processor seconds of them all"
    for name in [*registry.names(), "minilm", "random-tiny", "tiny", "scientific"]:
        assert f"\n{name} " in f"\n{done.stdout}"


def test_a_run_prints_its_record_last(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(run(folder, tmp_path)) == 0
    path = Path(capfd.readouterr().out.strip())
    record = read_record(path)
    assert record.status == "ok"
    assert path.parent == tmp_path / "small" / "none" / "id"
    assert path.name == f"{record.config_hash}-s0.json"
    assert record.epochs_run == len(record.curve) == 2
    assert set(record.metrics) >= {"valid", "valid_masked", "test", "test_masked"}
    assert all(set(values) == set(METRICS) for values in record.metrics.values())
    table = pq.read_table(path.with_suffix(".ranks.parquet")).to_pydict()
    assert table["user"] == list(range(12))
    ties = zip(table["rank"], table["tied"], strict=True)
    hits = [min(max(11 - rank, 0), tied) / tied for rank, tied in ties]
    assert record.metrics["test"]["recall@10"] == pytest.approx(sum(hits) / 12)
    assert all(masked <= raw for raw, masked in zip(table["rank"], table["rank_masked"], strict=True))
    suffixes = sorted(file.suffix for file in path.parent.iterdir())
    assert suffixes == [".json", ".parquet", ".parquet"], "no litter"


@pytest.mark.usefixtures("in_process")
def test_counts_that_the_recipe_does_not_expect_are_printed_and_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = "[expected]\nusers = 12\nitems = 11\n"
    folder = write_folder(tmp_path / "other", TWELVE, TEN, recipe)
    warning = "warning: other has 10 items, not 11, as its recipe expects"
    command = ["bench", *run(folder, tmp_path / "results")[1:]]
    assert main(command) == 0
    output = capfd.readouterr()
    assert output.err.count("warning: ") == 1 and output.err.startswith(warning)
    assert "not the 11 items that its recipe expects" in " ".join(output.out.split())
    assert main(run(folder, tmp_path / "results")) == 0
    output = capfd.readouterr()
    assert output.err.startswith(warning)
    assert read_record(Path(output.out.strip())).data["recipe"]["expected"] == {"users": 12, "items": 11}


def test_a_finished_run_is_skipped_and_fresh_runs_it(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(run(folder, tmp_path)) == 0
    path = Path(capfd.readouterr().out.strip())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "fit", lambda _: pytest.fail("trained again"))
        assert main(run(folder, tmp_path)) == 0
    output = capfd.readouterr()
    assert "finished already" in output.err
    assert Path(output.out.strip()) == path
    assert path.read_bytes() == before
    assert main(run(folder, tmp_path, "--fresh")) == 0
    one, two = RunRecord.model_validate_json(before), read_record(path)
    assert one.curve != two.curve, "other clock readings: it did run"
    assert one.metrics == two.metrics, "the same seed, the same result"


def test_seed_protocol_and_settings_name_other_records(folder: Path, tmp_path: Path) -> None:
    def path(*overrides: str, **changes: Any) -> Path:
        return resolve_run(RunSpec(str(folder), "none", "id", overrides=overrides, **changes)).record_path(
            tmp_path
        )

    paths = {path(), path(seed=1), path(protocol="fair"), path("temperature=0.1"), path("ids=add")}
    assert len(paths) == 5
    assert path("temperature=0.07") == path("select_by=recall@10") == path(), "defaults, given explicitly"
    assert path("select_by=mrr") != path()
    assert path("width=8", "epochs=2") == path("epochs=2", "width=8")
    assert path(seed=1).name.split("-s")[0] == path().name.split("-s")[0]


def test_a_failed_run_is_a_record_and_is_tried_again(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_epoch", lambda *_: (float("nan"), 1.0))
        assert main(run(folder, tmp_path)) == 1
    output = capfd.readouterr()
    path = Path(output.out.strip())
    record = read_record(path)
    assert record.status == "failed"
    assert "nan in epoch 1" in str(record.error)
    assert str(record.error) in output.err
    assert main(run(folder, tmp_path)) == 0
    assert read_record(path).status == "ok"


def ctrl_c_in_torch_save() -> None:
    """As PyTorch's writer of archives raises it."""
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("unexpected pos 64 vs 0")


def ctrl_c() -> None:
    raise KeyboardInterrupt


def broken_pipe() -> None:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("stop", [ctrl_c, ctrl_c_in_torch_save, broken_pipe])
def test_ctrl_c_leaves_something_to_go_on_from(
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[], None],
) -> None:
    assert main(run(folder, tmp_path / "whole")) == 0
    whole = read_record(Path(capfd.readouterr().out.strip()))
    real = loop.Trainer.train_epoch

    def interrupted(self: loop.Trainer, epoch: int) -> tuple[float, float]:
        if epoch == 2:
            stop()
        return real(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_epoch", interrupted)
        assert main(run(folder, tmp_path)) == 130
    (record,) = (read_record(path) for path in tmp_path.glob("*/*/*/*-s0.json"))
    assert record.status == "interrupted"
    output = capfd.readouterr()
    assert "interrupted" in output.err
    assert "Traceback" not in output.err
    assert main(run(folder, tmp_path)) == 0
    output = capfd.readouterr()
    assert "going on after epoch 1" in output.err
    assert read_record(Path(output.out.strip())).metrics == whole.metrics


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe{}", "Invalid JSON"),
        (b'{"status": "ok"}', "dataset: Field required"),
        (b"[1, 2]", "Input should be an object"),
    ],
)
def test_a_file_that_is_no_record_is_kept_and_its_run_is_made(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, named: str
) -> None:
    overrides = (*BLINK, "epochs=2")
    path = resolve_run(RunSpec(str(folder), "none", "id", overrides=overrides)).record_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert main(run(folder, tmp_path)) == 0
    line = capfd.readouterr().err.splitlines()[0]
    assert f"{path} is not a run record: {named}" in line
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content
    assert read_record(path).status == "ok"


def test_a_record_with_an_unknown_field_or_status_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(run(folder, tmp_path)) == 0
    path = Path(capfd.readouterr().out.strip())
    good = json.loads(path.read_text())
    for change in ({"surprise": 1}, {"status": "fine"}, {"seed": "first"}):
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=next(iter(change))):
            read_record(path)


def test_results_that_cannot_be_written_are_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in complaint(capfd, run(folder, tmp_path / "file"))


def test_data_without_a_training_pair_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = write_folder(tmp_path / "short", {"ann": "a b c", "bob": "b c d"})
    line = complaint(capfd, run(short, tmp_path / "results"))
    assert "no training target" in line
    assert not list((tmp_path / "results").rglob("*.json"))


def test_one_user_has_no_negatives_in_any_batch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = write_folder(tmp_path / "alone", {"ann": "a b c d a c"})
    line = complaint(capfd, run(alone, tmp_path / "results"))
    assert "'alone' has one user in training" in line and "take candidates=catalogue" in line
    again = write_folder(tmp_path / "again", {"ann": "a a a b", "bob": "a a a b"})
    line = complaint(capfd, run(again, tmp_path / "results", "--set", "candidates=catalogue"))
    assert "'again' has one item in training, so that there are no negatives" in line
    assert not list((tmp_path / "results").rglob("*.json"))


def test_batches_without_negatives_end_the_run_with_the_cause(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a batch of one prediction each batch is one user's."""
    asked = ["batch_size=1" if part.startswith("batch_size=") else part for part in run(folder, tmp_path)]
    assert main(asked) == 1
    captured = capfd.readouterr()
    record = read_record(Path(captured.out.strip()))
    assert record.status == "failed" and record.error is not None
    assert record.error.startswith("no prediction of epoch 1 had a negative, so that nothing was learnt")
    assert "candidates=batch and batch_size=1" in record.error and "raise batch_size" in record.error


def test_a_second_process_on_the_same_run_gets_a_message(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = (*BLINK, "epochs=2")
    path = resolve_run(RunSpec(str(folder), "none", "id", overrides=overrides)).record_path(tmp_path)
    path.parent.mkdir(parents=True)
    with held(path.with_suffix(".lock")):
        line = complaint(capfd, run(folder, tmp_path), BusyError.status)
    assert "another process is working on" in line


def test_bench_runs_what_is_missing_prints_a_table_and_runs_nothing_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["--epochs", "1", "--set", "width=16", "precision=no", "--results", str(tmp_path)]
    assert main(["run", "--dataset", "tiny", "--method", "id", *settings]) == 0
    command = ["bench", "--datasets", "tiny", "--llms", "random-tiny", "--methods", "id,tmlp", *settings]
    command += ["--set", "dropout=0.1"]  # which id does not have
    capfd.readouterr()
    assert main(command) == 0
    output = capfd.readouterr()
    for word in ("tmlp", "id", "ceiling", "chance", "R@10", "N@50", "cold"):
        assert word in output.out
    assert "1 of 2 runs are finished already" in output.err
    assert "[1/1] tiny random-tiny tmlp" in output.err
    records = sorted(tmp_path.glob("*/*/*/*.json"))
    assert [str(path.relative_to(tmp_path).parent) for path in records] == [
        "tiny/none/id",
        "tiny/random-tiny/tmlp",
    ]
    assert all(read_record(path).status == "ok" for path in records)
    assert read_record(records[1]).hyperparameters["dropout"] == 0.1
    before = [path.read_bytes() for path in records]
    monkeypatch.setattr(child.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert main(command) == 0
    again = capfd.readouterr()
    assert again.out == output.out
    assert "2 of 2 runs are finished already" in again.err
    assert [path.read_bytes() for path in records] == before


def test_a_grid_has_one_run_for_a_method_that_reads_no_language_model(tmp_path: Path) -> None:
    from llm_folders import make_folder

    other = str(make_folder(tmp_path / "lm"))
    cells = expand(
        ["tiny"], ["random-tiny", other], ["id", "tmoe"], ["paper", "fair"], [0, 1], ["heads=2", "width=8"]
    )
    assert sum(cell.method == "id" for cell in cells) == 1 * 2 * 2
    assert {str(cell).split()[1] for cell in cells if cell.method == "id"} == {"none"}
    assert sum(cell.method == "tmoe" for cell in cells) == 2 * 2 * 2
    assert len(set(cells)) == len(cells)
    for cell in cells:
        assert cell.overrides == (("width=8",) if cell.method == "id" else ("heads=2", "width=8"))


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_that_no_record_could_hold_is_refused_whatever_the_method_allows(value: str) -> None:
    @dataclass(frozen=True)
    class Config:
        clip: float = 1.0

    with pytest.raises(UserError, match=f"clip={value} is not valid: input should be a finite number"):
        parse(Config, {"clip": value}, "--set")


def test_settings_from_strings_and_from_values_are_the_same() -> None:
    assert parse(Settings, {"batch_size": "32", "ids": "add", "clip_norm": "1"}, "--set") == Settings(
        batch_size=32, ids="add", clip_norm=1.0
    )
    with pytest.raises(UserError, match="in a file: 'sampels'"):
        parse(Settings, {"sampels": 3}, "a file")


def test_overrides_are_sorted_into_harness_and_method() -> None:
    names = ("heads", "noise")
    harness, own = split_overrides(["batch_size=3", "heads=2", "noise=never"], names)
    assert harness == {"batch_size": "3"}
    assert own == {"heads": "2", "noise": "never"}
    assert split_overrides(["pooling=mean=x"], names)[0] == {"pooling": "mean=x"}
