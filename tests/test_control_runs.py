"""Runs of controls: exact ranks, choice on validation, records, and their place in every table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_records import grouped, record

from benchmark.cli import main
from benchmark.grid.plan import expand
from benchmark.report.tables import csv_rows, render
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import iter_runs
from benchmark.train.control_ranks import ScoredSplit, rank_users
from benchmark.train.rows import evaluation_rows
from methods.controls.base import Control, TrainingData
from methods.controls.popularity import Popularity
from methods.controls.transitions import Transitions

N_ITEMS = 9


class Drawn(Control):
    """Small whole numbers, so that many items tie."""

    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        draw = np.random.default_rng(int(histories[0, -1]))
        return draw.integers(0, 4, size=(len(histories), N_ITEMS)).astype(np.float32)


def test_ranks_equal_a_plain_count() -> None:
    users = [[1, 2, 2, 3], [4, 0], [5, 6, 7, 8, 5]]
    items = np.concatenate(users)
    offsets = np.cumsum([0, *map(len, users)])
    rows = evaluation_rows(offsets, np.array([len(user) - 1 for user in users]), 2)
    split = ScoredSplit(items, rows, offsets[:-1])
    assert split.histories().tolist() == [[2, 2], [-1, 4], [7, 8]]
    control = Drawn(TrainingData(N_ITEMS, items, offsets))
    ranks = rank_users(control, None, split, scores_at_once=N_ITEMS)  # one user at a time
    for place, (*history, target) in enumerate(users):
        scores = Drawn.scores(None, np.array([history[-2:]]), None)[0]  # type: ignore[arg-type]
        for found, left in (
            (ranks.raw, range(N_ITEMS)),
            (ranks.masked, {*range(N_ITEMS)} - {*history} | {target}),
        ):
            assert found.best[place] == 1 + sum(scores[item] > scores[target] for item in left)
            assert found.tied[place] == sum(scores[item] == scores[target] for item in left)


def run(folder: Path, results: Path, method: str, *more: str) -> int:
    words = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", method]
    return main([*words, "--results", str(results), *more])


def test_a_run_chooses_on_validation_and_counts_its_trials(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path, "transitions", "--protocol", "fair", "--seed", "4") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == tmp_path / "small" / "none" / "transitions" and path.name.endswith("-s0.json")
    made = read_record(path)
    assert (made.protocol, made.seed, made.epochs_run, made.best_epoch) == ("none", 0, 0, None)
    assert made.liveness is None and made.settings == {"window": 50}
    assert made.tuning is not None and made.trials == len(made.tuning.trials) == len(Transitions.trials())
    recalls = [trial.recall or 0.0 for trial in made.tuning.trials]
    chosen = made.tuning.trials[int(np.argmax(recalls))]
    assert made.tuning.chosen == chosen.overrides
    assert made.metrics["valid_masked"]["recall@10"] == chosen.recall
    assert run(folder, tmp_path, "transitions") == 0
    assert "finished already" in capsys.readouterr().err


def test_what_the_user_fixes_is_not_chosen(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path, "blend", "--set", "decay=0.75", "transitions=0.5", "window=3") == 0
    made = read_record(Path(capsys.readouterr().out.strip()))
    assert made.llm == "random-tiny" and made.settings["window"] == 3
    assert made.trials == 3 and made.hyperparameters["decay"] == 0.75
    assert made.tuning is not None and set(made.tuning.fixed) == {"decay", "transitions"}


@pytest.mark.parametrize(
    ("scores", "reason"), [(np.full((12, 10), np.nan), "not finite"), (np.ones((2, 3)), "shape [2, 3]")]
)
def test_wrong_scores_are_a_failed_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scores: np.ndarray,
    reason: str,
) -> None:
    monkeypatch.setattr(Popularity, "scores", lambda control, histories, config: scores)
    assert run(folder, tmp_path, "popularity") == 1
    streams = capsys.readouterr()
    made = read_record(Path(streams.out.strip()))
    assert made.status == "failed" and reason in (made.error or "")
    assert reason in streams.err.splitlines()[-1]


def test_a_grid_has_one_run_a_control(folder: Path) -> None:
    names = ["popularity", "blend", "id"]
    specs = expand([str(folder)], ["random-tiny"], names, ["paper", "fair"], [0, 1], ["epochs=2", "decay=1"])
    assert [(spec.method, spec.llm, spec.protocol, spec.seed, spec.overrides) for spec in specs] == [
        ("popularity", "none", "none", 0, ()),
        ("blend", "random-tiny", "none", 0, ("decay=1",)),
        *(("id", "none", protocol, seed, ("epochs=2",)) for protocol in ("paper", "fair") for seed in (0, 1)),
    ]


def control(method: str, llm: str | None) -> RunRecord:
    return record(
        method, 0.2, llm=llm, protocol="none", curve=[], epochs_run=0, best_epoch=None, config_hash=method
    )


def test_controls_stand_at_the_foot_of_every_table() -> None:
    trained = [record("ssna", protocol="paper"), record("tmlp", protocol="fair", config_hash="t")]
    other = record("ssna", llm="roberta", config_hash="r")
    tables = grouped([*trained, other, control("blend", "minilm"), control("popularity", None)])
    feet = {(group.key.llm, group.key.protocol): [row.label for row in group.controls] for group in tables}
    assert feet == {
        ("minilm", "paper"): ["blend", "popularity"],
        ("minilm", "fair"): ["blend", "popularity"],
        ("roberta", "paper"): ["popularity"],
    }
    labels = [line.split(" ")[0] for line in render(tables[0], "text").splitlines()]
    assert labels.index("tmlp") < labels.index("blend") < labels.index("popularity")
    assert [row["kind"] for row in csv_rows(tables[0])][:3] == ["run", "control", "control"]


def test_controls_alone_make_a_table() -> None:
    (table,) = grouped([control("blend", "minilm"), control("popularity", None)])
    assert [row.label for row in table.rows] == ["blend", "popularity"] and not table.controls
    assert table.key.protocol == "none"
    assert "blend" in render(table, "markdown")


def test_notes_of_controls_alone_speak_of_no_training(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "popularity") == run(folder, tmp_path, "transitions") == 0
    (table,) = grouped(stored.record for stored in iter_runs(tmp_path))
    printed = render(table, "markdown")
    assert "All rows but the bounds are controls" in printed and "each at its best epoch" not in printed
    assert "tuned:" not in printed and "with seed" not in printed
    assert [row.label for row in table.rows] == ["popularity", "transitions"]
    (chosen,) = [row.tuning.chosen for row in table.rows if row.tuning]
    assert f"transitions: {', '.join(chosen)}, of {len(Transitions.trials())} trials." in printed
