"""Metrics by their names: by hand, by an independent library, over all orders of ties; broken ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from benchmark import metrics
from benchmark.metrics import Metric, Ranks, chance, measure, metrics_of
from methods.errors import UserError


def untied(ranks: list[int] | np.ndarray) -> Ranks:
    best = np.asarray(ranks)
    return Ranks(best, np.ones_like(best))


def test_measures_by_hand() -> None:
    found = metrics_of(untied([1, 3, 10, 11]), ["recall@10", "ndcg@3", "mrr", "mrr@10"])
    assert found["recall@10"] == pytest.approx(3 / 4)
    assert found["ndcg@3"] == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3 + 1 / 10) / 4)


@pytest.mark.parametrize("name", ["recall@1", "recall@3", "ndcg@3", "ndcg@7", "mrr", "mrr@4"])
def test_ties_are_the_mean_over_all_orders(name: str) -> None:
    for best, tied in ((b, t) for b in range(1, 8) for t in range(1, 9 - b)):
        orders = itertools.permutations(range(tied))
        places = [best + order.index(0) for order in orders]
        expected = np.mean(measure(name).gains(untied(places)))
        found = measure(name).gains(Ranks(np.array([best]), np.array([tied])))
        assert found == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "library"),
    [("recall", RetrievalHitRate), ("ndcg", RetrievalNormalizedDCG), ("mrr", RetrievalMRR)],
)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_measures_agree_with_torchmetrics(kind: str, library: type, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(120, 80, generator=generator)
    target = torch.randint(80, (120,), generator=generator)
    ranks = 1 + (scores > scores.gather(1, target[:, None])).sum(1).numpy()
    relevant = torch.zeros(120, 80, dtype=torch.bool).scatter(1, target[:, None], True)
    query = torch.arange(120)[:, None].expand(120, 80)
    expected = library(top_k=k)(scores.flatten(), relevant.flatten(), indexes=query.flatten()).item()
    assert metrics_of(untied(ranks), [f"{kind}@{k}"])[f"{kind}@{k}"] == pytest.approx(expected, rel=1e-5)
    if kind == "mrr":
        whole = library()(scores.flatten(), relevant.flatten(), indexes=query.flatten()).item()
        assert metrics_of(untied(ranks), ["mrr"])["mrr"] == pytest.approx(whole, rel=1e-5)


def test_a_constant_scorer_gets_chance() -> None:
    names = ["recall@10", "ndcg@5", "mrr", "mrr@3"]
    one = metrics_of(Ranks(np.ones(4, int), np.full(4, 30)), names)
    orders = metrics_of(untied(np.arange(1, 31)), names)
    assert one == pytest.approx(orders)
    assert one == pytest.approx(chance(np.array([30]), names))


def test_labels() -> None:
    assert [measure(name).label for name in ("recall@20", "ndcg@5", "mrr", "mrr@10")] == [
        "R@20", "N@5", "MRR", "MRR@10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ncdg@10",
            "unknown metric 'ncdg@10'. Did you mean 'ndcg@k'.* Allowed: recall@k, ndcg@k, mrr, mrr@k",
        ),
        ("recall", "metric 'recall' needs a cut-off from 1 to 1,000,000, such as recall@10.$"),
        ("mrr@", "metric 'mrr@' needs a cut-off .* such as mrr@10, or none: mrr"),
        ("ndcg@0", "needs a cut-off"),
        ("ndcg@-1", "needs a cut-off"),
        ("ndcg@1e3", "needs a cut-off"),
        ("ndcg@10000000", "needs a cut-off"),
        ("", "unknown metric ''"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        measure(name)
    assert "\n" not in str(caught.value)


rr_squared = Metric("rr_squared", "RR2", lambda rank: 1 / rank**2, cutoff=False)
misnamed = Metric("other", "O", np.ones_like)


@pytest.fixture
def outsiders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        EntryPoint(name, value, metrics.GROUP)
        for name, value in {
            "rr_squared": "test_metrics:rr_squared", "misnamed": "test_metrics:misnamed",
            "gone": "no_such_module:metric", "recall": "test_metrics:rr_squared",
        }.items()
    ]  # fmt: skip
    monkeypatch.setattr(metrics, "entry_points", lambda group: points)
    for one in (metrics._entries, metrics.registered, metrics.measure):
        one.cache_clear()
    yield
    for one in (metrics._entries, metrics.registered, metrics.measure):
        one.cache_clear()


@pytest.mark.usefixtures("outsiders")
def test_a_metric_of_another_package_is_one_entry_point() -> None:
    assert metrics_of(untied([1, 2]), ["rr_squared"])["rr_squared"] == pytest.approx((1 + 1 / 4) / 2)
    assert measure("rr_squared@5").label == "RR2@5"


@pytest.mark.usefixtures("outsiders")
def test_a_broken_metric_affects_only_itself() -> None:
    assert measure("recall@10").metric is metrics.BUILT_IN[0]
    with pytest.raises(UserError, match=r"metric 'gone' of an unknown package .* cannot be imported: Module"):
        measure("gone@3")
    with pytest.raises(UserError, match=r"metric 'misnamed' .* whose name is that of its entry point"):
        measure("misnamed@3")
