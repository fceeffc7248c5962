"""The long table of figures, and the command that prints it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
import report_records as records

from benchmark.cli import main
from benchmark.results.figures import COLUMNS, load, measured
from benchmark.results.published import published
from benchmark.results.tuning import Trial, Tuning

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return records.store(tmp_path_factory.mktemp("results"), records.few())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> pd.DataFrame:
    capsys.readouterr()
    assert main(["results", *arguments]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["results", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    return err


def test_every_figure_of_a_record_is_a_row(results: Path) -> None:
    table = load(results, "ours")
    assert tuple(table.columns) == COLUMNS
    mine = table[table.record == "toy/minilm/ssna/ssna-fair-s1"]
    assert set(mine.source) == {"ours"} and set(mine.seed) == {1} and set(mine.configuration) == {"ssna"}
    values = mine.set_index(["kind", "split", "measure"]).value
    assert values["quality", "test", "recall@10"] == pytest.approx(0.36)
    assert values["quality", "test_cold", "ndcg@10"] == pytest.approx(0.125)
    by_measure = mine[mine.split.isna()].set_index(["kind", "measure"]).value
    assert by_measure["cost", "epoch_seconds"] == 9.5
    assert by_measure["cost", "epochs_run"] == 12
    assert by_measure["count", "users"] == 1200
    assert by_measure["setting", "batch_size"] == 256
    assert values["cost", "train", "host_memory_gb"] == pytest.approx(2**30 / 1e9)
    assert not table.value.isna().any()
    assert not table.duplicated([name for name in COLUMNS if name != "value"]).any()


def test_runs_that_did_not_finish_have_no_measured_figures(results: Path) -> None:
    table = load(results, "ours")
    assert set(table[table.method == "adalora"].kind) == {"run", "count"}
    finished = table[table.measure == "finished"].groupby("method").value.unique()
    assert list(finished["adalora"]) == [0] and list(finished["ssna"]) == [1]


def test_bounds_stand_once_a_dataset(results: Path) -> None:
    table = load(results, "ours")
    bounds = table[table.configuration.isin(["chance", "ceiling"]) & (table.measure == "recall@10")]
    test = bounds[bounds.split == "test"].set_index("configuration").value
    assert dict(test) == {"chance": 0.03, "ceiling": 0.6}
    assert bounds[["method", "llm", "protocol", "seed", "record"]].isna().all(axis=None)


def test_configurations_with_equal_labels_are_distinguished() -> None:
    pair = [records.record(config_hash=name, overrides=["ids=add"]) for name in ("a" * 12, "b" * 12)]
    runs = records.as_runs(pair)
    assert set(measured(runs).configuration) == {"ssna (ids=add) #aaaaaaaa", "ssna (ids=add) #bbbbbbbb"}
    assert set(measured(runs[:1]).configuration) == {"ssna (ids=add)"}


def test_what_a_search_chose() -> None:
    chosen = ["top_layers=2", "init=paper"]
    trials = [Trial(overrides=chosen, config_hash="c1", status="ok", recall=0.1)]
    search = Tuning(mode="grid", chosen=chosen, trials=trials, train_seconds=7.0)
    own = {"tuning": search, "hyperparameters": {"top_layers": 2, "init": "paper"}}
    run = records.record(overrides=["init=paper", "top_layers=2"], **own)
    table = measured(records.as_runs([run]))
    tuned = table[table.kind == "tuned"]
    assert list(tuned.measure) == ["top_layers"] and list(tuned.value) == [2]
    assert list(table[table.measure == "search_seconds"].value) == [7]


def test_trials_that_were_not_chosen_have_no_test_figures() -> None:
    trials = [Trial(overrides=[f"rank={n}"], config_hash=f"c{n}", status="ok", recall=n / 10) for n in (1, 2)]
    search = Tuning(mode="grid", chosen=["rank=2"], grid={"rank": [1, 2]}, trials=trials)
    lost = records.record(config_hash="c1", overrides=["rank=1"])
    best = records.record(config_hash="c2", overrides=["rank=2"], tuning=search)
    table = measured(records.as_runs([lost, best]))
    splits = table.groupby("configuration").split.unique()
    assert set(splits["ssna (rank=2)"].dropna()) == {"valid", "valid_masked", "test", "test_masked", "train"}
    assert set(splits["ssna (rank=1)"].dropna()) == {"valid", "valid_masked", "train"}
    every = measured(records.as_runs([lost, best]), trials=True)
    assert "test" in set(every[every.configuration == "ssna (rank=1)"].split)


def test_published_figures_are_the_same_rows_with_another_source(results: Path) -> None:
    both, ours = load(results, "both"), load(results, "ours")
    paper = both[both.source == "paper"]
    assert len(paper) == len(published().rows) and len(both) == len(paper) + len(ours)
    mine = paper[(paper.dataset == "sci") & (paper.llm == "distilbert") & (paper.method == "ssna")]
    assert set(mine.kind) == {"quality", "cost", "tuned"}
    quality = mine[(mine.kind == "quality") & (mine.record == "paper:table2")]
    assert set(quality.split) == {"test"} and set(quality.measure) <= set(
        ours[ours.kind == "quality"].measure
    )
    cost = paper[paper.kind == "cost"].fillna({"split": "none"})
    assert set(zip(cost.measure, cost.split, strict=True)) == {
        ("epoch_seconds", "none"),
        ("gpu_memory_gb", "train"),
    }
    assert len(paper[paper.kind == "improvement"]) == 60
    assert len(load(results, "paper")) == len(paper)


def test_metrics_that_records_do_not_hold(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    """Of a user in three at rank 3 and a user in three at rank 15."""
    table = printed(capsys, "--results", str(results), "--metrics", "mrr@10,recall@20")
    quality = table[(table.kind == "quality") & (table.record == "toy/minilm/ssna/ssna-paper-s0")]
    assert set(quality.measure) == {"mrr@10", "recall@20"}
    test = quality[(quality.split == "test") & (quality.configuration == "ssna")].set_index("measure").value
    assert test["mrr@10"] == pytest.approx(0.3 / 3) and test["recall@20"] == pytest.approx(0.6)
    chance = table[(table.configuration == "chance") & (table.measure == "recall@20")]
    assert list(chance.value) == [pytest.approx(20 / 300)]


def test_it_can_be_narrowed(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    given = ("--results", str(results))
    table = printed(capsys, *given, "--methods", "ssna,id", "--protocols", "fair", "--llms", "minilm")
    assert set(table.method.dropna()) == {"ssna", "id"}, "runs without a language model stay"
    assert set(table.protocol.dropna()) == {"fair"}
    assert "chance" in set(table.configuration)
    paper = printed(capsys, "--source", "paper", "--datasets", "sci", "--llms", "bert-medium")
    assert set(paper.dataset.dropna()) == {"sci"} and set(paper.llm.dropna()) == {"bert-medium"}


@pytest.mark.parametrize("form", ["csv", "parquet", "md"])
def test_a_file_in_each_format(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, results: Path, form: str
) -> None:
    out = tmp_path / "new" / f"figures.{form}"
    assert main(["results", "--results", str(results), "--format", form, "--out", str(out)]) == 0
    expected = load(results, "ours")
    assert capsys.readouterr().out == f"{len(expected)} figures in {out}\n"
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if form == "md":
        lines = out.read_text().splitlines()
        assert sum(line.startswith("| ours") for line in lines) == len(expected)
        return
    found = pd.read_parquet(out) if form == "parquet" else pd.read_csv(out)
    pd.testing.assert_frame_equal(found.astype(expected.dtypes), expected, rtol=0, atol=0)


def test_parquet_is_not_written_to_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "give --out FILE" in complaint(capsys, "--results", str(results), "--format", "parquet")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "ourss"], "Did you mean 'ours'"),
        (["--metrics", "recal@10"], "metric 'recal@10'"),
        (["--metrics", "recall"], "needs a cut-off"),
        (["--methods", "sna"], "Did you mean 'ssna'"),
        (["--datasets", "toy", "--protocols", "pair"], "Did you mean"),
        (["--format", "xml"], "'xml'"),
        (["--results", "nowhere"], "no run records below nowhere"),
        (
            ["--source", "both", "--datasets", "sci", "--protocols", "fair"],
            "no figure has all of these at once",
        ),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], results: Path, arguments: list[str], says: str
) -> None:
    given = [] if "--results" in arguments else ["--results", str(results)]
    assert says in complaint(capsys, *given, *arguments)


def test_a_folder_is_no_file(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path) -> None:
    assert str(tmp_path) in complaint(capsys, "--results", str(results), "--out", str(tmp_path))


def test_no_cell_of_the_csv_is_a_formula(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    records.store(tmp_path, [records.record(overrides=["init==1+1"], llm="=1+1")])
    text = (tmp_path / "x").name
    assert main(["results", "--results", str(tmp_path), "--out", str(tmp_path / text)]) == 0
    assert ",'=1+1," in (tmp_path / text).read_text()


def test_the_example_of_the_docs_gives_the_table_of_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = (ROOT / "docs" / "report.md").read_text().partition("## All figures in one table")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    assert main(["results", "--results", str(ROOT / "results"), "--out", "figures.csv"]) == 0
    capsys.readouterr()
    scope: dict[str, pd.DataFrame] = {}
    exec(example[1], scope)
    pivot = scope["fair"].pivot_table("value", "configuration", "measure")
    page = (ROOT / "docs" / "results.md").read_text().partition("## Protocol `fair`")[2].partition("## ")[0]
    lines = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", page, re.M)
    rows = {re.sub("[`†]", "", name).strip(): cells for name, *cells in lines if "." in cells[0]}
    assert len(rows) >= 8 and rows.keys() <= set(pivot.index)
    for name, cells in rows.items():
        for metric, cell in zip(("recall@10", "ndcg@10"), cells, strict=True):
            number = re.search(r"\.\d{4}", cell)
            assert number is not None and f"{pivot.loc[name, metric]:.4f}".removeprefix("0") == number[0]
