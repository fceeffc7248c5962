"""The tables of docs/amazon-2023.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from benchmark.results.measures import count, several
from benchmark.speed.tables import markdown
from studies.arithmetic.cost import (
    Assumptions,
    MethodCost,
    Schedule,
    Work,
    cost,
    items_of_prediction,
    most_items,
    prediction_flops,
    predictions,
    recommender_flops,
)


def show(
    works: Sequence[Work], llm: str, llm_forward: float, a: Assumptions, s: Schedule, gpus: Sequence[int]
) -> str:
    """Assumptions, counted work, memory and disk, time and money."""
    costs = {work.method: [cost(work, llm_forward, a, s, n) for n in gpus] for work in works}
    return "\n\n".join(
        [
            _assumptions(a),
            f"{llm}: {count(llm_forward / 1e9)} GFLOP for the forward pass of a text. "
            f"{predictions(a) / 1e6:,.1f} million predictions an epoch, "
            f"{count(predictions(a) / s.batch)} steps; {items_of_prediction(a, s):.2f} items are encoded a "
            f"prediction; SASRec and the loss take {count(recommender_flops(s) / 1e6)} MFLOP a prediction.",
            _work(works, a, s),
            _space(works, costs, a, s),
            _time(works, costs, a, gpus),
        ]
    )


def _assumptions(a: Assumptions) -> str:
    rows = [[field.name, f"{getattr(a, field.name):,}"] for field in fields(a)]
    return markdown(rows, ["assumption", "value"])


def _work(works: Sequence[Work], a: Assumptions, s: Schedule) -> str:
    heads = ["method", "reads", "MFLOP an item, forward", "forward and backward", "forward twice"]
    heads += ["MFLOP a prediction", "trained parameters", "trained an item", "frozen parameters"]
    rows = [
        [
            work.method,
            work.reads.replace("states", f"states of {several(work.state_layers, 'layer')}"),
            count(work.forward / 1e6),
            count(work.training / 1e6),
            "yes" if work.replayed else "no",
            count(prediction_flops(work, a, s) / 1e6),
            f"{work.trained:,}",
            f"{work.trained_per_item:,}",
            f"{work.frozen:,}",
        ]
        for work in works
    ]
    return markdown(rows, heads)


def _space(works: Sequence[Work], costs: dict[str, list[MethodCost]], a: Assumptions, s: Schedule) -> str:
    heads = ["method", "states on disk, GB", "a GPU, without states, GB", "one [I, d] matrix, GB"]
    heads += [f"fits {a.memory_gb:g} GB", "items at which it is full, millions"]
    rows = []
    for work in works:
        cost = costs[work.method][0]
        need = cost.resident + cost.table
        rows.append(
            [
                work.method,
                count(cost.states / 1e9) if cost.states else "",
                count(cost.resident / 1e9),
                count(cost.table / 1e9),
                "yes" if need <= a.memory_gb * 1e9 else "no",
                count(most_items(work, a, s) / 1e6),
            ]
        )
    return markdown(rows, heads)


def _time(
    works: Sequence[Work], costs: dict[str, list[MethodCost]], a: Assumptions, gpus: Sequence[int]
) -> str:
    heads = ["method", "GPUs", "encode once", "products", "fetching states", "least", "optimiser", "exchange"]
    heads += ["epoch", "evaluation", "whole run", "dollars", "a day's predictions, millions"]
    rows = [
        [
            work.method,
            str(cost.gpus),
            span(cost.encode),
            *(span(part) for part in (cost.products, cost.fetch, cost.least, cost.optimiser, cost.exchange)),
            span(cost.epoch),
            span(cost.evaluation),
            span(cost.total),
            f"{cost.dollars:,.0f}",
            count(predictions(a) / 1e6 * 86_400 / cost.total),
        ]
        for work in works
        for cost in costs[work.method]
    ]
    return markdown(rows, heads)


def span(seconds: float) -> str:
    """Seconds in the unit in which they can be read; nothing where there are none."""
    if not seconds:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{count(seconds / size)} {unit}"
    return f"{count(seconds)} s"
