from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmark.data import synthetic
from benchmark.data.catalogue import find
from benchmark.data.planted import BRANDS, MATERIALS, SIZES, USES, Planted, deal, parameters, popularities
from benchmark.data.prepare import prepare
from benchmark.data.recipe import Recipe
from benchmark.data.synthetic import generate
from benchmark.results.metrics import Ranks, chance, measure
from methods.errors import UserError

TITLE = re.compile(f"({'|'.join(BRANDS)}) ({'|'.join(MATERIALS)}) ({'|'.join(USES)}), ({'|'.join(SIZES)})")


def small(**parameters) -> Recipe:
    chosen = {
        "seed": 3,
        "users": 80,
        "items": 60,
        "uses": 4,
        "brands": 3,
        "materials": 2,
        "sizes": 2,
        **parameters,
    }
    return Recipe(name="small", format="synthetic", untouched="keep", synthetic=chosen)


def attributes(title: str) -> tuple[int, int, int, int]:
    brand, material, use, size = TITLE.match(title).groups()  # type: ignore[union-attr]
    return USES.index(use), BRANDS.index(brand), MATERIALS.index(material), SIZES.index(size)


def slow_law(
    history: list[int], planted: Planted, of: list[tuple[int, int, int, int]], cold: set[int]
) -> np.ndarray:
    """Probability of each item as a target, in plain loops from the module's description."""
    weights = np.zeros(len(of))
    for item, (use, brand, material, size) in enumerate(of):
        if item in history:
            continue
        last, before = of[history[-1]], of[history[-2]]
        weight = planted.cold_weight if item in cold else planted.warm_weight
        weight *= {1: planted.next_use, 0: planted.same_use}.get((use - last[0]) % planted.uses, 1)
        weight *= planted.same_brand if brand == last[1] else 1
        weight *= planted.same_size if size == last[3] else 1
        weight *= planted.same_material if material == before[2] else 1
        weights[item] = weight
    return weights / weights.sum()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare(find("tiny"), tmp_path_factory.mktemp("cache"))


def users_of(prepared) -> list[list[int]]:
    return [part.tolist() for part in np.split(prepared.items, prepared.offsets[1:-1])]


@pytest.mark.parametrize(
    "text",
    [
        "users = 99999999999999999999", "items = 10000000000", "max_length = 99999999999999999999",
        "seed = 99999999999999999999", "next_use = 99999999999999999999",
        "next_use = 1000000\nsame_brand = 1000000\nsame_size = 1000000",
    ],
)  # fmt: skip
def test_parameters_that_numbers_cannot_hold_are_one_line(tmp_path, text):
    recipe = f'format = "synthetic"\nuntouched = "keep"\n[synthetic]\n{text}'
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    with pytest.raises(UserError, match=r"\[synthetic\] of the recipe"):
        parameters(find(str(tmp_path)))


def test_tiny_is_the_same_on_every_machine(tiny):
    assert tiny.fingerprint["sha256"].startswith("2ebe8dbceebd3703")


def test_tiny_is_as_described(tiny):
    facts = tiny.fingerprint
    assert (facts["users"], facts["items"], facts["interactions"]) == (400, 300, 4040)
    assert (facts["cold_items"], facts["items_without_interactions"]) == (58, 2)  # 60 never occur in training
    assert (facts["cold_valid_targets"], facts["cold_test_targets"]) == (105, 116)
    assert all(len(set(items)) == len(items) for items in users_of(tiny))  # nobody repeats an item
    assert facts["share_duplicate_text"] == 0
    training = {i for items, end in zip(users_of(tiny), tiny.train_end, strict=True) for i in items[:end]}
    assert len(training) == 240


@pytest.mark.parametrize(("split", "back"), [("valid", 2), ("test", 1)])
@pytest.mark.parametrize("more", [{}, {"items": 200, "users": 300}], ids=["single items", "groups of items"])
def test_ceiling_agrees_with_plain_loops(tmp_path, split, back, more):
    recipe = small(**more)
    planted = Planted(**recipe.synthetic)
    made = prepare(recipe, tmp_path)
    users, of = users_of(made), [attributes(title) for title in made.texts]
    training = {i for items in users for i in items[:-2]}
    cold = set(range(planted.items)) - training
    assert len(cold) == planted.cold_items
    sums = dict.fromkeys(("recall@10", "ndcg@10", "recall@50", "ndcg@50", "cold", "cold recall@10"), 0.0)
    for items in users:
        law = slow_law(items[:-back], planted, of, cold)
        order = np.argsort(-law)
        for k in (10, 50):
            sums[f"recall@{k}"] += law[order[:k]].sum()
            sums[f"ndcg@{k}"] += sum(law[item] / np.log2(rank + 2) for rank, item in enumerate(order[:k]))
        sums["cold"] += sum(law[item] for item in cold)
    for name, value in made.ceiling[split].items():
        assert value == pytest.approx(sums[name] / len(users), rel=1e-9)
    parts = [made.ceiling[f"{split}_{kind}"]["recall@10"] for kind in ("cold", "warm")]
    share = sums["cold"] / len(users)
    assert share * parts[0] + (1 - share) * parts[1] == pytest.approx(made.ceiling[split]["recall@10"])


def test_draws_follow_the_law(tmp_path):
    """Average log-probability of the drawn targets against its expectation under the stated law."""
    recipe = small(users=1500)
    planted = Planted(**recipe.synthetic)
    made = prepare(recipe, tmp_path)
    users, of = users_of(made), [attributes(title) for title in made.texts]
    cold = set(range(60)) - {i for items in users for i in items[:-2]}
    laws = [slow_law(items[:-1], planted, of, cold) for items in users]
    seen = np.array([np.log(law[items[-1]]) for law, items in zip(laws, users, strict=True)])
    mean = np.array([(law[law > 0] * np.log(law[law > 0])).sum() for law in laws])
    assert abs((seen - mean).mean()) < 4 * (seen - mean).std() / np.sqrt(len(users))


def test_realised_oracle_is_near_the_ceiling_and_far_above_chance(tiny):
    for split in ("valid", "test"):
        expected = tiny.ceiling[split]["recall@10"]
        assert 0.5 < expected < 0.7
        error = np.sqrt(expected * (1 - expected) / 400)
        assert abs(tiny.ceiling[f"realised_{split}"]["recall@10"] - expected) < 4 * error


@pytest.mark.parametrize("tied_on_purpose", [1, 4, 10, 19, 300])
def test_no_ties_beat_the_ceiling(tiny, tied_on_purpose):
    """The best scorer, and the same with its first items given one score: the ceiling bounds the metric that
    is reported, in expectation under the law, and one that ties everything gets exactly chance."""
    of = [attributes(title) for title in tiny.texts]
    users = users_of(tiny)[:60]
    cold = set(range(300)) - set(np.unique(np.concatenate([items[:-2] for items in users_of(tiny)])).tolist())
    laws = np.array([slow_law(items[:-1], Planted(), of, cold) for items in users])  # [U, I]
    scores = laws.copy()
    for row in scores:
        row[np.argsort(-row)[:tied_on_purpose]] = row.max()
    best = 1 + (scores[:, None] > scores[:, :, None]).sum(2)  # [U, I] of each item, were it the target
    tied = (scores[:, None] == scores[:, :, None]).sum(2)  # [U, I]
    for name, value in best_possible(laws).items():
        expected = float(
            (measure(name).gains(Ranks(best.ravel(), tied.ravel())) * laws.ravel()).sum() / len(users)
        )
        assert expected <= value + 1e-12
        if tied_on_purpose == 300:
            assert expected == pytest.approx(chance(np.array([300]))[name])
        if tied_on_purpose == 1:
            assert expected == pytest.approx(value)


def best_possible(laws: np.ndarray) -> dict[str, float]:
    """Expected metrics of sorting by the law itself, `[U, I]`, as the ceiling has them."""
    ordered = -np.sort(-laws, axis=1)
    result = {}
    for k in (10, 50):
        result[f"recall@{k}"] = float(ordered[:, :k].sum(1).mean())
        result[f"ndcg@{k}"] = float((ordered[:, :k] / np.log2(np.arange(2, k + 2))).sum(1).mean())
    return result


def test_law_can_be_learnt_from_titles_and_training_alone(tiny):
    """Counting how attributes follow each other in training comes near the ceiling, on cold targets too."""
    of = np.array([attributes(title) for title in tiny.texts])
    sizes = (12, 8, 6, 3)
    users, hits = users_of(tiny), {True: [], False: []}
    trained = np.zeros(300, dtype=bool)
    ratio = []
    for column, back in ((0, 1), (1, 1), (2, 2), (3, 1)):
        same = np.ones(sizes[column])
        for items in users:
            trained[items[:-2]] = True
            part = of[items[:-2], column]
            np.add.at(same, (part[back:] - part[:-back]) % sizes[column], 1)
        ratio.append(np.log(same))
    for items in users:
        last, before, target = items[-2], items[-3], items[-1]
        score = sum(
            ratio[column][(of[:, column] - of[from_item, column]) % sizes[column]]
            for column, from_item in ((0, last), (1, last), (2, before), (3, last))
        )
        score[items[:-1]] = -np.inf
        hits[bool(trained[target])].append((score > score[target]).sum() < 10)
    assert np.mean(hits[True]) > 0.55 and np.mean(hits[False]) > 0.55


def test_shuffling_deals_the_same_texts_to_other_items(tiny, tmp_path):
    control = prepare(find("tiny-shuffled"), tmp_path)
    assert np.array_equal(control.items, tiny.items)
    assert sorted(control.texts) == sorted(tiny.texts)
    assert np.mean([a == b for a, b in zip(control.texts, tiny.texts, strict=True)]) < 0.02
    assert control.ceiling == tiny.ceiling and control.key != tiny.key


def test_more_items_than_combinations_get_model_numbers():
    (items,) = generate(small(items=500))[0].items
    texts = items.column("text").to_pylist()
    assert len(set(texts)) == 500 and texts[-1].endswith(", model 11")


def test_chunks_of_users_share_one_ceiling(tmp_path, monkeypatch):
    recipe = small()
    made = prepare(recipe, tmp_path)
    planted = parameters(recipe)
    rng = np.random.Generator(np.random.PCG64(planted.seed))
    world = synthetic.groups_of(planted, *deal(planted, rng))
    lengths = np.diff(made.offsets)
    history = np.full((80, planted.max_length), -1)
    history[np.arange(planted.max_length) < lengths[:, None]] = made.items
    monkeypatch.setattr(synthetic, "CHUNK_CELLS", 1000)
    parts = synthetic.ceiling_of(world, planted, history, lengths)
    assert parts.keys() == made.ceiling.keys()
    for split, metrics in parts.items():
        assert metrics == pytest.approx(made.ceiling[split])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"user": 3},
            r"unknown setting in \[synthetic\] of the recipe 'small': 'user'\. Did you mean 'users'",
        ),
        ({"uses": 99}, "uses=99 is not valid"),
        ({"cold_share": 1.0}, "cold_share=1.0 is not valid"),
        ({"max_length": 4}, "max_length=4 is below min_length=6"),
        ({"items": 30}, "24 warm items are too few for sequences of 14"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        generate(small(**parameters))


def test_no_cold_items():
    _, ceiling = generate(replace(small(cold_share=0.0), name="warm"))
    assert ceiling and "test_cold" not in ceiling and ceiling["test_warm"] == ceiling["test"]


LONG_TAILED = {"ceiling": False, "popularity": 40}


def test_draws_in_blocks_follow_the_law_times_popularity(tmp_path, monkeypatch):
    """As above: log-probability of the drawn targets against its expectation; several blocks of users."""
    monkeypatch.setattr(synthetic, "BLOCK", 400)
    recipe = small(users=1500, **LONG_TAILED)
    planted = parameters(recipe)
    rng = np.random.Generator(np.random.PCG64(planted.seed))
    _, is_cold = deal(planted, rng)
    popular = popularities(planted, rng)
    made = prepare(recipe, tmp_path)
    users, of = users_of(made), [attributes(title) for title in made.texts]
    cold = set(np.flatnonzero(is_cold).tolist())
    assert not cold & {i for items in users for i in items[:-2]}
    laws = [slow_law(items[:-1], planted, of, cold) * popular for items in users]
    laws = [law / law.sum() for law in laws]
    seen = np.array([np.log(law[items[-1]]) for law, items in zip(laws, users, strict=True)])
    mean = np.array([(law[law > 0] * np.log(law[law > 0])).sum() for law in laws])
    assert abs((seen - mean).mean()) < 4 * (seen - mean).std() / np.sqrt(len(users))
    assert all(len(set(items)) == len(items) for items in users)


def test_a_draw_by_attributes_is_a_draw_by_kinds():
    """The tables of sums give each kind the probability that the product of factors and weights gives it."""
    planted = parameters(small(items=150, **LONG_TAILED))
    rng = np.random.Generator(np.random.PCG64(5))
    kinds, _ = deal(planted, rng)
    weight = popularities(planted, rng)
    draws = synthetic.Draws(planted, kinds, weight)
    none = planted.materials  # the last item has none before it
    items = draws([np.full(40_000, value) for value in (1, 2, none, 0)], rng)
    use, brand, _, size = np.unravel_index(kinds, planted.shape)
    law = weight * np.where(use == 2, planted.next_use, np.where(use == 1, planted.same_use, 1))
    law *= np.where(brand == 2, planted.same_brand, 1) * np.where(size == 0, planted.same_size, 1)
    expected = law / law.sum() * len(items)
    counts = np.bincount(items, minlength=150)
    assert ((counts - expected) ** 2 / expected).sum() < 150 + 6 * np.sqrt(2 * 150)


def test_sets_drawn_in_blocks_are_the_same_on_every_machine(tmp_path):
    made = prepare(small(**LONG_TAILED), tmp_path)
    assert made.ceiling is None
    assert made.fingerprint["sha256"].startswith("72c78349cf46eb70")


def test_popularity_has_a_long_tail_of_the_same_shape_at_every_size():
    shares = []
    for items in (10_000, 200_000):
        planted = Planted(items=items, ceiling=False, popularity=500)
        weights = np.sort(popularities(planted, np.random.default_rng(0)))[::-1]
        shares.append([weights[: items // part].sum() / weights.sum() for part in (1000, 100, 10)])
    assert shares[0] == pytest.approx(shares[1], abs=0.005)
    assert shares[0] == pytest.approx([0.09, 0.31, 0.61], abs=0.02)


def test_a_family_of_sizes_has_as_many_users_as_items():
    planted = parameters(find("synthetic-300000"))
    assert (planted.items, planted.users, planted.ceiling) == (300_000, 300_000, False)
    with pytest.raises(UserError, match="popularity=500 needs ceiling = false"):
        parameters(small(popularity=500))
