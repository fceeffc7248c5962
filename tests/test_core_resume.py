"""A run that was killed and started again ends as one that was not; what checkpoints survive."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from core_worlds import recommender, trainer, with_settings, world_of
from data_folders import BLINK
from forked import die, ended, fork

from benchmark.cell import Cell, resolve_cell
from benchmark.cli import main
from benchmark.model.recommender import Recommender
from benchmark.record import RunRecord, ranks_path, read_record
from benchmark.train import loop
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

SET = (*BLINK, "epochs=3")


pytestmark = pytest.mark.usefixtures("one_thread")


def command(folder: Path, results: Path) -> list[str]:
    of = ["--dataset", str(folder), "--llm", "random-tiny", "--method", "tmoe"]
    return ["run", *of, "--set", *SET, "--results", str(results)]


def record_path(folder: Path, results: Path) -> Path:
    return resolve_cell(Cell(str(folder), "random-tiny", "tmoe", overrides=SET)).record_path(results)


def said(record: RunRecord) -> dict[str, Any]:
    """All that must be equal: everything learned, nothing that a clock said."""
    curve = [(row.epoch, row.loss, row.valid, row.valid_masked) for row in record.curve]
    return {
        "status": record.status, "metrics": record.metrics, "curve": curve, "best": record.best_epoch,
        "stopped": record.stopped, "hash": record.config_hash,
    }  # fmt: skip


def test_a_killed_run_ends_as_one_never_killed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = record_path(folder, tmp_path / "killed")
    checkpoint = path.with_suffix(".checkpoint")
    assert main(command(folder, tmp_path / "whole")) == 0

    def victim() -> None:
        optimise = loop.Trainer.optimise

        def deadly(self: loop.Trainer) -> None:
            if (checkpoint / "last.pt").exists():
                die()  # in the second epoch
            optimise(self)

        loop.Trainer.optimise = deadly  # type: ignore[method-assign]
        main(command(folder, tmp_path / "killed"))

    assert ended(fork(victim)) == -signal.SIGKILL
    assert (checkpoint / "last.pt").exists()
    assert not path.exists()
    capfd.readouterr()
    assert main(command(folder, tmp_path / "killed")) == 0
    told = capfd.readouterr()
    assert "going on after epoch 1 of" in told.err
    assert Path(told.out.strip()) == path
    whole = read_record(record_path(folder, tmp_path / "whole"))
    assert said(read_record(path)) == said(whole)
    assert whole.epochs_run == 3
    assert ranks_path(path).read_bytes() == ranks_path(record_path(folder, tmp_path / "whole")).read_bytes()
    assert not checkpoint.exists(), "a finished run leaves no checkpoint"
    checkpoint.mkdir()  # as where a kill hits after the record was written
    assert main(command(folder, tmp_path / "killed")) == 0
    assert not checkpoint.exists()


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


SETTINGS = with_settings(
    batch_size=8, epochs=5, patience=0, sasrec_dropout=0.2, learning_rate=0.01, accumulation=2
)
WORLD = world_of([[(7 * n + step) % 40 for step in range(8)] for n in range(30)], 40)
"""The next item is the next number: recall rises over the epochs, whatever the random numbers."""


def attempt(folder: Path) -> dict[str, Any]:
    """Train from wherever the checkpoint in `folder` stands to the end."""
    made, _ = trainer(recommender(SETTINGS, WORLD, "tmoe"), WORLD.task(SETTINGS), SETTINGS, folder, seed=1)
    reason = made.fit()
    progress = made.progress
    curve = [(row.loss, row.valid, row.valid_masked) for row in progress.curve]
    return {
        "reason": reason, "curve": curve, "step": progress.step, "best": progress.best_epoch,
        "candidates": progress.candidates, "test": made.test().raw.mean.tolist(),
        "weights": {name: value.tolist() for name, value in made.model.state_dict().items()},
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    found = attempt(tmp_path_factory.mktemp("whole"))
    assert found["best"] > 1, "the best weights are replaced"
    return found


def dies(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """The `call`-th call of `owner.name` kills the run."""
    real, calls = getattr(owner, name), iter(range(10_000))

    def deadly(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, deadly)


POINTS = {
    "in the first epoch": (Recommender, "forward", 3),
    "in the middle of the third epoch": (Recommender, "forward", 47),
    "before the second validation": (loop, "evaluate", 1),
    "before any checkpoint is written": (torch, "save", 0),
    "between the best weights and the state": (torch, "save", 1),
    "between a later epoch's writing and renaming": (Path, "replace", 4),
    "before old weights are dropped": (Path, "unlink", 0),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(
    point: str, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies(patch, *POINTS[point])
        with pytest.raises(Killed):
            attempt(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".pt"}, "nothing is left half-written"
    assert attempt(tmp_path) == whole


def test_killed_twice(whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in (22, 17):
        with monkeypatch.context() as patch:
            dies(patch, Recommender, "forward", calls)
            with pytest.raises(Killed):
                attempt(tmp_path)
    assert attempt(tmp_path) == whole


def test_a_finished_training_is_only_tested_again(whole: dict[str, Any], tmp_path: Path) -> None:
    assert attempt(tmp_path) == attempt(tmp_path) == whole


def test_the_best_epochs_weights_are_tested(tmp_path: Path) -> None:
    """Not the last one's: training goes on past the best."""
    settings = with_settings(batch_size=8, epochs=30, patience=3, learning_rate=0.05)
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    assert made.fit() == "patience"
    progress = made.progress
    values = [row.valid["recall@10"] for row in progress.curve]
    assert progress.best_epoch == values.index(max(values)) + 1, "the first of equals"
    assert progress.epoch == progress.best_epoch + 3
    last = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.test()
    assert any((value != last[name]).any() for name, value in made.model.state_dict().items())
    best = torch.load(tmp_path / f"best-{progress.best_epoch}.pt", weights_only=True)
    assert all((value == made.model.state_dict()[name]).all() for name, value in best.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"best-{progress.best_epoch}.pt", "last.pt"]


def test_masked_selection_follows_the_masked_metric(tmp_path: Path) -> None:
    settings = with_settings(batch_size=8, epochs=6, patience=0, learning_rate=0.05, select="masked")
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    made.fit()
    values = [row.valid_masked["recall@10"] for row in made.progress.curve]
    assert made.progress.best_epoch == values.index(max(values)) + 1


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_one_clear_line(
    damage: bytes | None, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = record_path(folder, tmp_path).with_suffix(".checkpoint") / "last.pt"
    Checkpoint(file.parent).save({"weights": {}, "optimiser": {}, "progress": {}}, 1, None)
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert main(command(folder, tmp_path)) == 2
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert str(file) in told[0]
    assert "--fresh" in told[0]


def test_a_checkpoint_of_another_version_is_one_clear_line(tmp_path: Path) -> None:
    torch.save({"weights": {}, "progress": {}}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt is of another version; --fresh"):
        Checkpoint(tmp_path).load(torch.nn.Module())


def test_missing_best_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best-3\.pt cannot be read"):
        Checkpoint(tmp_path).load_best(3, torch.nn.Module())
