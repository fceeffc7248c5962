"""Which records count: types, versions, paths and ranks; and that one that does not count stops nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from data_folders import BLINK, TEN, TWELVE, write_folder
from in_process import children_in_process
from report_ranks import ranked, some_ranks
from report_records import failure, record, store

from benchmark.cli import main
from benchmark.files import digest_of
from benchmark.results.record import ranks_path, read_record
from benchmark.results.store import finished, iter_runs, look_up, read_result, set_aside, usable
from methods.errors import UserError

RESULTS = Path(__file__).resolve().parents[1] / "results"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The record of a finished run, with cold targets and a ceiling."""
    splits = {"test": record().metrics["test"]}
    data = {"key": "k1", "fingerprint": {"users": 1200}, "ceiling": splits, "chance": splits}
    store(tmp_path, [record("ssna", 0.2, cold=0.1, data=data)])
    return next(tmp_path.rglob("*.json"))


def edit(path: Path, change: Edit) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def put(*keys: Any, value: Any) -> Edit:
    """Sets one field, however deep."""

    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return change


def lose(*keys: Any) -> Edit:
    """Removes one field, however deep."""

    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("metrics", "test", "recall@10", value=math.nan), r"metrics\.test\.recall@10: .*finite"),
        (
            put("metrics", "test", "recall@10", value=1.5),
            r"metrics\.test\.recall@10: .*less than or equal to 1",
        ),
        (put("metrics", "test", "recall@20", value=0.1), r"metrics\.test\.recall@20"),
        (lose("metrics", "test", "ndcg@50"), r"metrics\.test: ndcg@50 is missing"),
        (put("metrics", "test", value={}), r"metrics\.test: recall@10 is missing"),
        (lose("metrics", "valid_masked"), r"metrics\.valid_masked: is missing, though status is ok"),
        (put("cost", "epoch_seconds", value=math.nan), r"cost\.epoch_seconds: .*finite"),
        (put("curve", 3, "loss", value=math.inf), r"curve\.3\.loss: .*finite"),
        (put("data", "fingerprint", value="x"), r"data\.fingerprint: "),
        (put("data", "fingerprint", "users", value="many"), r"data\.fingerprint\.users: .*integer"),
        (put("data", "fingerprint", "share", value={"a": [math.nan]}), r"data: nan is not a finite number"),
        (put("data", "ceiling", value=[1]), r"data\.ceiling: "),
        (put("data", "chance", value={"test": 3}), r"data\.chance\.test: "),
        (put("data", "recipe", value={"expected": {"users": "all"}}), r"data\.recipe\.expected\.users: "),
        (put("llm_details", value={"digest": 7}), r"llm_details\.digest: "),
        (put("method_source", "external", value="perhaps"), r"method_source\.external: .*boolean"),
        (put("settings", "width", value=math.inf), r"settings\.width: inf is not a finite number"),
        (put("seed", value=-1), "seed: .*greater than or equal to 0"),
        (put("best_epoch", value=None), "best_epoch: None is none of the 12 epochs run"),
        (put("surprise", value=1), "surprise: "),
        (
            put("schema_version", value=99),
            "schema_version: 99 is unknown; this version of AdaptRec reads 1 and 2",
        ),
        (put("schema_version", value="2"), "schema_version: '2' is unknown"),
    ],
)
def test_a_field_of_another_kind_is_one_line_that_names_it(path: Path, change: Edit, message: str) -> None:
    edit(path, change)
    with pytest.raises(UserError, match=f"{path.name} is not a run record: {message}") as caught:
        read_record(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": "\x00"}']
)
def test_a_file_that_is_no_record_is_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a run record: ") as caught:
        read_record(path)
    assert len(str(caught.value)) < 400 + len(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("dataset", value="other"), "its dataset gives other, not toy"),
        (put("llm", value="org/model"), "its llm gives org--model, not minilm"),
        (put("llm", value=None), "its llm gives none, not minilm"),
        (put("method", value="tmoe"), "its method gives tmoe, not ssna"),
        (put("config_hash", value="f" * 12), "its config_hash and seed gives ffffffffffff-s0.json"),
        (put("seed", value=7), "gives ssna-paper-s7.json, not ssna-paper-s0.json"),
    ],
)
def test_a_record_that_contradicts_its_path_does_not_count(path: Path, change: Edit, message: str) -> None:
    edit(path, change)
    with pytest.raises(UserError, match=f"is not the record that its path names: .*{message}"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("metrics", "test", "recall@10", value=0.9), "does not give the test metrics of its record"),
        (put("metrics", "test_masked", "ndcg@50", value=0.9), "does not give the test_masked metrics"),
        (
            put("metrics", "test_cold", "recall@10", value=0.9),
            "test_warm and test_cold metrics do not give its test",
        ),
        (
            put("metrics", "valid", "recall@10", value=0.9),
            "validation metrics are not those of its best epoch",
        ),
        (
            put("data", "fingerprint", "test_targets", value=7),
            "its ranks are of 1,000 targets, and its fingerprint",
        ),
    ],
)
def test_figures_that_do_not_follow_from_the_ranks_do_not_count(
    path: Path, change: Edit, message: str
) -> None:
    edit(path, change)
    with pytest.raises(
        UserError, match=f"{path.name} does not count as a result: .*{message}.* Run its cell again"
    ):
        read_result(path)
    lines: list[str] = []
    assert usable(path, lines.append) is None and len(lines) == 1
    assert finished(path, None) is None


def test_a_finished_run_without_ranks_does_not_count_and_another_needs_none(tmp_path: Path) -> None:
    whole, bare = (ranked(tmp_path, method, some_ranks(1)).path for method in "ab")
    ranks_path(bare).unlink()
    store(tmp_path, [failure("c")])
    lines: list[str] = []
    assert [run.record.method for run in iter_runs(tmp_path, lines.append)] == ["a", "c"]
    assert len(lines) == 1 and "b-paper-s0.ranks.parquet is missing" in lines[0]
    assert finished(whole, None) is not None


def test_ranks_of_before_ties_were_counted_are_read_by_their_own_rule(tmp_path: Path) -> None:
    stored = ranked(tmp_path, "a", some_ranks(1))
    path, run = stored.path, stored.record
    edit(path, put("schema_version", value=1))
    edit(path, put("checksum", value=None))
    table = pd.read_parquet(ranks_path(path)).drop(columns=["tied", "tied_masked"])
    table.astype({"rank": float, "rank_masked": float}).to_parquet(ranks_path(path))
    assert read_result(path).record.metrics == run.metrics


@pytest.mark.parametrize("field", ["loss", "train_seconds"])
def test_a_changed_figure_is_found_by_the_checksum_alone(field: str, path: Path) -> None:
    edit(path, put("curve", 0, field, value=0.25))
    with pytest.raises(UserError, match="does not match its checksum"):
        read_result(path)


def test_ranks_of_other_users_do_not_count(tmp_path: Path) -> None:
    """The metrics are as before: a checksum alone tells that users changed places."""
    stored = ranked(tmp_path, "a", some_ranks(1))
    path, run = stored.path, stored.record
    record = run.model_copy(update={"ranks_sha256": digest_of(ranks_path(path))})
    record.write(path)
    assert read_result(path).record == record
    table = pd.read_parquet(ranks_path(path))
    table["user"] = table["user"].to_numpy()[::-1]
    table.to_parquet(ranks_path(path))
    with pytest.raises(UserError, match="is not the file whose checksum its record has"):
        read_result(path)


def test_all_committed_records_count_and_are_written_as_they_were(tmp_path: Path) -> None:
    lines: list[str] = []
    found = [*iter_runs(RESULTS, lines.append), *iter_runs(RESULTS / "precision", lines.append)]
    assert lines == [] and len(found) >= 49
    for stored in found:
        path, run = stored.path, stored.record
        older = run.model_dump_json(indent=1, exclude_unset=True) + "\n"
        new = run.write(tmp_path / "record.json", exclude_unset=True).read_text()
        assert path.read_text() in (older, new)


def test_a_record_that_does_not_count_is_kept_under_another_name(path: Path) -> None:
    for name in ("damaged", "damaged-2"):
        path.write_bytes(b"{")
        fault = look_up(path, None).fault
        assert set_aside(path, fault).endswith(f"It is kept as {path.name}.{name}, and the run is repeated.")
        assert not path.exists() and path.with_name(f"{path.name}.{name}").read_bytes() == b"{"
    assert path.with_name(f"{ranks_path(path).name}.damaged").exists()
    assert list(iter_runs(path.parents[3])) == []


def test_one_bad_record_stops_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated record, and one whose figure was changed: their cells run again, and so does a third."""
    folder = write_folder(tmp_path / "toy", TWELVE, TEN)
    common = ["--dataset", str(folder), "--method", "id", "--results", str(tmp_path / "r")]
    common += ["--epochs", "1", "--set", *BLINK]
    for seed in "01":
        assert main(["run", *common, "--seed", seed]) == 0
    first, second = sorted((tmp_path / "r").rglob("*.json"))
    honest = read_record(second).metrics
    first.write_bytes(first.read_bytes()[:3000])
    edit(second, put("metrics", "test", "recall@10", value=0.1))
    with children_in_process():
        assert main(["bench", *common, "--protocols", "paper", "--seeds", "0,1,2"]) == 0
    output = capsys.readouterr().err
    assert "finished already" not in output and output.count("the run is repeated") == 2
    assert [run.record.seed for run in iter_runs(tmp_path / "r")] == [0, 1, 2]
    assert read_record(second).metrics == honest
    assert len(list(tmp_path.rglob("*.json.damaged"))) == 2
    first.write_bytes(b"")
    assert main(["run", *common, "--seed", "0"]) == 0
    assert f"{first.name}.damaged-2, and the run is repeated" in capsys.readouterr().err
    assert finished(first, None) is not None


def test_the_report_leaves_a_bad_record_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = store(tmp_path / "results", [record("a"), record("b", 0.2), record("<i>|`c", 0.3)])
    bad = next(results.rglob("*a-paper-s0.json"))
    edit(bad, put("metrics", "test", "recall@10", value=0.9))
    next(results.rglob("*c-paper-s0.json")).write_bytes(b"{")
    out = tmp_path / "reports"
    assert main(["report", "--results", str(results), "--out", str(out)]) == 0
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == 2 and str(bad) in warned
    for name in ("README.md", "index.html", "report.tex"):
        text = (out / name).read_text()
        assert "Left out" in text and "does not give the test metrics of its record" in text
    assert not any("9000" in file.read_text() for file in out.glob("toy-*.md"))
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in out.iterdir())
    for path in results.rglob("*.parquet"):
        path.unlink()
    assert main(["report", "--results", str(results), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "none of the 3 run records below" in error and error.count("\n") == 1
