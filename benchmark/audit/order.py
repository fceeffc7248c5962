"""What the order of interactions is worth to a recommender that reads it, without training.

The recommender is the control `transitions` with its default settings. Its test metrics leave the items of a
user's history out of the ranking, except the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.download import input_files
from benchmark.data.pipeline import Begin, build
from benchmark.data.recipe import Recipe
from benchmark.results.metrics import Ranks, metrics_of
from methods.controls.base import TrainingData
from methods.controls.transitions import Transitions, TransitionsConfig

METRICS = ("recall@10", "ndcg@10")
WINDOW = 50
"""Most recent interactions of a history that the control reads."""
SCORES = 1 << 24
"""Scores that are held at once."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TestedSequences:
    """The users' sequences, what of them is training, and the test targets."""

    items: NDArray[Any]
    """`[N]` item indices, users one after another, each in time order."""
    offsets: Ints
    """`[U+1]`"""
    train_end: Ints
    """`[U]` training interactions of each user."""
    test_at: Ints
    """`[U]` position of the test target in the user's sequence, -1 where there is none."""
    n_items: int
    """`I`"""


def control_of(data: TestedSequences) -> Transitions:
    """The control, built on the training interactions."""
    lengths = np.diff(data.offsets)
    position = np.arange(len(data.items)) - np.repeat(data.offsets[:-1], lengths)  # [N]
    training = data.items[position < np.repeat(data.train_end, lengths)].astype(np.int64)
    return Transitions(TrainingData(data.n_items, training, np.concatenate([[0], np.cumsum(data.train_end)])))


def masked_metrics(control: Transitions, data: TestedSequences, seed: int | None = None) -> dict[str, float]:
    """METRICS of the test targets; with a `seed`, each history's most recent items are in random order."""
    rng = None if seed is None else np.random.default_rng(seed)
    config = TransitionsConfig()
    users = np.flatnonzero(data.test_at > 0)
    best, tied = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    size = max(1, SCORES // data.n_items)
    for start in range(0, len(users), size):
        batch = slice(start, start + size)
        targets = (data.offsets[:-1] + data.test_at)[users[batch]]  # [B] in the flat array
        seen = data.test_at[users[batch]]  # [B] length of each history
        scores = control.scores(_recent(data.items, targets, seen, rng), config)  # [B, I]
        row = np.arange(len(targets))
        own = scores[row, data.items[targets]]  # [B]
        scores[np.repeat(row, seen), data.items[_before(targets, seen)]] = -np.inf
        scores[row, data.items[targets]] = own
        best[batch] = 1 + (scores > own[:, None]).sum(axis=1)
        tied[batch] = (scores == own[:, None]).sum(axis=1)
    return metrics_of(Ranks(best, tied), METRICS)


def _before(targets: Ints, seen: Ints) -> Ints:
    """Where the histories stand in the flat array, one after another: `[sum(seen)]`."""
    ends = np.cumsum(seen)
    return np.arange(ends[-1]) + np.repeat(targets - ends, seen)


def _recent(items: NDArray[Any], targets: Ints, seen: Ints, rng: np.random.Generator | None) -> Ints:
    """The last items before each target, padded with -1 in front: `[B, L]`."""
    age = np.arange(min(WINDOW, seen.max()))[::-1]  # [L]
    inside = age < seen[:, None]  # [B, L]
    histories = np.where(inside, items[np.maximum(targets[:, None] - 1 - age, 0)], -1)  # [B, L]
    if rng is not None:
        key = np.where(inside, rng.random(inside.shape), -1)  # padding stays in front
        histories = np.take_along_axis(histories, np.argsort(key, axis=1, kind="stable"), axis=1)
    return histories.astype(np.int64)


def random_tie_orders(
    recipe: Recipe, cache: Path, folder: Path, seeds: int, begin: Begin
) -> Iterator[TestedSequences]:
    """The dataset as `tie_order = "random"` prepares it, for each seed; nothing is stored.

    Where the recipe has `target = "random"`, the seed draws the targets too.
    `folder` is for temporary files. Raises `UserError` where the files are not there.
    """
    files = input_files(recipe, cache)
    for seed in range(seeds):
        begin(f"random order {seed + 1} of {seeds} of equal times")
        drawn = replace(recipe, tie_order="random", seed=seed)
        with build(drawn, files, folder, lambda step: None) as built:
            split = built.split
            n_items = built.fingerprint["items"]
            yield TestedSequences(built.items, built.offsets, split.train_end, split.test_at, n_items)
