"""All figures of an audit, and the lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.audit.duplicates import N_GRAM, SIMILARITY, Classes, duplicate_classes
from benchmark.audit.order import (
    METRICS,
    TestedSequences,
    control_of,
    masked_metrics,
    random_tie_orders,
)
from benchmark.data.filters import target_positions
from benchmark.data.pipeline import Begin
from benchmark.data.prepare import Prepared, describe
from benchmark.data.recipe import Recipe
from benchmark.escape import visible_line
from benchmark.results.list_metrics import gini
from benchmark.results.metrics import measure
from methods.errors import UserError

SHUFFLES = 5
"""Random orders of the histories."""
TIE_ORDERS = 10
"""Random orders of equal times."""
SHOWN_CLASSES = 5
LISTED_CLASSES = 20
"""Largest classes that are printed, and that the JSON file has."""
SHOWN_CHARACTERS = 60


def audit(prepared: Prepared, recipe: Recipe, cache: Path, begin: Begin) -> dict[str, Any]:
    """All figures of the dataset, JSON-able; `begin` is called with the name of each step."""
    targets = (prepared.train_end, prepared.test_at, prepared.test_end)
    data = TestedSequences(prepared.items, prepared.offsets, *targets, len(prepared.texts))
    begin("near-equal texts")
    texts = list(prepared.texts)
    duplicates = _duplicate_figures(*duplicate_classes(texts), prepared)
    begin("histories in order")
    control = control_of(data)
    in_order = masked_metrics(control, data)
    shuffled = []
    for seed in range(SHUFFLES):
        begin(f"histories in random order {seed + 1} of {SHUFFLES}")
        shuffled.append(masked_metrics(control, data, seed))
    return {
        "dataset": prepared.name,
        "key": prepared.key,
        "fingerprint": prepared.fingerprint,
        "popularity": popularity(data),
        "history_length": history_length(data),
        "duplicates": duplicates,
        "histories": {"in_order": in_order, "shuffled": _summary(shuffled)},
        "tie_order": _tie_orders(prepared, recipe, cache, begin),
    }


def popularity(data: TestedSequences) -> dict[str, float]:
    """How the interactions of all splits spread over the items of the catalogue."""
    counts = np.sort(np.bincount(data.items, minlength=data.n_items))  # [I] ascending
    shares = {
        f"share_of_top_{percent}_percent": float(counts[-_top(data.n_items, percent) :].sum() / counts.sum())
        for percent in (1, 10)
    }
    return {**shares, "gini": gini(counts)}


def _top(n_items: int, percent: int) -> int:
    return max(1, round(n_items * percent / 100))


def history_length(data: TestedSequences) -> dict[str, float]:
    """Least, quartiles and most of the number of interactions before a test target."""
    _, lengths = target_positions(data.test_at, data.test_end)  # [T]
    values = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])
    return dict(zip(("least", "quartile_1", "median", "quartile_3", "most"), values.tolist(), strict=True))


def _duplicate_figures(equal: Classes, near: Classes, prepared: Prepared) -> dict[str, Any]:
    return {
        "similarity": SIMILARITY,
        "equal": {"items": sum(map(len, equal)), "classes": len(equal)},
        "near_equal": {"items": sum(map(len, near)), "classes": len(near)},
        "largest": [
            {
                "items": len(items),
                "item_ids": [prepared.item_ids[item] for item in items],
                "text": prepared.texts[items[0]],
            }
            for items in near[:LISTED_CLASSES]
        ],
    }


def _tie_orders(prepared: Prepared, recipe: Recipe, cache: Path, begin: Begin) -> dict[str, Any]:
    """Metrics over random orders of equal times, or why there are none."""
    if prepared.fingerprint.get("time_unit") == "position":
        return {"reason": "timestamps are positions in each user's sequence"}
    if not prepared.fingerprint["share_equal_times"]:
        return {"reason": "no neighbouring interactions of a user have equal times"}
    try:
        orders = random_tie_orders(recipe, cache, prepared.folder.parent, TIE_ORDERS, begin)
        return _summary([masked_metrics(control_of(data), data) for data in orders])
    except UserError as error:
        return {"reason": f"it needs the files: {error}"}


def _summary(draws: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, least, most and standard deviation of each metric over draws with the seeds 0, 1, ..."""
    values = {name: np.array([draw[name] for draw in draws]) for name in METRICS}
    return {
        "seeds": list(range(len(draws))),
        "draws": draws,
        **{
            name: {
                "mean": float(drawn.mean()),
                "least": float(drawn.min()),
                "most": float(drawn.max()),
                "standard_deviation": float(drawn.std(ddof=1)),
            }
            for name, drawn in values.items()
        },
    }


def lines(prepared: Prepared, figures: Mapping[str, Any]) -> Iterable[str]:
    """The figures for the terminal."""
    yield describe(prepared)
    spread, length, n_items = figures["popularity"], figures["history_length"], len(prepared.texts)
    tops = ", ".join(
        f"{spread[f'share_of_top_{percent}_percent']:.1%} on the top {percent} % ({_top(n_items, percent):,})"
        for percent in (1, 10)
    )
    yield f"interactions by popularity of items: {tops}; Gini coefficient {spread['gini']:.3f}"
    yield (
        f"history before the test target: least {length['least']:g}, quartiles {length['quartile_1']:g}, "
        f"{length['median']:g}, {length['quartile_3']:g}, most {length['most']:g}"
    )
    yield from _duplicate_lines(figures["duplicates"])
    yield from _order_lines(figures["histories"], figures["tie_order"])


def _duplicate_lines(duplicates: Mapping[str, Any]) -> Iterable[str]:
    equal, near = duplicates["equal"], duplicates["near_equal"]
    yield f"equal texts after normalisation: {equal['items']:,} items in {equal['classes']:,} classes"
    yield (
        f"equal or near-equal texts (Jaccard similarity of character {N_GRAM}-grams at least {SIMILARITY}): "
        f"{near['items']:,} items in {near['classes']:,} classes"
    )
    for largest in duplicates["largest"][:SHOWN_CLASSES]:
        text = largest["text"]
        cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS].rstrip()} ..."
        yield f"  {largest['items']} items: {visible_line(cut)}"


def _order_lines(histories: Mapping[str, Any], ties: Mapping[str, Any]) -> Iterable[str]:
    in_order, shuffled = histories["in_order"], histories["shuffled"]
    yield "control `transitions` (default settings) on the test targets, history masked:"
    yield f"  histories in order: {_pair(in_order)}"
    yield (
        f"  histories in random order, seeds 0 to {SHUFFLES - 1}: "
        f"{_pair({name: shuffled[name]['mean'] for name in METRICS})}"
    )
    change = {name: shuffled[name]["mean"] / in_order[name] - 1 for name in METRICS if in_order[name]}
    changes = [f"{measure(name).label} {value:+.1%}" for name, value in change.items()]
    yield f"  change: {', '.join(changes) or 'n/a (no target is among the first 10)'}"
    if "reason" in ties:
        yield f"  random orders of equal times: n/a ({ties['reason']})"
        return
    recall = ties["recall@10"]
    yield (
        f"  random orders of equal times, seeds 0 to {TIE_ORDERS - 1}: R@10 {recall['least']:.4f} to "
        f"{recall['most']:.4f}, mean {recall['mean']:.4f}, standard deviation "
        f"{recall['standard_deviation']:.4f}"
    )


def _pair(values: Mapping[str, float]) -> str:
    return ", ".join(f"{measure(name).label} {values[name]:.4f}" for name in METRICS)
