"""The published figures: read whole, checked, and packaged."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.results.published import Published, best_values, dataset_of, folder, published
from methods import CONTROLS, registry
from methods.errors import UserError
from methods.registry import entries

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder(), tmp_path / "paper"))


def value(paper: Published, table: str, names: str, measure: str) -> float:
    """The one figure of a table with these names of language model, dataset and method."""
    rows = [row for row in paper.rows if (row["record"], row["measure"]) == (f"paper:{table}", measure)]
    found = [
        row["value"]
        for row in rows
        if names == " ".join(row[name] for name in ("llm", "dataset", "method") if name in row)
    ]
    assert len(found) == 1
    return float(found[0])


def test_every_table_is_there_with_as_many_figures_as_the_paper_prints() -> None:
    counts = Counter(row["record"] for row in published().rows)
    best = 5 * 8
    assert counts == {
        "paper:table1": 25, "paper:table2": 120, "paper:table3": 120, "paper:table4": 120, "paper:table5": 60,
        "paper:table6": 45, "paper:table7": 45, "paper:table8": 60,
        "paper:tableS1": best, "paper:tableS2": best, "paper:tableS3": best,
    }  # fmt: skip


def test_figures_typed_by_hand_from_the_paper() -> None:
    paper = published()
    assert value(paper, "table1", "tools", "interactions") == 145_681
    assert value(paper, "table2", "distilbert sci lora", "recall@10") == 0.1070
    assert value(paper, "table3", "distilroberta ins ssna", "ndcg@50") == 0.0823
    assert value(paper, "table4", "bert-medium toys tmlp", "ndcg@10") == 0.0425
    assert value(paper, "table5", "bert-medium adalora", "ndcg@10") == 18.0
    assert value(paper, "table6", "distilroberta toys adalora", "epoch_seconds") == 1679.2
    assert value(paper, "table7", "distilbert toys ssna", "gpu_memory_gb") == 1.8
    assert value(paper, "table8", "distilbert pantry ssna-weighted", "recall@50") == 0.1106
    assert value(paper, "tableS2", "distilroberta sci ssna", "batch_size") == 64


def test_its_methods_are_methods_of_this_project() -> None:
    assert set(published().layout.methods) <= set(entries())


def test_a_dataset_is_known_by_its_counts_alone() -> None:
    sci = {"users": 8442, "items": 4385, "interactions": 59427, "sha256": "whatever"}
    assert dataset_of(sci) == "sci"
    assert dataset_of({**sci, "interactions": 59426}) is None
    assert dataset_of({}) is None


def test_best_values_name_what_the_grid_of_the_method_searches() -> None:
    for name in entries():
        if name in CONTROLS:
            continue
        cls = registry.get(name)
        assert not cls.paper, "results/paper is the one place of the published values"
        for values in best_values(name).values():
            assert values.keys() == cls.grid.keys()
            assert all(value in cls.grid[setting] for setting, value in values.items())
    assert {len(best_values(name)) for name in published().layout.methods} == {15}


Act = Callable[[Path], None]


def damage(name: str, line: int, change: Callable[[str], str]) -> Act:
    def act(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        lines[line - 1] = change(lines[line - 1])
        (root / name).write_text("\n".join(lines) + "\n")

    return act


def swap(name: str, line: int, old: str, new: str) -> Act:
    return damage(name, line, lambda row: row.replace(old, new))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            swap("quality.csv", 3, "0.1025", "0.10.25"),
            r"quality.csv, line 3: '0.10.25' for 'value' is not a num",
        ),
        (swap("quality.csv", 4, "0.0974", " "), r"quality.csv, line 4: no value for 'value'"),
        (swap("quality.csv", 5, "tmlp", "tmpl"), r"line 5: 'tmpl'. Did you mean 'tmlp'"),
        (swap("efficiency.csv", 1, "value", "value,note"), r"column in .*efficiency.csv, line 1: 'note'"),
        (swap("datasets.csv", 1, "users", "items"), r"line 1: needs the column 'users' once"),
        (swap("datasets.csv", 2, "13.6", "13.6,1"), r"datasets.csv, line 2: more fields"),
        (swap("datasets.csv", 6, "ins", "sci"), r"line 6: stands on line 2 too"),
        (swap("hyperparameters.csv", 2, "0.1", "nan"), r"line 2: 'nan' for 'value' is not"),
        (swap("improvement.csv", 2, "1.8", "-1.8"), r"'-1.8' .* is not a number from 0"),
        (swap("tables.toml", 5, "=", "= ["), r"tables.toml is not TOML"),
        (damage("tables.toml", 5, lambda row: ""), r"tables.toml: subject: Field required"),
        (lambda root: (root / "quality.csv").unlink(), r"quality.csv cannot be read"),
        (damage("quality.csv", 2, lambda row: '"' + row), r"quality.csv, line \d+: unexpected end of data"),
    ],
)
def test_damage_is_one_line(copy: Path, act: Act, message: str) -> None:
    act(copy)
    with pytest.raises(UserError) as caught:
        published(copy)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_dataset_of_the_layout_must_have_counts(copy: Path) -> None:
    lines = (copy / "datasets.csv").read_text().splitlines()
    (copy / "datasets.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="no line for the dataset 'ins'"):
        published(copy)
