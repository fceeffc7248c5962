"""From lists of names to the cells of a grid, every name and value checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from benchmark.cell import Cell, check_protocol, find_llm
from benchmark.config import accepted, applicable
from benchmark.data.recipe import find
from methods import registry
from methods.errors import UserError, unknown


def expand(
    datasets: Sequence[str],
    llms: Sequence[str],
    methods: Sequence[str] | None,
    protocols: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> list[Cell]:
    """All cells, in the order dataset, language model, protocol, method, seed.

    A method that reads no language model has one cell, not one a language model. An override goes to the
    methods that have such a hyper-parameter; one that no method has raises `UserError`, as does any name
    that does not exist.
    """
    names = list(methods) if methods else registry.default_names()
    classes = {name: registry.get(name) for name in names}
    for dataset in datasets:
        find(dataset)
    for protocol in protocols:
        check_protocol(protocol)
    if any(cls.reads != "ids" for cls in classes.values()):
        for llm in llms:
            find_llm(llm)
    _check_keys(overrides, set().union(*(accepted(cls.Config) for cls in classes.values())))
    cells = {
        Cell(
            dataset, llms[0] if classes[name].reads == "ids" else llm, name, protocol, seed,
            applicable(overrides, classes[name].Config),
        ): None
        for dataset, llm, protocol, name, seed in product(datasets, llms, protocols, names, seeds)
    }  # fmt: skip
    return list(cells)


def _check_keys(overrides: Sequence[str], everything: set[str]) -> None:
    for pair in overrides:
        key, sign, _ = pair.partition("=")
        if not sign:
            raise UserError(f"--set wants key=value, got '{pair}'.")
        if key not in everything:
            raise unknown("setting in --set:", key, sorted(everything))
