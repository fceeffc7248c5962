"""What the order of interactions is worth to a recommender that reads it, without training.

The recommender is the control `transitions` with its default settings. Its test metrics leave the items of a
user's history out of the ranking, except the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.download import input_files
from benchmark.data.pipeline import Begin, build
from benchmark.data.recipe import Recipe
from benchmark.results.metrics import metrics_of
from benchmark.train.control_ranks import ScoredSplit, rank_users, training_data
from benchmark.train.rows import evaluation_rows
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
    """`[U]` position of the first test target in the user's sequence, -1 where there is none."""
    test_end: Ints
    """`[U]` position after the last test target."""
    n_items: int
    """`I`"""


def control_of(data: TestedSequences) -> Transitions:
    """The control, built on the training interactions."""
    return Transitions(training_data(data.items, data.offsets, data.train_end, data.n_items))


def masked_metrics(control: Transitions, data: TestedSequences, seed: int | None = None) -> dict[str, float]:
    """METRICS of the test targets; with a `seed`, each history's most recent items are in random order."""
    rows = evaluation_rows(data.offsets, data.test_at, WINDOW, data.test_end)
    split = ScoredSplit(data.items, rows, data.offsets[:-1])
    shuffle = None if seed is None else partial(shuffled, rng=np.random.default_rng(seed))
    ranks = rank_users(control, TransitionsConfig(), split, scores_at_once=SCORES, change=shuffle)
    return metrics_of(ranks.masked, METRICS, ranks.weight)


def shuffled(histories: Ints, rng: np.random.Generator) -> Ints:
    """Each history `[B, L]` in random order; the padding, -1, stays in front."""
    key = np.where(histories >= 0, rng.random(histories.shape), -1)  # [B, L]
    return np.take_along_axis(histories, np.argsort(key, axis=1, kind="stable"), axis=1)


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
            targets = (split.train_end, split.test_at, split.test_end)
            yield TestedSequences(built.items, built.offsets, *targets, built.fingerprint["items"])
