"""`import adaptrec`: what is imported, and what it gives of stored records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_folders import BLINK
from in_process import children_in_process

import adaptrec
from benchmark.cli import main


@pytest.fixture(scope="module")
def record(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run that the command made."""
    results = tmp_path_factory.mktemp("results")
    command = ["run", "--dataset", str(folder), "--method", "id", "--epochs", "2", "--set", *BLINK]
    with children_in_process():
        assert main([*command, "--results", str(results)]) == 0
    (path,) = results.rglob("*-s0.json")
    return path


def test_every_public_name_is_there() -> None:
    for name in adaptrec.__all__:
        assert getattr(adaptrec, name) is not None and name in dir(adaptrec)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        adaptrec.lode  # type: ignore[attr-defined]  # noqa: B018


def test_a_module_of_the_user_that_hides_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "methods.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import adaptrec"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{tmp_path}:{Path(adaptrec.__file__).parents[1]}"},
    )  # fmt: skip
    assert f"ImportError: {tmp_path / 'methods.py'} hides the package 'methods'" in done.stderr


def test_a_run_has_its_tables(record: Path) -> None:
    run, stored = adaptrec.load(record), json.loads(record.read_text())
    assert run.status == "ok" and run.path == record and run.record.seed == 0
    assert run.metrics.loc["test_masked", "recall@10"] == stored["metrics"]["test_masked"]["recall@10"]
    assert list(run.metrics.index) == list(stored["metrics"])
    assert run.settings.loc["width", ["value", "of", "given"]].tolist() == [8, "harness", True]
    assert not run.settings.loc["window", "given"]
    assert run.curve.index.tolist() == [1, 2]
    assert run.curve["loss"].tolist() == [epoch["loss"] for epoch in stored["curve"]]
    assert run.curve.loc[2, "valid recall@10"] == stored["curve"][1]["valid"]["recall@10"]
    assert len(run.ranks) == 12 and (run.ranks.tied == 1).all()
    gains = 1 / np.log2(run.ranks["rank"] + 1)  # a catalogue of ten items: each stands among the first ten
    assert gains.mean() == pytest.approx(run.metrics.loc["test", "ndcg@10"])
    assert run.name in repr(run) and f"{run.metrics.loc['test_masked', 'ndcg@10']:.4f}" in repr(run)


def test_a_record_is_found_by_its_name_in_the_long_table(record: Path) -> None:
    results = record.parents[3]
    table = adaptrec.results(results, metrics=["recall@5", "mrr"], methods="id")
    assert set(table[table.kind == "quality"].measure) == {"recall@5", "mrr"}
    (name,) = table.record.dropna().unique()
    assert adaptrec.load(name, results).record == adaptrec.load(record).record


def test_mistakes_are_one_line(record: Path, tmp_path: Path) -> None:
    results = record.parents[3]
    with pytest.raises(adaptrec.UserError, match=r"^unknown method among these figures: 'idd'.*'id'"):
        adaptrec.results(results, methods="idd")
    with pytest.raises(adaptrec.UserError, match=r"^unknown metric 'recal@5'"):
        adaptrec.results(results, metrics="recal@5")
    for name in ("datasets", "llms", "methods", "protocols", "seeds"):
        with pytest.raises(adaptrec.UserError, match=f"^{name} is empty; give at least one"):
            adaptrec.bench(**{"datasets": "tiny", "results": tmp_path, name: iter(())})
    with pytest.raises(adaptrec.UserError, match=r"^methods is empty"):
        adaptrec.prepare("tiny", methods=[])
    with pytest.raises(adaptrec.UserError, match=r"--slurm gpus=1 .* add --executor slurm"):
        adaptrec.bench("tiny", methods="id", results=tmp_path, slurm={"gpus": 1})
    with pytest.raises(adaptrec.UserError, match="there are no run records"):
        adaptrec.results(tmp_path)
    with pytest.raises(adaptrec.UserError, match=r"^there is no record .*x-s0\.json\.$"):
        adaptrec.load("a/b/c/x-s0", tmp_path)
