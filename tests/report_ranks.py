"""Synthetic runs with the ranks of their users, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_records import record

from benchmark.results.list_metrics import TOP
from benchmark.results.metrics import Ranks, metrics_of
from benchmark.results.record import ranks_path
from benchmark.results.store import StoredRun
from benchmark.results.targets import StoredLists, write_lists


def ranked(
    folder: Path, method: str, best: np.ndarray, seed: int = 0, valid: float = 0.1, **changes: Any
) -> StoredRun:
    """A run whose users have these test ranks, written where a run would; masked ranks are one better."""
    run = record(method, 0.1, seed, **changes)
    alone = np.ones_like(best)
    ranks, masked = Ranks(best, alone), Ranks(np.maximum(best - 1, 1), alone)
    run.metrics["test"], run.metrics["test_masked"] = metrics_of(ranks), metrics_of(masked)
    run.metrics["valid"] = {**run.metrics["valid"], "recall@10": valid}
    if run.curve:
        run.curve[run.best_epoch - 1].valid = run.metrics["valid"]
    path = folder / run.dataset / (run.llm or "none") / method / f"{run.config_hash}-s{seed}.json"
    run.write(path)
    columns = {"rank": best, "tied": alone, "rank_masked": masked.best, "tied_masked": alone}
    table = pd.DataFrame({"user": np.arange(len(ranks)), **columns})
    table.to_parquet(ranks_path(path))
    return StoredRun(path, run)


def some_ranks(seed: int, users: int = 300, hit: float = 0.2) -> np.ndarray:
    """Ranks of which a share of `hit` is within ten."""
    rng = np.random.default_rng(seed)
    inside = rng.random(users) < hit
    return np.where(inside, rng.integers(1, 11, users), rng.integers(11, 300, users))


def with_lists(stored: StoredRun, seed: int = 0, catalogue: int = 400) -> StoredRun:
    """The same run with random lists that agree with its masked ranks, written where a run would."""
    data, rng = np.random.default_rng(0), np.random.default_rng(seed + 1)
    users, best = stored.ranks.user, stored.ranks.masked.best
    trained, history = data.integers(0, 50, catalogue), data.integers(1, 30, len(users))
    target = data.integers(0, catalogue, len(users))
    others = rng.permuted(np.tile(np.arange(catalogue - 1), (len(users), 1)), axis=1)[:, :TOP]
    items = others + (others >= target[:, None])
    hit = np.flatnonzero(best <= TOP)
    items[hit, best[hit] - 1] = target[hit]
    lists = StoredLists(
        *(column.astype(np.int32) for column in (users, target, history, items)),
        np.tile(np.linspace(0.9, 0.1, TOP, dtype=np.float16), (len(users), 1)),
        trained.astype(np.int32),
        int(trained.sum()),
    )
    record = stored.record.model_copy(update={"top_sha256": write_lists(lists, stored.path)})
    record.write(stored.path)
    return StoredRun(stored.path, record)
