"""Mixtures of a trained row with a control: exact against a plain version, and whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_worlds import CPU, World, make_world, recommender, with_settings
from data_folders import BLINK, TWELVE
from numpy.typing import NDArray
from report_records import grouped

from benchmark.cli import main
from benchmark.grid.plan import expand
from benchmark.model.recommender import Recommender
from benchmark.report.tables import render
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import read_result
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train.control_ranks import FusedModel, ScoredSplit
from benchmark.train.evaluate import evaluate
from methods.controls.base import Control, TrainingData
from methods.controls.popularity import Popularity

WEIGHTS = (0.05, 0.3, 0.5, 0.9)
N_ITEMS, TOP = 15, 4


class Drawn(Control):
    """Small whole numbers, so that many items tie; some users have negative ones, some zeros alone."""

    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        drawn = [
            np.random.default_rng(int(last)).integers(low, max(1, 4 * (last % 4 != 1)), N_ITEMS)
            for last, low in ((item, -2 if item % 4 == 2 else 0) for item in histories[:, -1])
        ]
        return np.array(drawn, np.float32)


def plain_trained(model: Recommender, world: World, user: int, twin: list[int]) -> NDArray[np.float64]:
    """`[I]` probabilities of a user's next item: one row without packing, softmax by its definition."""
    history = world.users[user][:-1][-model.settings.window :]
    table = model.method.embedding.weight.detach()[twin]
    places = torch.arange(len(history))
    with torch.no_grad():
        one_row = torch.zeros(1, len(history), dtype=torch.long)
        state = model.sasrec(table[history][None], places[None], one_row, places)[-1]
    u, v = state.double().numpy(), table.double().numpy()
    scores = v[twin] @ u
    if model.settings.similarity == "cosine":
        scores /= np.linalg.norm(v[twin], axis=1) * np.linalg.norm(u)
    exponentials = np.exp(scores / model.settings.temperature)[twin]
    return np.asarray(exponentials / exponentials.sum())


def plain_shares(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = scores.astype(np.float64) - min(0, scores.min())
    return shifted / shifted.sum() if shifted.sum() else np.full(len(scores), 1 / len(scores))


@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.2), ("dot", 3.0)])
def test_ranks_and_lists_are_those_of_a_plain_mixture(similarity: str, temperature: float) -> None:
    world = make_world(3, n_users=40, n_items=N_ITEMS)
    settings = with_settings(similarity=similarity, temperature=temperature)
    model = recommender(settings, world)
    twin = [item - item % 2 if item > 8 else item for item in range(N_ITEMS)]  # 10 and 11 share a text
    task, data = world.task(settings), replace(world.sequences, twin=np.array(twin))
    control = Drawn(TrainingData(N_ITEMS, world.items, world.offsets))
    split = ScoredSplit(data.items, task.test, task.history_start)
    mixture = FusedModel(model, data, control, None, CPU)
    for weight, ranks in zip(WEIGHTS, mixture.rank_users(split, WEIGHTS, TOP), strict=True):
        assert ranks.user.tolist() == list(range(40)) and ranks.top is not None
        for user, (*history, target) in enumerate(world.users):
            drawn = control.scores(np.array([history[-1:]]), None)[0]
            exact = (1 - weight) * plain_trained(model, world, user, twin) + weight * plain_shares(drawn)
            scores = exact.round(7)  # below that are the rounding errors of fp32 states
            left = [item for item in range(N_ITEMS) if item == target or item not in history]
            for counted, items in ((ranks.raw, range(N_ITEMS)), (ranks.masked, left)):
                assert counted.best[user] == 1 + sum(scores[item] > scores[target] for item in items)
                assert counted.tied[user] == sum(scores[item] == scores[target] for item in items)
            best = sorted(left, key=lambda item: (-scores[item], item))[:TOP]
            assert ranks.top.items[user].tolist() == (best + [-1] * TOP)[:TOP]


def test_a_vanishing_weight_gives_the_trained_ranks() -> None:
    world = make_world(4, n_users=30, n_items=N_ITEMS)
    settings = with_settings(temperature=0.5)
    model, task = recommender(settings, world), world.task(settings)
    control = Drawn(TrainingData(N_ITEMS, world.items, world.offsets))
    split = ScoredSplit(world.items, task.test, task.history_start)
    mixture = FusedModel(model, world.sequences, control, None, CPU)
    (mixed,) = mixture.rank_users(split, [1e-12], TOP)
    alone = evaluate(model, world.sequences, task.test, task.history_start, CPU, top=TOP)
    assert np.array_equal(mixed.raw.best, alone.raw.best)
    assert np.array_equal(mixed.masked.best, alone.masked.best)
    assert mixed.top is not None and alone.top is not None
    assert np.array_equal(mixed.top.items, alone.top.items)


def made(
    folder: Path, results: Path, capsys: pytest.CaptureFixture[str], method: str, *settings: str
) -> tuple[Path, RunRecord]:
    """The record of a run in this process."""
    words = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", method]
    assert main([*words, "--results", str(results), *(["--set", *settings] if settings else [])]) == 0
    path = Path(capsys.readouterr().out.strip())
    return path, read_record(path)


SHORT = (*BLINK, "epochs=3", "select=masked", "select_by=mrr")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_holds_the_mixture_and_the_trained_row(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    short = (*SHORT[1:], f"precision={precision}")
    _, alone = made(folder, tmp_path, capsys, "tmlp", *short)
    path, fused = made(folder, tmp_path, capsys, "tmlp", *short, "fuse=blend")
    fusion = fused.fusion
    assert alone.fusion is None and fusion is not None and fusion.control == "blend"
    assert fusion.trained == alone.metrics and fused.initial == alone.initial
    assert [epoch.loss for epoch in fused.curve] == [epoch.loss for epoch in alone.curve]
    assert (fused.protocol_hash, fused.llm) == (alone.protocol_hash, alone.llm)
    assert fused.config_hash != alone.config_hash

    assert [tried.weight for tried in fusion.weights] == [0, 0.05, *(n / 10 for n in range(1, 11))]
    values = [tried.selection for tried in fusion.weights]
    assert fusion.weight == fusion.weights[int(np.argmax(values))].weight
    assert values[0] == max(epoch.selection or 0 for epoch in fused.curve)
    _, control = made(folder, tmp_path, capsys, "blend")
    assert fusion.trials == control.trials + 12 and fused.trials == 1 + fusion.trials
    assert (fusion.hyperparameters, fusion.code) == (
        control.hyperparameters,
        control.method_source["code"],
    )
    (table,) = grouped([alone, fused, control])
    assert [row.label for row in table.rows] == ["tmlp", "tmlp (fuse=blend)"]
    assert f"whose weight {fusion.weight:g} validation chose" in render(table, "markdown")
    stored = read_result(path, ["mrr"])  # ranks, lists and metrics agree
    assert stored.lists is not None and "mrr" in stored.record.metrics["test_masked"]
    _, again = made(folder, tmp_path, capsys, "tmlp", *short, "fuse=blend")
    assert again == fused, "it is finished, and not run again"


def test_weight_0_is_the_trained_row(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control that scores all items alike changes no rank, and of equal weights the least is taken."""
    scored = []

    def scores_alike(control: Control, histories: np.ndarray, config: Any) -> np.ndarray:
        scored.append(len(histories))
        return np.ones((len(histories), 10))

    monkeypatch.setattr(Popularity, "scores", scores_alike)
    _, alone = made(folder, tmp_path, capsys, "id", *SHORT)
    _, fused = made(folder, tmp_path, capsys, "id", *SHORT, "fuse=popularity")
    assert fused.fusion is not None and fused.fusion.weight == 0 and fused.llm is None
    assert fused.metrics == alone.metrics == fused.fusion.trained
    assert fused.ranks_sha256 == alone.ranks_sha256 and fused.top_sha256 == alone.top_sha256
    users = len(TWELVE)
    assert sum(scored) == 2 * users, (
        "each user of validation: once for the control alone, once for all weights"
    )


def test_weight_1_is_the_control(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control that knows the next item, but whose scores hardly differ: any trained share covers it."""

    def knows(control: Control, histories: np.ndarray, config: Any) -> np.ndarray:
        following = {int(a): int(b) for a, b in zip(control.data.items, control.data.items[1:], strict=False)}
        scores = np.ones((len(histories), control.data.n_items), np.float32)
        scores[np.arange(len(histories)), [following.get(int(item), 0) for item in histories[:, -1]]] += 1e-6
        return scores

    monkeypatch.setattr(Popularity, "scores", knows)
    _, control = made(folder, tmp_path, capsys, "popularity")
    _, fused = made(folder, tmp_path, capsys, "id", *SHORT, "fuse=popularity")
    assert fused.fusion is not None and fused.fusion.weight == 1
    assert fused.metrics == control.metrics != fused.fusion.trained
    assert fused.ranks_sha256 == control.ranks_sha256 and fused.top_sha256 == control.top_sha256


def test_a_method_without_language_model_is_mixed_with_a_control_that_reads_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, fused = made(folder, tmp_path, capsys, "id", *SHORT, "fuse=text-knn")
    assert fused.llm == "random-tiny" and path.parent == tmp_path / "small" / "random-tiny" / "id"
    assert fused.fusion is not None and fused.cost.prepare_seconds is not None
    specs = expand(
        [str(folder)], ["random-tiny"], ["id", "popularity"], ["fair"], [0], ["fuse=text-knn", "epochs=2"]
    )
    assert [(spec.method, spec.llm, spec.overrides) for spec in specs] == [
        ("id", "random-tiny", ("fuse=text-knn", "epochs=2")),
        ("popularity", "none", ()),
    ]


def test_the_control_has_the_settings_of_the_run(folder: Path) -> None:
    overrides = ("window=3", "max_tokens=5", "pooling=mean", "fuse=blend")
    run = resolve_run(RunSpec(str(folder), "random-tiny", "tmlp", "fair", 1, overrides))
    assert run.fused is not None and run.readers == [run, run.fused]
    settings = run.fused.settings
    assert (settings.window, settings.max_tokens, settings.pooling) == (3, 5, "mean")
    assert run.with_seed(2).fused is run.fused


@pytest.mark.parametrize(
    ("method", "setting", "named"),
    [
        ("tmlp", "fuse=blnd", ["unknown value of fuse: 'blnd'", "Did you mean 'blend'?", "popularity"]),
        ("tmlp", "fuse=id", ["unknown value of fuse: 'id'", "does not train", "none"]),
        ("blend", "fuse=popularity", ["unknown setting in --set: 'fuse'", "decay"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_mistake_is_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    method: str,
    setting: str,
    named: list[str],
) -> None:
    plural = "s" * (command == "bench")
    words = [command, f"--dataset{plural}", str(folder), f"--llm{plural}", "random-tiny"]
    results = tmp_path / "results"
    status = main([*words, f"--method{plural}", method, "--results", str(results), "--set", setting])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and all(name in lines[0] for name in named), lines
    assert not results.exists()


def test_no_language_model_for_a_control_that_reads_one_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--dataset", str(folder), "--llm", "none", "--method", "id", "--results", str(tmp_path)]
    assert main([*words, "--set", "fuse=blend"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'blend' reads" in line and "--llm" in line
