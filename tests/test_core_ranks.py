"""Ranks and metrics against hand-computed cases, torchmetrics, plain sorting and permutations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_worlds import World, make_world, recommender, with_settings
from numpy.typing import NDArray

from benchmark.config import Settings
from benchmark.model.recommender import Recommender
from benchmark.results.metrics import Ranks, chance, metrics_of
from benchmark.train import evaluate as evaluation
from benchmark.train.batches import Sequences
from benchmark.train.evaluate import UserRanks, evaluate
from benchmark.train.rows import evaluation_rows

SETTINGS = with_settings()
CPU = torch.device("cpu")


def untied(ranks: list[int] | NDArray[np.int64]) -> Ranks:
    best = np.asarray(ranks)
    return Ranks(best, np.ones_like(best))


def test_metrics_by_hand() -> None:
    # ranks 1, 3, 10, 11, 50, 51: 3 of 6 within 10, 5 of 6 within 50
    found = metrics_of(untied([1, 3, 10, 11, 50, 51]))
    assert found["recall@10"] == pytest.approx(3 / 6)
    assert found["recall@50"] == pytest.approx(5 / 6)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 6)
    ndcg50 = 1 + 1 / 2 + 1 / math.log2(11) + 1 / math.log2(12) + 1 / math.log2(51)
    assert found["ndcg@50"] == pytest.approx(ndcg50 / 6)


def test_ties_by_hand() -> None:
    """Three items tie for the places 9, 10 and 11: two of the three orders are hits within 10."""
    found = metrics_of(Ranks(np.array([9]), np.array([3])))
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["ndcg@10"] == pytest.approx((1 / math.log2(10) + 1 / math.log2(11)) / 3)
    assert found["ndcg@50"] == pytest.approx((1 / math.log2(10) + 1 / math.log2(11) + 1 / math.log2(12)) / 3)


def test_mean_ranks_of_older_records_keep_their_rule() -> None:
    """Tied for 10 and 11, at the mean rank 10.5: not within 10."""
    found = metrics_of(np.array([10.5, 1.5]))
    assert found["recall@10"] == 0.5
    assert found["ndcg@50"] == pytest.approx((1 / math.log2(11.5) + 1 / math.log2(2.5)) / 2)


def test_no_users_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no ranks"):
        metrics_of(untied([]))


def test_chance_by_hand() -> None:
    found = chance(np.array([200]))
    assert found["recall@10"] == pytest.approx(0.05)
    assert found["ndcg@10"] == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, 11)) / 200)
    assert chance(np.array([7]))["recall@10"] == 1


@pytest.mark.parametrize("n_items", [3, 10, 30, 70])
def test_chance_is_the_mean_over_users_of_what_is_left_to_each(n_items: int) -> None:
    left = np.arange(1, n_items + 1)
    each = [metrics_of(untied(np.arange(1, count + 1))) for count in left.tolist()]
    for name, value in chance(left).items():
        assert value == pytest.approx(np.mean([entry[name] for entry in each]), rel=1e-12)


def user_scores(
    model: Recommender, world: World, user: int, at: int, twin: list[int] | None = None
) -> NDArray[np.float64]:
    """`[I]` cosines of one user with every item, one row without packing."""
    window, settings = world.users[user][max(0, at - model.settings.window) : at], model.settings
    table = model.method.embedding.weight.detach()
    if twin is not None:
        table = table[torch.tensor(twin)]
    x = table[torch.tensor(window)][None]
    places = torch.arange(len(window))
    with torch.no_grad():
        states = model.sasrec(x, places[None], torch.zeros(1, len(window), dtype=torch.long), places)
    assert settings.width == states.shape[-1]
    u, v = states[-1].double().numpy(), table.double().numpy()
    return np.asarray(v @ u / np.linalg.norm(v, axis=1) / np.linalg.norm(u))


def plain_rank(scores: NDArray[np.float64], target: int, left_out: set[int]) -> int:
    """Place of `target` when the items that are not left out are sorted."""
    kept = [item for item in range(len(scores)) if item == target or item not in left_out]
    return 1 + sorted(kept, key=lambda item: -scores[item]).index(target)


def ranked(model: Recommender, world: World, split: str, data: Sequences | None = None) -> UserRanks:
    task = world.task(model.settings)
    return evaluate(model, data or world.sequences, getattr(task, split), task.history_start, CPU)


def check(model: Recommender, world: World, split: str) -> None:
    found = ranked(model, world, split)
    assert found.user.tolist() == list(range(len(world.users)))
    for user, items in enumerate(world.users):
        at = len(items) - (2 if split == "valid" else 1)
        scores = user_scores(model, world, user, at)
        assert found.raw.best[user] == plain_rank(scores, items[at], set())
        assert found.masked.best[user] == plain_rank(scores, items[at], set(items[:at]))
    assert (found.raw.tied == 1).all() and (found.masked.tied == 1).all()


def same(one: UserRanks, two: UserRanks) -> bool:
    return all(
        (a.best == b.best).all() and (a.tied == b.tied).all()
        for a, b in ((one.raw, two.raw), (one.masked, two.masked))
    )


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ranks_agree_with_sorting(seed: int, split: str) -> None:
    """Histories longer than the window, with repeats, and with the target itself among them."""
    world = make_world(seed, n_users=30, n_items=12, longest=14)
    model = recommender(SETTINGS, world, seed=seed)
    assert any(user[-1] in user[:-1] for user in world.users)
    assert any(len(set(user[:-1])) < len(user) - 1 for user in world.users)
    check(model, world, split)


@pytest.mark.parametrize("window", [3, 50])
def test_ranks_of_several_targets_of_a_user_agree_with_sorting(window: int) -> None:
    """One pass over a user's history serves them as far as it fits into the window."""
    world = make_world(5, n_users=30, n_items=12, longest=14)
    model = recommender(with_settings(window=window), world)
    begin, ends = world.train_end, np.diff(world.offsets)
    rows = evaluation_rows(world.offsets, np.maximum(begin - 3, 1), window, ends)
    found = evaluate(model, world.sequences, rows, world.offsets[:-1], CPU)
    assert len(rows) > 3 * 30 and found.user.tolist() == rows.user.tolist()
    for place, (user, at) in enumerate(zip(found.user.tolist(), found.position.tolist(), strict=True)):
        items, scores = world.users[user], user_scores(model, world, user, at)
        assert found.raw.best[place] == plain_rank(scores, items[at], set())
        assert found.masked.best[place] == plain_rank(scores, items[at], set(items[:at]))


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(1, n_users=30)
    model = recommender(SETTINGS, world)
    whole = ranked(model, world, "test")
    monkeypatch.setattr(evaluation, "CHUNK_USERS", 7)
    monkeypatch.setattr(evaluation, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(evaluation, "LEAST_USERS", 2)
    monkeypatch.setitem(evaluation.CHUNK_SCORES, "cpu", 1)
    monkeypatch.setattr(evaluation, "EXACT_ROWS", 5)
    parts = ranked(model, world, "test")
    assert same(whole, parts)


def test_evaluation_leaves_the_mode_alone_and_has_no_dropout() -> None:
    world = make_world(1)
    model = recommender(replace(SETTINGS, sasrec_dropout=0.5), world).train()
    one, two = ranked(model, world, "test"), ranked(model, world, "test")
    assert same(one, two)
    assert model.training


def test_routing_noise_is_off_at_evaluation() -> None:
    world = make_world(1)
    model = recommender(SETTINGS, world, "tmoe").train()
    assert same(ranked(model, world, "test"), ranked(model, world, "test"))


def by_counting(scores: list[float], target: int) -> tuple[int, int]:
    """Best rank of `target` and the number of items with its score."""
    return 1 + sum(score > scores[target] for score in scores), scores.count(scores[target])


@pytest.mark.parametrize("twin", [[0] * 6, [0, 1, 0, 1, 0, 5], [0, 1, 2, 3, 4, 5], [0, 0, 2, 2, 2, 2]])
def test_items_of_equal_text_tie_exactly(twin: list[int]) -> None:
    world = make_world(2, n_users=10, n_items=6)
    model = recommender(SETTINGS, world)
    data = Sequences(world.items, np.array(twin), world.sequences.trained)
    found = ranked(model, world, "test", data)
    for user, items in enumerate(world.users):
        scores = user_scores(model, world, user, len(items) - 1, twin).round(9).tolist()
        assert (found.raw.best[user], found.raw.tied[user]) == by_counting(scores, items[-1])
        kept = [i for i in range(6) if i == items[-1] or i not in items[:-1]]
        rest = [scores[i] for i in kept]
        masked = found.masked.best[user], found.masked.tied[user]
        assert masked == by_counting(rest, kept.index(items[-1]))


def constant(model: Recommender, _: World) -> None:
    model.method.embedding.weight.data[:] = torch.ones(SETTINGS.width)


def zero(model: Recommender, _: World) -> None:
    model.method.embedding.weight.data.zero_()


@pytest.mark.parametrize("flatten", [constant, zero])
def test_a_constant_scorer_gets_exactly_chance(flatten: Callable[[Recommender, World], None]) -> None:
    world = make_world(3, n_users=40, n_items=101)
    model = recommender(SETTINGS, world)
    flatten(model, world)
    found = ranked(model, world, "test")
    assert (found.raw.best == 1).all() and (found.raw.tied == 101).all()
    left = np.array([101 - len(set(items[:-1]) - {items[-1]}) for items in world.users])
    assert (found.masked.best == 1).all() and (found.masked.tied == left).all()
    assert metrics_of(found.raw) == pytest.approx(chance(np.array([101])), rel=1e-12)
    assert metrics_of(found.masked) == pytest.approx(chance(left), rel=1e-12)


def test_scores_of_nothing_but_nan_are_refused() -> None:
    """nan compares as neither higher nor equal: counted blindly, every target would come first."""
    world = make_world(3)
    model = recommender(SETTINGS, world)
    model.method.embedding.weight.data[3] = math.nan
    with pytest.raises(Exception, match="not finite"):
        ranked(model, world, "test")


def test_ranks_are_fp32_under_autocast() -> None:
    """Cosines that bf16 cannot tell apart are told apart."""
    world = make_world(1, n_items=60)
    model = recommender(SETTINGS, world)
    generator = torch.Generator().manual_seed(0)
    near = 1 + 1e-3 * torch.randn(60, SETTINGS.width, generator=generator)
    model.method.embedding.weight.data.copy_(near)
    ranks = ranked(model, world, "test")
    assert (ranks.raw.tied == 1).all()


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, window=1), replace(SETTINGS, window=200)])
def test_windows_shorter_and_longer_than_every_history(settings: Settings) -> None:
    world = make_world(7, n_users=15)
    check(recommender(settings, world), world, "test")
