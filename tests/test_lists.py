"""The best items of each user: against plain sorting, in their file, and checked against the ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from core_worlds import World, make_world, recommender, with_settings
from report_ranks import ranked, some_ranks, with_lists
from test_core_ranks import same, user_scores

from benchmark.results.list_metrics import TOP
from benchmark.results.record import top_path
from benchmark.results.store import StoredRun, read_result, set_aside
from benchmark.results.targets import StoredLists, write_columns, write_lists
from benchmark.train import evaluate as evaluation
from benchmark.train.batches import Sequences
from benchmark.train.evaluate import UserRanks, evaluate
from methods.errors import UserError

SETTINGS = with_settings()


def listed(model: Any, world: World, top: int, data: Sequences | None = None) -> UserRanks:
    task = world.task(model.settings)
    return evaluate(
        model, data or world.sequences, task.test, task.history_start, torch.device("cpu"), top=top
    )


def plain_list(scores: list[float], history: list[int], target: int) -> list[int]:
    """What is left of the catalogue, sorted by score and then by index."""
    kept = [item for item in range(len(scores)) if item == target or item not in history]
    return sorted(kept, key=lambda item: (-scores[item], item))


@pytest.mark.parametrize("twin", [list(range(12)), [0, 1, 0, 1, 0, 5, 5, 5, 8, 9, 9, 9], [0] * 12])
@pytest.mark.parametrize("top", [3, 20])
def test_lists_agree_with_sorting(twin: list[int], top: int) -> None:
    """Items of equal text tie and stand in the order of their indices, though one of them is history."""
    world = make_world(4, n_users=30, n_items=12, longest=14)
    model = recommender(SETTINGS, world)
    data = replace(world.sequences, twin=np.array(twin))
    found = listed(model, world, top, data)
    assert found.top is not None
    for user, items in enumerate(world.users):
        scores = user_scores(model, world, user, len(items) - 1, twin).round(9).tolist()
        expected = plain_list(scores, items[:-1], items[-1])[:top]
        padding = [-1] * (top - len(expected))
        assert found.top.items[user].tolist() == expected + padding
        values = np.array([scores[item] for item in expected] + [-np.inf] * len(padding))
        assert np.allclose(found.top.scores[user], values, atol=1e-3)
        if found.masked.tied[user] == 1 and found.masked.best[user] <= top:
            assert found.top.items[user, found.masked.best[user] - 1] == items[-1]


def test_lists_change_no_rank_and_small_chunks_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(1, n_users=30)
    model = recommender(SETTINGS, world)
    whole = listed(model, world, 5)
    assert same(whole, listed(model, world, 0)) and listed(model, world, 0).top is None
    monkeypatch.setattr(evaluation, "CHUNK_USERS", 7)
    monkeypatch.setattr(evaluation, "LEAST_USERS", 3)
    monkeypatch.setattr(evaluation, "LIST_USERS", 2)
    monkeypatch.setitem(evaluation.CHUNK_SCORES, "cpu", 1)
    parts = listed(model, world, 5)
    assert same(whole, parts) and whole.top and parts.top
    assert (whole.top.items == parts.top.items).all()


def test_scores_above_the_range_of_fp16_are_its_largest_number() -> None:
    settings = with_settings(similarity="dot")
    world = make_world(1, n_users=5)
    model = recommender(settings, world)
    model.method.embedding.weight.data *= 1e6
    found = listed(model, world, 2)
    assert found.top and np.isfinite(found.top.scores).all() and found.top.scores.max() > 65000


@pytest.fixture
def stored(tmp_path: Path) -> StoredRun:
    return with_lists(ranked(tmp_path, "a", some_ranks(1)))


def test_lists_are_read_as_they_were_written(stored: StoredRun) -> None:
    read = read_result(stored.path).lists
    assert read is not None and read.items.shape == (300, TOP) and read.items.dtype == np.int32
    table = pd.read_parquet(top_path(stored.path))
    assert (np.stack(table["items"].to_list()) == read.items).all()
    assert (np.stack(table["scores"].to_list()) == read.scores).all()
    assert set(table) == {"user", "target", "history", "items", "scores"}, "counts follow from the items"
    assert read.catalogue == 400 and top_path(stored.path).stat().st_size < 300 * TOP * 8


def test_lists_of_an_earlier_version_are_read(stored: StoredRun) -> None:
    """It had the training interactions of each place and target, and numbers of the dataset."""
    lists = read_result(stored.path).lists
    assert lists is not None
    names = ("user", "target", "history", "target_count", "items", "scores", "counts")
    columns = {name: getattr(lists, name) for name in names}
    columns["items"] = lists.items.copy()
    columns["items"][0, -1], columns["counts"][0, -1] = -1, 0  # no item was left
    numbers = {"catalogue": "400", "interactions": str(lists.interactions)}
    digest = write_columns(top_path(stored.path), columns, numbers)
    stored.record.model_copy(update={"top_sha256": digest}).write(stored.path)
    read = read_result(stored.path).lists
    assert read is not None and (read.catalogue, read.interactions) == (400, lists.interactions)
    for name in names:
        assert (getattr(read, name) == columns[name]).all(), name
    del columns["counts"]
    digest = write_columns(top_path(stored.path), columns, numbers)
    with pytest.raises(UserError, match="cannot be read: it has no training interactions of the items"):
        read_result(stored.path)


def test_a_record_without_lists_counts(tmp_path: Path) -> None:
    assert read_result(ranked(tmp_path, "a", some_ranks(1)).path).lists is None


def rewritten(stored: StoredRun, **changes: Any) -> None:
    """Other lists, with the checksum that the record then has."""
    lists = stored.lists
    assert lists is not None
    digest = write_lists(replace(lists, **changes), stored.path)
    stored.record.model_copy(update={"top_sha256": digest}).write(stored.path)


def swapped(lists: StoredLists) -> Any:
    items = lists.items.copy()
    items[:, [0, 1]] = items[:, [1, 0]]
    return items


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda lists: {"items": swapped(lists)}, "does not have the targets at the ranks"),
        (lambda lists: {"target": lists.target[::-1]}, "does not have the targets at the ranks"),
        (lambda lists: {"items": np.zeros_like(lists.items)}, "a list has an item twice"),
        (lambda lists: {"trained": lists.trained[:3]}, "items that are not in a catalogue of 3"),
        (lambda lists: {"scores": lists.scores[:, ::-1]}, "its scores are not in descending order"),
        (lambda lists: {"user": lists.user + 1}, "has other users than the ranks"),
        (lambda lists: {"items": lists.items[:, :5]}, "its column items has no lists of 20 int32"),
    ],
)
def test_lists_that_do_not_agree_do_not_count(stored: StoredRun, changes: Any, reason: str) -> None:
    rewritten(stored, **changes(stored.lists))
    with pytest.raises(UserError, match=f"does not count as a result: .*{reason}.* Run its cell again"):
        read_result(stored.path)


def test_damaged_and_missing_lists_are_named_and_set_aside(stored: StoredRun) -> None:
    file = top_path(stored.path)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"a-paper-s0.top.parquet cannot be read"):
        read_result(stored.path)
    file.unlink()
    with pytest.raises(UserError, match=r"a-paper-s0.top.parquet is missing"):
        read_result(stored.path)
    file.write_bytes(whole)
    set_aside(stored.path, "It is damaged.")
    assert sorted(path.suffix for path in stored.path.parent.iterdir()) == [".damaged"] * 3
