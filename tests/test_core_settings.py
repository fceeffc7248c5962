"""Settings of training against plain versions: similarity, smoothing, schedule, decay, averages, windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_worlds import CPU, make_world, pairs_of, recommender, spread, trainer, with_settings, world_of

from benchmark.config import Settings
from benchmark.model.items import Batch
from benchmark.model.recommender import Recommender
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train import loop
from benchmark.train.batches import EpochBatches
from benchmark.train.evaluate import evaluate
from benchmark.train.rows import training_rows
from benchmark.train.step import LearningRate
from methods.errors import UserError

WORLD = world_of([[(7 * n + step) % 40 for step in range(8)] for n in range(30)], 40)
SETTINGS = with_settings(batch_size=8, epochs=4, patience=0, learning_rate=0.01)


def whole_batch(world: Any, settings: Settings) -> Batch:
    task = world.task(settings)
    (batch,) = EpochBatches(task.train, task.sequences, replace(settings, batch_size=10_000), 0, 1)
    return batch


def plain_states(model: Recommender, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """User states `[P, d]` and all items `[I, d]` as they are scored, with gradients."""
    table = model.embed(batch.share)
    u = model.users(table, batch.inputs, batch.positions, batch.segments, batch.slots)
    v = model.method.embedding.weight
    return (u, v) if model.settings.similarity == "dot" else (F.normalize(u), F.normalize(v))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("candidates", ["catalogue", "batch"])
def test_loss_and_gradients_equal_those_of_torch(similarity: Any, smoothing: float, candidates: Any) -> None:
    """`F.cross_entropy` over each prediction's own terms."""
    world = make_world(5, n_users=9, n_items=10)
    settings = with_settings(
        candidates=candidates, similarity=similarity, label_smoothing=smoothing, temperature=0.5
    )
    model = spread(recommender(settings, world)).eval()
    batch = whole_batch(world, settings)
    step = model(batch)
    step.objective.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    u, v = plain_states(model, batch)
    losses = []
    targets, users = batch.targets.tolist(), batch.users.tolist()
    for place, (target, user) in enumerate(zip(targets, users, strict=True)):
        negatives = [item for item in world.sequences.trained.tolist() if item != target]
        if candidates == "batch":
            negatives = [x for x, owner in zip(targets, users, strict=True) if owner != user and x != target]
        logits = u[place] @ v[[target, *negatives]].T / settings.temperature  # [1 + n]
        losses.append(F.cross_entropy(logits[None], torch.tensor([0]), label_smoothing=smoothing))
    plain = torch.stack(losses).mean()
    plain.backward()
    torch.testing.assert_close(step.objective, plain, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_dot_products_rank_the_catalogue() -> None:
    world = make_world(2, n_users=20, n_items=12)
    settings = with_settings(similarity="dot")
    model = spread(recommender(settings, world)).eval()
    task = world.task(settings)
    ranks = evaluate(model, world.sequences, task.test, task.history_start, CPU)
    for user, items in enumerate(world.users):
        history = torch.tensor(items[:-1][-settings.window :])
        places = torch.arange(len(history))
        with torch.no_grad():
            x = model.method.embedding.weight[history][None]
            state = model.sasrec(x, places[None], torch.zeros_like(places)[None], places)[-1]
            scores = model.method.embedding.weight @ state
        assert ranks.raw.best[user] == 1 + int((scores > scores[items[-1]]).sum())


@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_the_cosine_schedule_is_that_of_transformers(warmup: float) -> None:
    from transformers import get_cosine_schedule_with_warmup

    settings = with_settings(schedule="cosine", warmup_epochs=warmup, epochs=10)
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    rate = LearningRate(optimiser, settings, lambda: 200)
    expected = get_cosine_schedule_with_warmup(optimiser, int(20 * warmup), 200).lr_lambdas[0]
    for step in range(1, 201):
        rate.set(step)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.5 * expected(step), abs=1e-12)


def test_a_run_to_the_end_of_the_cosine_is_alive(tmp_path: Path) -> None:
    """The last step has a learning rate of 0, which is no fault."""
    settings = replace(SETTINGS, schedule="cosine", epochs=3)
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path / "run")
    assert made.fit() == "epochs"
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    made.test()
    assert made.certificate().problems == []


def test_a_constant_rate_rises_in_the_warmup_alone() -> None:
    settings = with_settings(warmup_epochs=2, epochs=4)
    rate = LearningRate(torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]), settings, lambda: 40)
    assert [rate.factor(step) for step in (1, 10, 20, 21, 40)] == [0.05, 0.5, 1, 1, 1]


def test_weight_decay_is_that_of_adamw_and_spares_vectors(tmp_path: Path) -> None:
    """Every step against the published update in float64."""
    settings = replace(SETTINGS, weight_decay=0.2, epochs=1)
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    plain = {name: p.detach().double().numpy().copy() for name, p in made.model.named_parameters()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in plain.items()}
    count = 0

    def follow(*_: Any) -> None:
        nonlocal count
        count += 1
        for name, parameter in made.model.named_parameters():
            gradient = parameter.grad.double().numpy()
            first, second = moments[name]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            if parameter.ndim > 1:
                plain[name] *= 1 - settings.learning_rate * settings.weight_decay
            scaled = np.sqrt(second / (1 - 0.999**count)) + 1e-8
            plain[name] -= settings.learning_rate * first / (1 - 0.9**count) / scaled

    made.optimiser.optimizer.register_step_pre_hook(follow)
    made.fit()
    assert count > 3
    for name, parameter in made.model.named_parameters():
        np.testing.assert_allclose(
            parameter.detach().numpy(), plain[name], rtol=1e-3, atol=1e-4, err_msg=name
        )


def test_averaged_weights_are_validated_and_tested(tmp_path: Path) -> None:
    settings = replace(SETTINGS, average_decay=0.9)
    made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, tmp_path)
    average = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    by_epoch: list[dict[str, torch.Tensor]] = []
    count = 0

    def follow(*_: Any) -> None:
        nonlocal count
        count += 1
        decay = min(0.9, (1 + count) / (10 + count))
        for name, parameter in made.model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
        if count in ends:
            by_epoch.append(dict(average))

    made.optimiser.optimizer.register_step_post_hook(follow)
    ends = np.cumsum(
        [len(EpochBatches(made.task.train, made.task.sequences, settings, 0, n)) for n in (1, 2, 3, 4)]
    )
    made.fit()
    made.test()
    best = by_epoch[made.progress.best_epoch - 1]
    for name, parameter in made.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), best[name], rtol=1e-4, atol=1e-6, msg=name)


class Killed(Exception):
    """Stands for a kill between two epochs."""


def test_schedule_and_averages_go_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, average_decay=0.9, schedule="cosine", warmup_epochs=1.0, weight_decay=0.1)

    def train(folder: Path) -> list[float]:
        made, _ = trainer(recommender(settings, WORLD), WORLD.task(settings), settings, folder)
        made.fit()
        return [*(row.loss for row in made.progress.curve), *made.test().raw.mean.tolist()]

    whole = train(tmp_path / "whole")
    epochs = iter(range(10))

    def deadly(status: object) -> None:
        if next(epochs) == 1:
            raise Killed

    monkeypatch.setattr(loop, "publish", deadly)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    assert train(tmp_path / "killed") == whole


@pytest.mark.parametrize("slide", [2, 3, 5, 50])
@pytest.mark.parametrize("mode", ["packed", "prefixes"])
def test_slide_windows_are_all_runs_of_a_sequence(mode: str, slide: int) -> None:
    world, window = make_world(4), 3
    ends = np.array([len(user) - 2 for user in world.users])
    rows = training_rows(world.offsets, ends, window, mode, slide)
    items = np.concatenate([np.array(user) for user in world.users])
    expected = []
    for user, sequence in enumerate(world.users):
        train = sequence[: len(sequence) - 2]
        for begin in range(max(1, len(train) - slide + 1)):
            run = train[begin : begin + slide]
            expected += [(user, tuple(run[max(0, j - window) : j]), run[j]) for j in range(1, len(run))]
    assert pairs_of(rows, items) == sorted(expected)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("window=10", "stride=11"), "stride=11 is above window=10"),
        (("stride=2", "sequences=prefixes"), "stride=2 goes with sequences=packed alone"),
        (("stride=0",), "stride"),
    ],
)
def test_a_stride_that_cannot_be_is_one_line(overrides: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        resolve_run(RunSpec("tiny", "none", "id", "fair", 0, overrides))
    assert "\n" not in str(caught.value)
