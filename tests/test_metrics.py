"""Metrics by their names: by hand, by an independent library, over all orders of ties; broken ones."""

from __future__ import annotations

import csv
import itertools
import math
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from method_packages import install
from report_ranks import ranked, some_ranks

from benchmark.cli import main
from benchmark.results import metrics
from benchmark.results.metrics import Metric, Ranks, chance, measure, metrics_of
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
    [("recall", "RetrievalHitRate"), ("ndcg", "RetrievalNormalizedDCG"), ("mrr", "RetrievalMRR")],
)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_measures_agree_with_torchmetrics(kind: str, library: str, k: int) -> None:
    from torchmetrics import retrieval  # takes a second, which each process of tests would spend

    reference = getattr(retrieval, library)
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(120, 80, generator=generator)
    target = torch.randint(80, (120,), generator=generator)
    ranks = 1 + (scores > scores.gather(1, target[:, None])).sum(1).numpy()
    relevant = torch.zeros(120, 80, dtype=torch.bool).scatter(1, target[:, None], True)
    query = torch.arange(120)[:, None].expand(120, 80)
    expected = reference(top_k=k)(scores.flatten(), relevant.flatten(), indexes=query.flatten()).item()
    assert metrics_of(untied(ranks), [f"{kind}@{k}"])[f"{kind}@{k}"] == pytest.approx(expected, rel=1e-5)
    if kind == "mrr":
        whole = reference()(scores.flatten(), relevant.flatten(), indexes=query.flatten()).item()
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


CACHES = (metrics.load_metric, metrics.measure)


@pytest.fixture
def outsiders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        EntryPoint(name, value, metrics.GROUP)
        for name, value in {
            "rr_squared": "test_metrics:rr_squared", "misnamed": "test_metrics:misnamed",
            "gone": "no_such_module:metric", "recall": "test_metrics:rr_squared",
        }.items()
    ]  # fmt: skip
    monkeypatch.setattr(metrics, "offered", lambda group: points)
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


@pytest.mark.usefixtures("outsiders")
def test_a_metric_of_another_package_is_one_entry_point() -> None:
    assert metrics_of(untied([1, 2]), ["rr_squared"])["rr_squared"] == pytest.approx((1 + 1 / 4) / 2)
    assert measure("rr_squared@5").label == "RR2@5"


@pytest.mark.usefixtures("outsiders")
def test_a_broken_metric_affects_only_itself() -> None:
    assert measure("recall@10").metric is metrics.BUILT_IN["recall"]
    with pytest.raises(UserError, match=r"metric 'gone' of an unknown package .* cannot be imported: Module"):
        measure("gone@3")
    with pytest.raises(UserError, match=r"metric 'misnamed' .* whose name is that of its entry point"):
        measure("misnamed@3")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with ranks."""
    folder = tmp_path_factory.mktemp("metrics") / "results"
    ranked(folder, "a", some_ranks(1, hit=0.4))
    ranked(folder, "b", some_ranks(2, hit=0.2))
    return folder


def test_a_report_computes_any_measure_from_the_ranks(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    assert main(["report", "--results", str(results), "--out", str(out), "--metrics", "mrr@7,recall@20"]) == 0
    table = out / "toy-minilm-paper.csv"
    rows = {row["label"]: row for row in csv.DictReader(table.read_text().splitlines())}
    for label, seed, hit in (("a", 1, 0.4), ("b", 2, 0.2)):
        best = some_ranks(seed, hit=hit)
        assert float(rows[label]["test_mrr@7"]) == pytest.approx(np.mean(np.where(best <= 7, 1 / best, 0)))
        assert float(rows[label]["test_recall@20"]) == pytest.approx(np.mean(best <= 20))
        masked = np.maximum(best - 1, 1)
        assert float(rows[label]["test_masked_recall@20"]) == pytest.approx(np.mean(masked <= 20))
        assert rows[label]["test_recall@10"], "what the record holds stays in the CSV"
    assert "MRR@7" in table.with_suffix(".md").read_text()
    tests = (out / f"{table.stem}-tests.md").read_text()
    assert "R@20: each row against" in tests and "R@10" not in tests


def test_records_of_every_age_have_every_measure() -> None:
    """All committed records, those with mean ranks among them."""
    from benchmark.results.store import iter_runs

    root = Path(__file__).resolve().parents[1] / "results"
    records = list(iter_runs(root, metrics=("mrr@10", "ndcg@5", "recall@20", "mrr")))
    assert len(records) > 40
    for run in records:
        path = run.name
        if run.record.status == "ok":
            found = run.record.metrics["test"]
            assert found["recall@10"] <= found["recall@20"] <= found["recall@50"], path
            assert found["ndcg@5"] <= found["ndcg@10"] and found["mrr@10"] <= found["mrr"], path


def test_explain_takes_measures(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(
        path.relative_to(results).as_posix().removesuffix(".json") for path in results.rglob("*.json")
    )
    assert main(["explain", *names, "--results", str(results), "--metrics", "mrr"]) == 0
    shown = capsys.readouterr().out
    assert "MRR, history masked" in shown and "R@10" not in shown


@pytest.mark.parametrize("command", [["report"], ["explain", "x", "y"], ["bench", "--datasets", "tiny"]])
def test_an_unknown_measure_ends_a_command_before_it_begins(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--results", str(tmp_path / "results"), "--metrics", "recall@10,ncdg@5"]) == 2
    assert "unknown metric 'ncdg@5'. Did you mean" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_docs_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n# rr2\.py\n(.*?)^```$", text, re.M | re.S)
    (project,) = re.findall(r"^```toml\n(\[project\S+metrics.*?)^```$", text, re.M | re.S)
    points = tomllib.loads(project)["project"]["entry-points"][metrics.GROUP]
    install(tmp_path / "site", "adaptrec-rr2", points, {"rr2": source}, group=metrics.GROUP)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for cache in CACHES:
        cache.cache_clear()
    try:
        command = [
            "report",
            "--results",
            str(results),
            "--out",
            str(tmp_path / "out"),
            "--metrics",
            "rr2,rr2@10",
        ]
        assert main(command) == 0
        assert "RR2@10" in (tmp_path / "out" / "index.html").read_text()
    finally:
        for cache in CACHES:
            cache.cache_clear()
