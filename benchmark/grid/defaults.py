"""What commands and functions take where the user leaves something out.

With the embedded language model, that is a planted dataset under both protocols: nothing is fetched. With any
other one it is the paper's study: its datasets, its protocol and, where it published them, its best values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.config import SEARCHED, Tune
from benchmark.results.published import Source, has_best_values, published

EMBEDDED_LLM = "minilm"
"""Its weights come in a package."""
PLANTED = {"tiny", "tiny-shuffled"}
"""Datasets whose records and report have folders of their own: results/ and reports/ are for real data."""


def default_datasets(llms: Sequence[str]) -> list[str]:
    """What --datasets is for these language models."""
    return ["tiny"] if _embedded(llms) else list(published().layout.datasets)


def default_protocols(llms: Sequence[str]) -> list[str]:
    """What --protocols is for these language models."""
    return ["paper", "fair"] if _embedded(llms) else ["paper"]


def default_method() -> str:
    """What a command takes that measures one method: the one that the paper proposes."""
    return published().layout.subject


def default_tune(llms: Sequence[str], datasets: Sequence[str], protocols: Sequence[str]) -> Tune | None:
    """What --tune is for these names; None searches under protocol `tuned` and nothing else."""
    every = all(has_best_values(llm, dataset) for llm in llms for dataset in datasets)
    return "paper" if every and SEARCHED not in protocols else None


def default_results(datasets: Sequence[str]) -> Path:
    """Where the records of these datasets lie."""
    return Path("results", "tiny") if PLANTED.issuperset(datasets) else Path("results")


def default_source(datasets: Sequence[str]) -> Source:
    """What the report of these datasets shows: published figures stand beside those of real data."""
    return "ours" if PLANTED.issuperset(datasets) else "both"


def default_report(source: Source, datasets: Sequence[str] = ()) -> Path:
    """The folder of a report."""
    if source == "paper":
        return Path("reports", "paper")
    return Path("reports", "tiny") if datasets and PLANTED.issuperset(datasets) else Path("reports")


def _embedded(llms: Sequence[str]) -> bool:
    return list(llms) == [EMBEDDED_LLM]
