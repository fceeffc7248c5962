"""What a random order of the catalogue would give, on every split of prepared data."""

from __future__ import annotations

import numpy as np

from benchmark.data.filters import distinct_before, target_positions
from benchmark.data.prepare import Prepared
from benchmark.results.metrics import chance, target_weights
from benchmark.results.schema import Metrics


def chance_of(prepared: Prepared) -> dict[str, Metrics]:
    """Split -> metrics of a random order; masked: of what each target's history leaves of the catalogue, on
    average over users."""
    n_items = len(prepared.texts)
    raw = chance(np.array([n_items]))
    values = {}
    for split, at, end in (
        ("valid", prepared.valid_at, prepared.valid_end),
        ("test", prepared.test_at, prepared.test_end),
    ):
        user, position = target_positions(np.where(at > 0, at, -1), end)
        left = n_items - distinct_before(prepared.items, prepared.offsets, n_items, user, position)
        values[split] = raw
        values[f"{split}_masked"] = chance(left, weight=target_weights(user)) if len(left) else raw
    # a random order knows no warm from cold
    parts = {
        f"test_{part}{form}": values[f"test{form}"] for part in ("warm", "cold") for form in ("", "_masked")
    }
    return values | parts
