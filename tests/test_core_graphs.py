"""Filled-up batches, laid out for replay: the loss and the gradients of the batches themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core_worlds import make_world, recommender, trainer, with_settings

from benchmark.run.build import build_trainer
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train.batches import EpochBatches
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.graphs import filled_up, size
from methods.base import Method
from methods.registry import get

WORLD = make_world(3, n_users=20)
MODES = ("batch", "catalogue", "sampled")


def settings_for(candidates: str, **more: Any) -> Any:
    return with_settings(candidates=candidates, samples=6, batch_size=20, epochs=2, patience=0, **more)


def test_few_sizes_are_enough() -> None:
    assert [size(n) for n in (0, 1, 4, 5, 7, 8, 9, 11, 17, 33, 257)] == [
        0,
        1,
        4,
        5,
        7,
        8,
        10,
        12,
        20,
        40,
        320,
    ]
    sizes = {size(n) for n in range(1, 10_000)}
    assert len(sizes) < 60 and all(n <= size(n) < n * 5 / 4 + 1 for n in range(1, 10_000))


@pytest.mark.parametrize("ids", ["none", "add"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("candidates", MODES)
def test_fillers_teach_nothing(candidates: str, accumulation: int, ids: str) -> None:
    settings = settings_for(candidates, accumulation=accumulation, ids=ids)
    model = recommender(settings, WORLD, "tmoe", noise="never")
    rows = WORLD.task(settings).train
    grown = 0
    for (batch,) in EpochBatches(rows, WORLD.sequences, settings, 1, 1).steps():
        filled = filled_up(batch)
        grown += len(filled.slots) - len(batch.slots)
        found = []
        for one in (batch, filled):
            model.zero_grad()
            step = model(one)
            step.objective.backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            found.append((step.objective, step.loss_sum, step.candidates_sum, gradients))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert grown > 0


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("candidates", MODES)
@pytest.mark.parametrize("method", ["id", "tmoe", "ssna"])
def test_a_run_in_laid_out_batches_is_the_same(
    method: str, candidates: str, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the recording itself, which wants a GPU: layout, fillers, gradients that are kept in place."""
    settings = settings_for(candidates, accumulation=accumulation, learning_rate=0.01)
    hyper = {} if method == "id" else {"noise": "never"}
    task, found = WORLD.task(settings), []
    for replayed in (False, True):
        model = recommender(settings, WORLD, method, **hyper)
        made, _ = trainer(model, task, settings, tmp_path / str(replayed))
        if replayed:
            made.replay.enabled = True
        made.fit()
        found.append(
            ([row.loss for row in made.progress.curve], made.progress.candidates, model.encoder.encoded)
        )
    assert found[0][1:] == found[1][1:]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)


@pytest.mark.parametrize("name", ["id", "tmlp", "tmoe", "ssna", "ssna-mean", "ssna-weighted"])
def test_methods_declare_whether_their_steps_can_be_replayed(name: str) -> None:
    assert get(name).replayable
    assert not Method.replayable, "who says nothing is run operator by operator"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs want a GPU")
@pytest.mark.parametrize("candidates", MODES)
@pytest.mark.parametrize("method", ["id", "tmoe", "ssna"])
def test_replayed_steps_are_those_of_the_operators(
    method: str, candidates: str, folder: Path, tmp_path: Path
) -> None:
    quiet = [
        "sasrec_dropout=0",
        "precision=no",
        "batch_size=8",
        "learning_rate=0.01",
        "epochs=6",
        "patience=0",
    ]
    quiet += [] if method == "id" else ["dropout=0", "noise=never"]
    found = []
    for replay in ("off", "auto"):
        overrides = (*quiet, f"candidates={candidates}", "samples=5", f"replay={replay}")
        cell = RunSpec(str(folder), "random-tiny", method, "paper", 0, overrides)
        made, _ = build_trainer(resolve_run(cell), Checkpoint(tmp_path / replay))
        made.fit()
        graphs = made.replay.graphs
        assert (graphs is not None) == (replay == "auto")
        assert graphs is None or (graphs.works and graphs.recorded > 0)
        found.append([row.loss for row in made.progress.curve])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
