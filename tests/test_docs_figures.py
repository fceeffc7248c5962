"""Pairs of figures that people wrote into README and docs, R@10 / N@10, are those of one row of the records.

Single figures prove little, since the records have almost every value from .0000 to .2000. What commands
print into pages is compared by `test_docs_output.py`, the table `fair` by `test_results_figures.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from benchmark.results.figures import measured
from benchmark.results.schema import METRICS
from benchmark.results.store import iter_runs

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)
OF_OTHERS = {
    (".1260", ".0827"): "text-knn with another language model, docs/llms.md",
    (".0879", ".0521"): "the blend of Beauty with an earlier grid",
    (".0966", ".0561"): "the blend of Beauty with other settings",
    (".1238", ".0645"): "published for VQ-Rec",
}
"""Pairs that no record of the store has, and where they are from."""
PAIR = re.compile(r"(?<![\w.])(\.\d{4}) / (\.\d{4})(?!\d)")


def shown(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


KEYS = ["dataset", "llm", "method", "protocol", "configuration", "split"]


def of_store(folder: Path) -> pd.DataFrame:
    """Rank metrics of every run of a folder, one a row, and of the means over seeds."""
    table = measured(list(iter_runs(folder)), METRICS, trials=True)
    table = table[(table.kind == "quality") & table.method.notna()]
    table = table.astype(dict.fromkeys(KEYS, "object")).fillna(dict.fromkeys(KEYS, ""))
    wide = table.pivot(index=["record", *KEYS], columns="measure", values="value").reset_index()
    means = wide.groupby(KEYS)[[*METRICS]].mean().reset_index()
    return pd.concat([wide, means])


@pytest.fixture(scope="module")
def pairs() -> set[tuple[str, str]]:
    """R@10 and N@10 of one row on one split, as pages write them."""
    folders = (ROOT / "results", *((ROOT / "results") / name for name in ("generation-0", "generation-1")))
    rows = pd.concat([of_store(folder) for folder in folders])
    return {(shown(a), shown(b)) for a, b in zip(rows["recall@10"], rows["ndcg@10"], strict=True)}


@pytest.mark.parametrize("page", PAGES)
def test_a_pair_of_recall_and_ndcg_is_that_of_a_row(page: str, pairs: set[tuple[str, str]]) -> None:
    found = set(PAIR.findall((ROOT / page).read_text(encoding="utf-8")))
    assert found - pairs - OF_OTHERS.keys() == set()


def test_the_exceptions_are_needed(pairs: set[tuple[str, str]]) -> None:
    written = {pair for page in PAGES for pair in PAIR.findall((ROOT / page).read_text(encoding="utf-8"))}
    assert OF_OTHERS.keys() <= written - pairs
