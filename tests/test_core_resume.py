"""A run that was killed and started again ends as one that was not; what checkpoints survive."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core_worlds import recommender, trainer, with_settings, world_of
from data_folders import BLINK
from forked import die, ended, fork
from torch import Tensor

from benchmark.cli import main
from benchmark.model.items import Batch
from benchmark.model.recommender import Recommender
from benchmark.results.record import RunRecord, files_of_run, read_record, top_path
from benchmark.results.store import read_result
from benchmark.results.targets import StoredLists, write_lists
from benchmark.run import run as run_module
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train import checkpoint, loop
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

SET = (*BLINK, "epochs=3")


def command(folder: Path, results: Path) -> list[str]:
    of = ["--dataset", str(folder), "--llm", "random-tiny", "--method", "tmoe"]
    return ["run", *of, "--set", *SET, "--results", str(results)]


def record_path(folder: Path, results: Path) -> Path:
    return resolve_run(RunSpec(str(folder), "random-tiny", "tmoe", overrides=SET)).record_path(results)


def outcome(record: RunRecord) -> dict[str, Any]:
    """All that must be equal: everything learned, nothing that a clock said."""
    curve = [(row.epoch, row.loss, row.valid, row.valid_masked) for row in record.curve]
    return {
        "status": record.status, "metrics": record.metrics, "curve": curve, "best": record.best_epoch,
        "stopped": record.stopped, "hash": record.config_hash,
    }  # fmt: skip


def contents(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def test_a_killed_run_ends_as_one_never_killed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = record_path(folder, tmp_path / "killed")
    checkpoint = path.with_suffix(".checkpoint")
    assert main(command(folder, tmp_path / "whole")) == 0

    def victim() -> None:
        step = loop.Trainer.step

        def deadly(self: loop.Trainer, batches: Sequence[Batch]) -> Tensor:
            if (checkpoint / "last.pt").exists():
                die()  # in the second epoch
            return step(self, batches)

        loop.Trainer.step = deadly  # type: ignore[method-assign]
        main(command(folder, tmp_path / "killed"))

    assert ended(fork(victim)) == -signal.SIGKILL
    assert (checkpoint / "last.pt").exists()
    assert not path.exists()
    capfd.readouterr()
    assert main(command(folder, tmp_path / "killed")) == 0
    output = capfd.readouterr()
    assert "going on after epoch 1 of" in output.err
    assert Path(output.out.strip()) == path
    whole = read_record(record_path(folder, tmp_path / "whole"))
    assert outcome(read_record(path)) == outcome(whole)
    assert whole.epochs_run == 3
    *mine, _ = files_of_run(path)
    *undisturbed, _ = files_of_run(record_path(folder, tmp_path / "whole"))
    assert [contents(file) for file in mine] == [contents(file) for file in undisturbed]
    assert not checkpoint.exists(), "a finished run leaves no checkpoint"
    checkpoint.mkdir()  # as where a kill hits after the record was written
    assert main(command(folder, tmp_path / "killed")) == 0
    assert not checkpoint.exists()


def test_a_run_killed_before_its_record_writes_its_files_anew(folder: Path, tmp_path: Path) -> None:
    path = record_path(folder, tmp_path)

    def victim() -> None:
        def deadly(lists: StoredLists, record_path: Path) -> str:
            write_lists(lists, record_path)
            die()

        run_module.write_lists = deadly
        main(command(folder, tmp_path))

    assert ended(fork(victim)) == -signal.SIGKILL
    assert not path.exists()
    whole = top_path(path).read_bytes()
    top_path(path).write_bytes(whole[:50])  # nobody reads it without its record
    assert main(command(folder, tmp_path)) == 0
    record = read_result(path).record
    assert record.status == "ok" and top_path(path).read_bytes() == whole
    assert (record.cost.peak_memory["train"].host or 0) > 2**20, "measured before the kill"


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


@pytest.mark.parametrize("select", ["raw", "masked"])
@pytest.mark.parametrize("select_by", ["ndcg@10", "mrr", "ndcg@3"])
def test_any_metric_selects_the_epoch(select_by: str, select: str, tmp_path: Path) -> None:
    settings = with_settings(
        batch_size=8, epochs=6, patience=0, learning_rate=0.05, select=select, select_by=select_by
    )
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    made.fit()
    values = [row.selection for row in made.progress.curve]
    assert made.progress.best_epoch == values.index(max(map(float, values))) + 1  # type: ignore[arg-type]
    if select_by == "ndcg@10":
        curve = made.progress.curve
        assert values == [(row.valid_masked if select == "masked" else row.valid)[select_by] for row in curve]
    assert made.progress.best_value == max(map(float, values))  # type: ignore[arg-type]


def test_masked_selection_follows_the_masked_metric(tmp_path: Path) -> None:
    settings = with_settings(batch_size=8, epochs=6, patience=0, learning_rate=0.05, select="masked")
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    made.fit()
    values = [row.valid_masked["recall@10"] for row in made.progress.curve]
    assert made.progress.best_epoch == values.index(max(values)) + 1


@pytest.fixture(scope="module")
def at_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after the third of five epochs, of which the second is the best."""
    folder = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        real, calls = Checkpoint.save, iter(range(1, 10))

        def deadly(*arguments: Any, **named: Any) -> None:
            real(*arguments, **named)
            if next(calls) == 3:
                raise Killed

        patch.setattr(Checkpoint, "save", deadly)
        with pytest.raises(Killed):
            attempt(folder)
    return folder


def flip(data: bytes) -> bytes:
    """A bit of the weights: `torch.load` takes it for a number like any other."""
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]


FAULTS: dict[str, Callable[[bytes], bytes | None]] = {
    "bit flip": flip,
    "bit flip in the checksum": lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
    "truncation": lambda data: data[:-100],
    "zeroed block": lambda data: data[:2000] + bytes(2048) + data[4048:],
    "nothing left": lambda data: b"",
    "another file": lambda data: b"not a checkpoint",
    "deletion": lambda data: None,
}


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize("fault", FAULTS)
def test_training_starts_anew_where_a_checkpoint_is_damaged(
    kind: str,
    fault: str,
    at_three: Path,
    whole: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(at_three, copy)
    (file,) = copy.glob(f"{kind}*.pt")
    damaged = FAULTS[fault](file.read_bytes())
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    capsys.readouterr()
    assert Checkpoint(copy).epochs_done() == 0
    assert attempt(copy) == whole
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert line.endswith("; training starts anew")
    assert str(copy) in line
    assert file.name in line


def test_best_weights_that_are_the_last_ones_come_from_there(
    whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost, and nothing is said."""
    settings = with_settings(**{**vars(SETTINGS), "epochs": 1})
    made, _ = trainer(recommender(settings, WORLD, "tmoe"), WORLD.task(settings), settings, tmp_path, seed=1)
    made.fit()
    (best,) = tmp_path.glob("best-1.pt")
    good = best.read_bytes()
    best.write_bytes(flip(good))
    assert Checkpoint(tmp_path).epochs_done() == 1
    assert best.read_bytes() == flip(good), "asking changes nothing"
    assert Checkpoint(tmp_path).load(made.model) is not None
    assert best.read_bytes() == good
    assert attempt(tmp_path) == whole
    assert "anew" not in capsys.readouterr().err


def test_a_checkpoint_that_may_not_be_read_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """It may be whole: training anew would write over it."""
    (tmp_path / "last.pt").mkdir()
    with pytest.raises(OSError, match=r"last\.pt"):
        Checkpoint(tmp_path).load(torch.nn.Module())


def test_a_checkpoint_of_another_version_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    Checkpoint(tmp_path).save({"weights": {}, "progress": {}}, 1, None)
    monkeypatch.undo()
    assert Checkpoint(tmp_path).load(torch.nn.Module()) is None
    assert "another version of this program made it; training starts anew" in capsys.readouterr().err


def test_best_weights_that_were_damaged_meanwhile_are_one_clear_line(tmp_path: Path) -> None:
    model = torch.nn.Module()
    with pytest.raises(UserError, match=r"best-3\.pt is missing; the same command trains anew"):
        Checkpoint(tmp_path).load_best(3, model)
