"""Synthetic runs with the ranks of their users, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_records import record

from benchmark.results.metrics import Ranks, metrics_of
from benchmark.results.record import ranks_path
from benchmark.results.stored import StoredRun


def ranked(
    folder: Path, method: str, best: np.ndarray, seed: int = 0, valid: float = 0.1, **changes: Any
) -> StoredRun:
    """A run whose users have these test ranks, written where a run would; masked ranks are one better."""
    run = record(method, 0.1, seed, **changes)
    alone = np.ones_like(best)
    ranks, masked = Ranks(best, alone), Ranks(np.maximum(best - 1, 1), alone)
    run.metrics["test"], run.metrics["test_masked"] = metrics_of(ranks), metrics_of(masked)
    run.metrics["valid"] = {**run.metrics["valid"], "recall@10": valid}
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
