"""L4, scores: the ranks are those that the embeddings in the bundle give, with the data at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Ranks
from benchmark.verify.format import items_path, states_path
from benchmark.verify.truth import RunOnData

TOLERANCE = 1e-5
"""Share of the product of two lengths by which a score may differ: fp32, summed in another order."""
OPEN_PLACES, OPEN_SHARE = 10, 0.01
"""Places, or the share of the catalogue if that is more, that rounding may leave open for a target beyond its
ties. Vectors that leave more, such as those of length 0, give no ranks."""
CHUNK = 256
"""Targets whose scores are held at once."""


def scores(on: RunOnData) -> None:
    """Every rank is one that the embeddings of items and users give, raw and masked, up to rounding."""
    run = on.run
    if run.record.untrained or run.record.fusion is not None:
        raise run.fail(
            "it is a control, or mixed with one, whose scores are no dot products; it has L3 at most."
        )
    if not states_path(run.path).exists():
        raise run.fail("it has no embeddings; bundle it --with-embeddings, from a run with --keep-model.")
    raw, masked = run.ranks.raw, run.ranks.masked
    if not isinstance(raw, Ranks) or not isinstance(masked, Ranks):
        raise run.fail("its ranks are means over ties, which embeddings do not give.")
    items = np.load(items_path(run.path), allow_pickle=False).astype(np.float64)  # [I, d]
    states = np.load(states_path(run.path), allow_pickle=False).astype(np.float64)  # [T, d]
    lengths = np.linalg.norm(items, axis=1)  # [I]
    for begin in range(0, len(states), CHUNK):
        chosen = np.arange(begin, min(begin + CHUNK, len(states)))
        given = states[chosen] @ items.T  # [c, d] x [d, I] -> [c, I]
        target = on.target_items[chosen, None].astype(np.int64)  # [c, 1]
        own = np.take_along_axis(given, target, axis=1)  # [c, 1]
        both = lengths + lengths[target]  # [I] + [c, 1] -> [c, I]
        near = TOLERANCE * np.linalg.norm(states[chosen], axis=1, keepdims=True) * both  # [c, I]
        above, reach = given > own + near, given >= own - near  # [c, I]
        _check(on, "rank", raw, chosen, above, reach)
        left = left_of(on, chosen)  # [c, I]
        _check(on, "masked rank", masked, chosen, above & left, reach & left)


def left_of(on: RunOnData, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which items `[c, I]` the histories of the `chosen` `[c]` targets leave; the target always."""
    user, position = on.targets
    left = np.ones((len(chosen), len(on.data.texts)), dtype=bool)
    for row, target in enumerate(chosen):
        begin = on.data.offsets[user[target]]
        left[row, on.data.items[begin : begin + position[target]]] = False
        left[row, on.target_items[target]] = True
    return left


def _check(
    on: RunOnData,
    what: str,
    ranks: Ranks,
    chosen: NDArray[np.int64],
    above: NDArray[np.bool_],
    reach: NDArray[np.bool_],
) -> None:
    """Items that are surely above come before the first place, and those that may be up to the last one."""
    first, last = 1 + above.sum(1), reach.sum(1)  # [c]; the target itself is within reach
    best, end = ranks.best[chosen], ranks.best[chosen] + ranks.tied[chosen] - 1
    if (wrong := (best < first) | (end > last)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise on.run.fail(
            f"the {what} of user {on.targets[0][chosen[row]]} is {best[row]} to {end[row]} with its ties, "
            f"and its embeddings give {first[row]} to {last[row]}."
        )
    left_open = last - first + 1 - ranks.tied[chosen]  # [c]
    if (many := left_open > max(OPEN_PLACES, OPEN_SHARE * above.shape[1])).any():
        row = int(np.flatnonzero(many)[0])
        raise on.run.fail(
            f"the {what} of user {on.targets[0][chosen[row]]} has {ranks.tied[chosen[row]]} items, and "
            f"its embeddings give {first[row]} to {last[row]}: scores so close give no ranks."
        )


CHECKS = (scores,)
