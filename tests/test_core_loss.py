"""The loss of a step against loops in float64, written from the paper's definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_worlds import World, make_world, recommender, spread, trained_steps, with_settings, world_of

from benchmark.config import Settings
from benchmark.model.items import Batch
from benchmark.model.loss import CHUNK_SCORES, Candidates, Predictions, softmax_loss
from benchmark.model.recommender import Recommender, StepLoss
from benchmark.train.batches import EpochBatches, build_batch

EVERYTHING = 10_000
MODES = ("batch", "catalogue", "sampled")


def whole_batch(world: World, settings: Settings, seed: int = 0) -> Batch:
    """All pairs of the world in one batch."""
    task = world.task(settings)
    (batch,) = EpochBatches(task.train, task.sequences, replace(settings, batch_size=EVERYTHING), seed, 1)
    return batch


def plain_loss(model: Recommender, batch: Batch, settings: Settings, trained: list[int]) -> tuple[float, int]:
    """Mean of -log(e^{r+} / sum e^{r}) over predictions, in loops; and the number of terms."""
    with torch.no_grad():
        table = model.embed(batch.share)
        states = model.users(table, batch.inputs, batch.positions, batch.segments, batch.slots)
    v = {int(i): row.double().numpy() for i, row in zip(batch.share.items, table, strict=True)}
    u = states.double().numpy()
    targets, users = batch.targets.tolist(), batch.users.tolist()

    def score(p: int, item: int) -> float:
        cosine = u[p] @ v[item] / math.sqrt(u[p] @ u[p]) / math.sqrt(v[item] @ v[item])
        return float(cosine / settings.temperature)

    total, terms = 0.0, 0
    for p, target in enumerate(targets):
        if settings.candidates == "batch":
            negatives = [t for t, user in zip(targets, users, strict=True) if user != users[p]]
            if settings.mask_false_negatives:
                negatives = [t for t in negatives if t != target]
            weight = 1.0
        elif settings.candidates == "catalogue":
            negatives, weight = [i for i in trained if i != target], 1.0
        else:
            negatives = [i for i in batch.candidates.tolist() if i != target]
            weight = (len(trained) - 1) / max(1, len(negatives))
        below = sum(weight * math.exp(score(p, item)) for item in negatives)
        terms += len(negatives)
        if settings.positive_in_denominator:
            below += math.exp(score(p, target))
            terms += 1
        if below:
            total += math.log(below) - score(p, target)
    return total / len(targets), terms


@pytest.mark.parametrize("sequences", ["packed", "prefixes"])
@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize(
    ("candidates", "masked"),
    [("batch", True), ("batch", False), ("catalogue", True), ("sampled", True)],
)
@pytest.mark.parametrize("method", ["id", "tmoe"])
def test_agrees_with_loops(
    method: str, candidates: Any, masked: bool, denominator: bool, sequences: Any
) -> None:
    world = make_world(5, n_users=9, n_items=10)  # few items: repeats, shared targets
    settings = with_settings(
        candidates=candidates, samples=4, mask_false_negatives=masked,
        positive_in_denominator=denominator, sequences=sequences,
    )  # fmt: skip
    model = spread(recommender(settings, world, method)).eval()
    batch = whole_batch(world, settings)
    step = model(batch)
    loss, terms = plain_loss(model, batch, settings, world.sequences.trained.tolist())
    assert step.objective.item() == pytest.approx(loss, rel=1e-4)
    assert step.loss_sum.item() == pytest.approx(loss * batch.predictions, rel=1e-4)
    assert int(step.candidates_sum) == terms


def gradients(model: Recommender, step: StepLoss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    step.objective.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("ids", ["none", "add"])
@pytest.mark.parametrize("candidates", ["batch", "catalogue"])
@pytest.mark.parametrize("window", [2, 4])
def test_packed_and_prefixes_give_equal_loss_and_gradients(window: int, candidates: Any, ids: Any) -> None:
    """Users longer than the window included."""
    world = make_world(8, n_users=14, longest=12)
    found = []
    for sequences in ("packed", "prefixes"):
        settings = with_settings(window=window, candidates=candidates, sequences=sequences, ids=ids)
        model = recommender(settings, world, "tmoe", noise="never")
        step = model(whole_batch(world, settings))
        found.append((step.objective.item(), int(step.candidates_sum), gradients(model, step)))
    (one, terms, one_gradients), (two, same_terms, two_gradients) = found
    assert one == pytest.approx(two, rel=1e-5)
    assert terms == same_terms
    for name, gradient in one_gradients.items():
        torch.testing.assert_close(gradient, two_gradients[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("denominator", [True, False])
def test_sampling_everything_is_the_catalogue(denominator: bool) -> None:
    world = make_world(9)
    losses = []
    n = len(world.sequences.trained)
    for changes in (
        {"candidates": "catalogue"},
        *({"candidates": "sampled", "samples": k} for k in (n, n + 1, 4096)),
    ):
        settings = with_settings(positive_in_denominator=denominator, **changes)
        model = recommender(settings, world)
        losses.append(model(whole_batch(world, settings)).objective.item())
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_the_corrected_partition_is_unbiased() -> None:
    """Over all draws of 3 of the trained items, the estimated sum over negatives averages to the true one."""
    world = world_of([[0, 1, 2, 3], [4, 5, 6, 0]], 7)  # one prediction each: 1 after 0, 5 after 4
    full = with_settings(candidates="catalogue", positive_in_denominator=False, temperature=0.5)
    settings = replace(full, candidates="sampled", samples=3)
    trained = np.arange(7)  # as if every item occurred in training
    data = replace(world.sequences, trained=trained)
    rows = world.task(settings).train.take(np.array([0]))  # user 0 alone: the loss is its own
    model = spread(recommender(settings, world)).eval()
    model.n_trained = 7

    def ratio(batch: Batch) -> float:  # sum over negatives / e^{r+}
        return math.exp(model(batch).objective.item())

    model.settings = full
    exact = ratio(build_batch(rows, data, full, data.trained))
    model.settings = settings
    draws = [np.array(draw) for draw in itertools.combinations(range(7), 3)]
    for has_target in (True, False):
        estimates = [ratio(build_batch(rows, data, settings, d)) for d in draws if (1 in d) == has_target]
        assert np.mean(estimates) == pytest.approx(exact, rel=1e-4)


def test_many_steps_of_sampling_are_near_the_full_softmax() -> None:
    world = make_world(12, n_users=20, n_items=40)
    full = with_settings(candidates="catalogue", temperature=0.5)
    settings = replace(full, candidates="sampled", samples=len(world.sequences.trained) // 2)
    expected = recommender(full, world)(whole_batch(world, full)).objective.item()
    model = recommender(settings, world)
    with torch.no_grad():
        losses = [model(whole_batch(world, settings, seed)).objective.item() for seed in range(60)]
    spread_of_mean = np.std(losses) / math.sqrt(len(losses))
    assert np.std(losses) > 0, "different draws give different losses"
    # the log of an unbiased sum is a little low (Jensen), by less than its spread here
    assert abs(np.mean(losses) - expected) < 4 * spread_of_mean + 0.01 * expected


LONELY = {
    "batch": world_of([[0, 1, 2, 3, 0, 1]], 4),  # one user: nobody else's targets
    "catalogue": world_of([[0, 0, 0, 1, 2]], 3),  # one trained item: no other
    "sampled": world_of([[0, 1, 0, 1, 2, 3]], 4),  # a single draw: the target itself, half the time
}


@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize("candidates", MODES)
def test_predictions_without_negatives_teach_nothing_and_break_nothing(
    candidates: Any, denominator: bool
) -> None:
    world = LONELY[candidates]
    settings = with_settings(candidates=candidates, samples=1, positive_in_denominator=denominator)
    model = recommender(settings, world)
    batch = whole_batch(world, settings)
    step = model(batch)
    found = gradients(model, step)
    assert math.isfinite(step.objective.item())
    assert all(g.isfinite().all() for g in found.values())
    if candidates != "sampled":
        assert step.objective.item() == pytest.approx(0, abs=1e-6)
        assert max(float(g.abs().max()) for g in found.values()) < 1e-6
        assert int(step.candidates_sum) == batch.predictions * denominator


@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize("candidates", MODES)
def test_one_lonely_prediction_leaves_the_others_their_gradient(candidates: Any, denominator: bool) -> None:
    """All that the second user predicts is the first one's 1, which is masked; their 2 has a negative."""
    world = world_of([[0, 1, 2, 3, 4], [4, 1, 2, 3]], 5)
    settings = with_settings(candidates=candidates, samples=1, positive_in_denominator=denominator)
    model = recommender(settings, world)
    found = gradients(model, model(whole_batch(world, settings)))
    assert all(g.isfinite().all() for g in found.values())
    assert candidates == "sampled" or max(float(g.abs().max()) for g in found.values()) > 1e-3


@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize("candidates", MODES)
def test_bf16_autocast_survives_nearly_identical_embeddings(candidates: Any, denominator: bool) -> None:
    """Every cosine is 1 to three digits: logits of 14 in fp32, and a loss of about log of the terms."""
    world = make_world(4, n_users=20)
    settings = with_settings(candidates=candidates, samples=6, positive_in_denominator=denominator)
    model = recommender(settings, world)
    with torch.no_grad():
        model.method.embedding.weight.copy_(1 + 1e-4 * torch.randn_like(model.method.embedding.weight))
    batch = whole_batch(world, settings)
    with torch.autocast("cpu", torch.bfloat16):
        step = model(batch)
    found = gradients(model, step)
    assert step.objective.dtype == torch.float32
    terms = int(step.candidates_sum) / batch.predictions
    estimate = len(world.sequences.trained) if candidates == "sampled" else terms
    assert step.objective.item() == pytest.approx(math.log(estimate), abs=0.2)
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize("candidates", MODES)
def test_bf16_is_near_fp32(candidates: Any) -> None:
    world = make_world(4, n_users=20)
    settings = with_settings(candidates=candidates, samples=6)
    model = recommender(settings, world, "tmoe", noise="never")
    batch = whole_batch(world, settings)
    exact = model(batch).objective.item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch).objective.item()
    assert rough == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("candidates", MODES)
def test_accumulated_gradients_average_their_batches(tmp_path: Path, candidates: str) -> None:
    """One optimiser step over two batches sees the mean of the two gradients, from one table of items."""
    world = make_world(2)
    settings = with_settings(batch_size=20, accumulation=2, candidates=candidates, samples=6, epochs=1)
    task = world.task(settings)
    batches = list(EpochBatches(task.train, task.sequences, settings, seed=4, epoch=1))
    assert len(batches) == 3, "two groups, the last one of a single batch"
    by_step = trained_steps(recommender(settings, world), task, settings, tmp_path, seed=4)
    assert len(by_step) == 2
    model = recommender(settings, world)
    parts = [gradients(model, model(batch)) for batch in batches[:2]]
    for name, gradient in by_step[0].items():
        expected = (parts[0][name] + parts[1][name]) / 2
        rounding = 1e-7 + 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=rounding, msg=name)


def one_step(n: int, columns: int, candidates: str, dtype: torch.dtype) -> tuple[Predictions, Candidates]:
    """Random unit vectors; users and items repeat, and one drawn candidate in three is nobody's target."""
    generator = torch.Generator().manual_seed(n)
    vectors = torch.randn(2 * n + columns, 6, dtype=dtype, generator=generator)
    u, v, c = torch.nn.functional.normalize(vectors, dim=-1).split([n, n, columns])
    items = (
        torch.arange(columns) if candidates != "batch" else torch.randint(4, (columns,), generator=generator)
    )
    own = torch.randint(columns, (n,), generator=generator)
    users = torch.randint(5, (columns,), generator=generator)
    if candidates == "sampled":
        own[::3] = -1
    return (
        Predictions(
            u, v, items[own], users[own], None if candidates == "batch" else own, torch.ones(n, dtype=dtype)
        ),
        Candidates(c, items, users if candidates == "batch" else None),
    )


@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize("candidates", MODES)
def test_gradients_are_those_of_the_loss(
    candidates: Any, denominator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By differences, in float64, with a last chunk smaller than the others."""
    settings = with_settings(candidates=candidates, positive_in_denominator=denominator, temperature=0.5)
    predictions, columns = one_step(8, 7, candidates, torch.double)
    whole = float(softmax_loss(predictions, columns, settings, 20)[0])
    monkeypatch.setitem(CHUNK_SCORES, "cpu", 3 * 7)

    def loss(u: torch.Tensor, v: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        made = replace(predictions, u=u, v=v), replace(columns, embeddings=c)
        return softmax_loss(*made, settings, 20)[0]

    inputs = predictions.u, predictions.v, columns.embeddings
    assert float(loss(*inputs)) == pytest.approx(whole, rel=1e-12)
    assert torch.autograd.gradcheck(loss, tuple(x.detach().requires_grad_() for x in inputs))


def test_over_the_catalogue_it_is_torchs_cross_entropy() -> None:
    settings = with_settings(candidates="catalogue")
    predictions, columns = one_step(50, 70, "catalogue", torch.float32)
    predictions = replace(predictions, v=columns.embeddings[predictions.own])
    inputs = tuple(x.clone().requires_grad_() for x in (predictions.u, columns.embeddings))
    expected = torch.nn.functional.cross_entropy(
        inputs[0] @ inputs[1].T / settings.temperature, predictions.own, reduction="sum"
    )
    wanted = torch.autograd.grad(expected, inputs)
    for low in (None, torch.bfloat16):
        u, c = (x.detach().clone().requires_grad_() for x in inputs)
        made = replace(predictions, u=u, v=c[predictions.own]), replace(columns, embeddings=c)
        loss, _, terms = softmax_loss(*made, settings, 70, low)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # in fp32, whatever `low`
        assert int(terms) == 50 * 70
        for exact, found in zip(wanted, torch.autograd.grad(loss, (u, c)), strict=True):
            assert found.dtype == torch.float32
            difference = (found - exact).norm() / exact.norm()
            assert difference < 1e-6 if low is None else 1e-5 < difference < 0.01
