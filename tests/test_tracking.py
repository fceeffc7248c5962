"""Trackers of experiments: one run a cell with its course and record; a failing tracker never fails a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_folders import BLINK

import adaptrec
from benchmark.cli import main
from benchmark.results.record import RunRecord
from benchmark.run import tracking
from benchmark.run.run import run
from benchmark.run.spec import RunSpec


def trained(results: Path, track: Sequence[str]) -> tuple[Path, RunRecord]:
    path, record = run(
        RunSpec("tiny", "none", "id", "fair", 3, ("epochs=2", "width=16")), results, track=track
    )
    assert record.status == "ok"
    return path, record


def test_tensorboard_has_the_course_and_the_record(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, record = trained(tmp_path, ["tensorboard"])
    (own,) = (tmp_path / "tracking" / "tensorboard" / "tiny-fair").iterdir()
    assert own.name == f"id-{path.stem}", "one run a cell, grouped by data and protocol"
    events = EventAccumulator(str(own))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(epoch.epoch, pytest.approx(epoch.loss)) for epoch in record.curve]
    (last,) = events.Scalars("test_masked/recall_at_10")
    assert last.value == pytest.approx(record.metrics["test_masked"]["recall@10"])
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("record")]
    text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    attached = json.loads(text.removeprefix("```json\n").removesuffix("```"))
    assert attached == json.loads(path.read_text())


def test_python_tracks_as_the_command_does(folder: Path, tmp_path: Path, in_process: None) -> None:
    pytest.importorskip("tensorboard")
    more: Any = dict(pair.split("=") for pair in BLINK)
    asked: Any = {"track": "tensorboard", "results": tmp_path, "epochs": 1, **more}
    adaptrec.run(folder, "id", protocol="fair", **asked)
    adaptrec.bench(folder, methods="id", seeds=1, protocols="fair", show=False, **asked)
    names = [path.name for path in (tmp_path / "tracking" / "tensorboard" / f"{folder.name}-fair").iterdir()]
    assert sorted(name.rpartition("-")[2] for name in names) == ["s0", "s1"]
    with pytest.raises(adaptrec.UserError, match="unknown tracker 'tensorbord'"):
        adaptrec.run(folder, "id", track="tensorbord")


def test_mlflow_has_the_course_and_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path, record = trained(tmp_path, ["mlflow"])
    (own,) = mlflow.search_runs(experiment_names=["tiny-fair"], output_format="list")
    assert own.info.run_name == f"id-{path.stem}" and own.info.status == "FINISHED"
    recall = own.data.metrics["test_masked/recall_at_10"]
    assert recall == pytest.approx(record.metrics["test_masked"]["recall@10"])
    (attached,) = (tmp_path / "tracking" / "mlflow" / "artifacts").rglob("*.json")
    assert attached.read_bytes() == path.read_bytes()


def test_nothing_is_tracked_by_default(tmp_path: Path) -> None:
    trained(tmp_path, [])
    assert not (tmp_path / "tracking").exists()


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_failing_tracker_never_fails_a_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    class Broken:
        """Fails where it is asked to."""

        def __init__(self, *values: Any, **more: Any) -> None:
            self.run = SimpleNamespace(save=lambda *_, **__: None)

        def __getattr__(self, name: str) -> Any:
            def call(*values: Any, **more: Any) -> None:
                if name == when:
                    raise ConnectionError("the server\nis away")

            return call

    monkeypatch.setattr("accelerate.tracking.WandBTracker", Broken)
    trained(tmp_path, ["wandb"])
    printed = capsys.readouterr().err
    assert printed.count("warning: the tracker wandb fails and is left out: the server is away") == 1


@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_wrong_or_missing_tracker_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--dataset", "tiny", "--method", "id", "--track", "tensorbord"]) == 2
    assert "Did you mean 'tensorboard'?" in capsys.readouterr().err
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    assert main([command, "--dataset", "tiny", "--method", "id", "--track", "wandb"]) == 2
    assert "--track wandb needs the package wandb, which is not installed" in capsys.readouterr().err
