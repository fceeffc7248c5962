"""Model folders: whole, and with the recommendations of the run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from data_folders import BLINK, TWELVE, write_folder
from served_runs import TEXTS, ServedRun, serve

from benchmark.cli import main
from benchmark.results.list_metrics import TOP
from benchmark.results.record import model_path
from benchmark.results.store import read_result
from benchmark.run.build import splits
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.serve.export import export
from benchmark.serve.histories import read_histories
from benchmark.serve.model import LoadedModel, Recommendation, load_model
from benchmark.train.batches import Sequences
from benchmark.train.evaluate import evaluate
from methods.errors import UserError

CPU = torch.device("cpu")
RUNS = {
    "ids": ("id",),
    "ids beside texts": ("tmlp", "ids=add"),
    "states": ("tmlp", "similarity=dot", "temperature=1"),
    "tokens": ("bitfit", "top_layers=1", "lower_states=on"),
}


@pytest.fixture(scope="module", params=RUNS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServedRun:
    return serve(tmp_path_factory.mktemp("served"), *RUNS[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ServedRun:
    return serve(tmp_path_factory.mktemp("plain"), "tmlp")


def histories(served: ServedRun) -> list[list[str]]:
    """What precedes the test target of each user."""
    prepared = served.resolved.prepared
    return [
        [prepared.item_ids[item] for item in prepared.items[begin : begin + end]]
        for begin, end in zip(prepared.offsets[:-1], prepared.test_at, strict=True)
    ]


def test_ranks_and_lists_are_those_of_the_run(
    served: ServedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data, cache and language model."""
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "none"))
    folder = shutil.copytree(served.folder, tmp_path / "elsewhere")
    model = load_model(folder, CPU)
    prepared = served.resolved.prepared
    data = Sequences(prepared.items.astype(np.int64), model.data.twin, prepared.trained)
    _, test = splits(served.resolved)
    found = evaluate(model.recommender, data, test, prepared.offsets[:-1].astype(np.int64), CPU, top=TOP)
    stored = read_result(served.path)
    assert found.raw.best.tolist() == stored.ranks.raw.best.tolist()
    assert found.raw.tied.tolist() == stored.ranks.raw.tied.tolist()
    assert found.masked.best.tolist() == stored.ranks.masked.best.tolist()
    assert found.masked.tied.tolist() == stored.ranks.masked.tied.tolist()
    assert found.top is not None and stored.lists is not None
    assert found.top.items.tolist() == stored.lists.items.tolist()
    assert (found.top.scores == stored.lists.scores).all()


def ids(found: Recommendation) -> list[str]:
    return [item.item_id for item in found.items]


def sorted_by_hand(model: LoadedModel, history: list[str], k: int, exclude: bool) -> list[str]:
    """All items in the order of their scores, of equal ones the first of the catalogue."""
    numbers = np.array([model.item_ids.index(name) for name in history])
    scores = (model.item_vectors() @ model.user_vectors([history])[0]).tolist()
    left = [n for n in range(len(scores)) if not (exclude and n in numbers)]
    return [model.item_ids[n] for n in sorted(left, key=lambda n: (-round(scores[n], 5), n))][:k]


@pytest.mark.parametrize("exclude", [False, True])
def test_recommendations_are_the_highest_scores(served: ServedRun, exclude: bool) -> None:
    model = load_model(served.folder, CPU)
    asked = histories(served)
    found = model.recommend_batch(asked, 4, exclude)
    for history, one in zip(asked, found, strict=True):
        assert ids(one) == sorted_by_hand(model, history, 4, exclude)
        assert ids(one) == ids(model.recommend(history, 4, exclude))
        assert all(item.text == TEXTS[item.item_id] for item in one.items)


def test_a_history_longer_than_the_window_counts_by_its_end(plain: ServedRun) -> None:
    model = load_model(plain.folder, CPU)
    long = [*"abc" * plain.resolved.settings.window, "d"]
    assert model.recommend(long) == model.recommend(long[-plain.resolved.settings.window :])


def test_unknown_items_are_passed_over_and_named(plain: ServedRun) -> None:
    model = load_model(plain.folder, CPU)
    found = model.recommend(["a", "?", "b", "x\x1b[2J"], 3)
    assert found.unknown == ["?", "x\x1b[2J"] and ids(found) == ids(model.recommend(["a", "b"], 3))
    none, some = model.recommend_batch([["?"], ["a"]])
    assert not none.items and some.items


@pytest.mark.parametrize(
    ("history", "k", "line"),
    [
        ([], 3, "the history is empty"),
        (["?"], 3, "the catalogue does not have '\\?', the only item of the history"),
        (["?", "!"], 3, "none of the 2 items of the history, '\\?' first"),
        (["a"], 11, "k must be a whole number from 1 to 10, the items of the catalogue; got 11"),
        (["a"], 0, "k must be a whole number from 1"),
        (["a"], 2.5, "k must be a whole number from 1 .* got 2.5"),
        (None, 3, "a history is a list of item ids, got None"),
        ([1, 2], 3, "none of the 2 items of the history, '1' first"),
        (["a", 1.5], 3, "item ids are text or whole numbers, got 1.5 in a history"),
        ([True], 3, "item ids are text or whole numbers, got True"),
        ("abc", 3, "a history is a list of item ids, got the text 'abc'"),
    ],
)
def test_what_cannot_be_answered_is_one_line(plain: ServedRun, history: Any, k: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        load_model(plain.folder, CPU).recommend(history, k)


@pytest.mark.parametrize(
    ("histories", "line"),
    [
        (["a", "b"], "a history is a list of item ids, got the text 'a'; give \\['a'\\]"),
        ("ab", "histories are a list of lists of item ids, got the text 'ab'"),
        (None, "histories are a list of lists of item ids, got None"),
        ([["a"], [None]], "item ids are text or whole numbers, got None"),
    ],
)
def test_faulty_histories_of_many_users_are_one_line(plain: ServedRun, histories: Any, line: str) -> None:
    model = load_model(plain.folder, CPU)
    for function in (model.recommend_batch, model.user_vectors):
        with pytest.raises(UserError, match=line):
            function(histories)


def test_user_vectors_want_an_item_of_the_catalogue_in_each_history(plain: ServedRun) -> None:
    model = load_model(plain.folder, CPU)
    with pytest.raises(UserError, match=r"histories\[1\]: the catalogue does not have '\?'"):
        model.user_vectors([["a"], ["?"]])
    with pytest.raises(UserError, match="the list of histories is empty"):
        model.user_vectors([])


def test_whole_numbers_are_ids_in_python_and_in_json_lines(plain: ServedRun, tmp_path: Path) -> None:
    model = load_model(plain.folder, CPU)
    model._index["17"] = model._index["c"]
    file = tmp_path / "users.jsonl"
    file.write_text('["a", 17]')
    ((user,),) = read_histories(str(file), 9)
    asked = [["a", "c"], ["a", 17], [np.str_("a"), np.int64(17)], user.items]
    first, *others = model.recommend_batch(asked, 3)
    assert others == [first] * 3 and not first.unknown


def test_the_command_prints_a_table_and_json_lines(
    plain: ServedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(plain.folder)
    assert main(["recommend", folder, "--history", "a,b,?", "--k", "3"]) == 0
    out, errors = capsys.readouterr()
    expected = load_model(plain.folder, CPU).recommend(["a", "b"], 3).items
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[1] for row in rows] == [item.item_id for item in expected]
    assert "1 item of 1 history is not in the catalogue" in errors and "'?' first" in errors
    users = tmp_path / "users.tsv"
    users.write_text("ann\ta b\nbob\tc ?\n\ncy\t?\n")
    assert main(["recommend", folder, "--history", str(users), "--k", "3", "--format", "jsonl"]) == 0
    out, errors = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["user"] for line in found] == ["ann", "bob", "cy"]
    assert [item["item_id"] for item in found[0]["items"]] == [item.item_id for item in expected]
    assert found[2] == {"user": "cy", "items": [], "unknown": ["?"]}
    assert "1 of 3 users has no known item" in errors and "3 users in " in errors and " a second" in errors


@pytest.mark.parametrize("name", ["users.jsonl", "users.txt"])
def test_histories_are_read_from_other_files(
    plain: ServedRun, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"users.jsonl": '["a", "b"]\n{"user": "z", "history": ["c"]}\n', "users.txt": "a b\nc\n"}
    (tmp_path / name).write_text(content[name])
    given = ["--history", str(tmp_path / name), "--format", "jsonl"]
    assert main(["recommend", str(plain.folder), *given]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = load_model(plain.folder, CPU)
    for line, history in zip(found, (["a", "b"], ["c"]), strict=True):
        assert [item["item_id"] for item in line["items"]] == [
            x.item_id for x in model.recommend(history).items
        ]
    assert found[1]["user"] == {"users.jsonl": "z", "users.txt": "2"}[name]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("users.jsonl", '["a"]\n{"user": 3}\n', "line 2: it is neither a list of ids"),
        ("users.jsonl", '["a", true]', "line 1: item ids are text or whole numbers, got True in a history;"),
        ("users.jsonl", "[", "line 1: it is not JSON"),
        ("users.tsv", "ann a b", "line 1: it is not a user, one tab"),
        ("users.csv", "a", "a file of histories ends in .jsonl, .tsv, .txt"),
        ("users.txt", "? !", "the only history has no item of the catalogue"),
        ("absent/users.txt", None, "cannot be read: No such file"),
    ],
)
def test_a_faulty_file_of_histories_is_one_line(
    plain: ServedRun,
    tmp_path: Path,
    name: str,
    content: str | None,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["recommend", str(plain.folder), "--history", str(tmp_path / name)]) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_a_table_escapes_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve(tmp_path, "id")
    import pyarrow.parquet as pq

    table = pq.read_table(served.folder / "items.parquet")
    texts = [f"red \x1b[31m {n} \u202e" for n in range(len(table))]
    ids = [f"{item}\x7f\n\x9b1A" for item in table["item_id"].to_pylist()]
    hostile = table.set_column(1, "text", [texts]).set_column(0, "item_id", [ids])
    pq.write_table(hostile, served.folder / "items.parquet")
    assert main(["recommend", str(served.folder), "--history", "a"]) == 2  # its digest
    config = json.loads((served.folder / "config.json").read_text())
    from benchmark.files import checksum_of, digest_of

    config.pop("checksum")
    config["files"]["items.parquet"] = digest_of(served.folder / "items.parquet")
    (served.folder / "config.json").write_text(json.dumps({**config, "checksum": checksum_of(config)}))
    capsys.readouterr()
    command = ["recommend", str(served.folder), "--history", ids[0], "--k", "3"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert r"a\x7f\n\x9b1A" in out and r"red \x1b[31m" in out and r"\u202e" in out
    assert out.count("\n") == 5 and out.replace("\n", "").isprintable()
    assert main([*command, "--format", "jsonl"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.replace("\n", "").isprintable()
    assert {item["item_id"] for item in json.loads(out)["items"]} < set(ids)


def test_a_run_without_kept_weights_says_how_to_get_them(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", texts=TEXTS, users={f"u{n}": "a b c d e f" for n in range(9)})
    spec = RunSpec(str(data), "none", "id", overrides=(*BLINK, "epochs=1"))
    path, record = run(spec, tmp_path)
    assert record.model_sha256 is None
    with pytest.raises(UserError, match=r"no kept weights beside it.*--keep-model"):
        export(path, tmp_path / "model")
    again, kept = run(spec, tmp_path, keep_model=True)  # trains once more
    assert again == path and kept.model_sha256 and kept.created >= record.created
    assert kept.metrics == record.metrics
    assert run(spec, tmp_path, keep_model=True)[1].created == kept.created  # finished
    export(path, tmp_path / "model")
    with pytest.raises(UserError, match="exists; give another folder"):
        export(path, tmp_path / "model")
    model_path(path).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that its record names"):
        export(path, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    run(spec, tmp_path, fresh=True)
    assert not model_path(path).exists()


def test_controls_and_mixtures_are_no_models(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", texts=TEXTS, users={f"u{n}": "a b c d e f" for n in range(9)})
    path, record = run(RunSpec(str(data), "none", "popularity"), tmp_path, keep_model=True)
    assert record.status == "ok" and not model_path(path).exists()
    with pytest.raises(UserError, match="of the control 'popularity', which has no weights"):
        export(path, tmp_path / "model")


@pytest.mark.usefixtures("in_process")
def test_a_grid_runs_again_what_kept_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data", TWELVE, TEXTS)
    command = ["bench", "--datasets", str(data), "--llms", "random-tiny", "--methods", "id,popularity"]
    command += ["--protocols", "fair", "--results", str(tmp_path / "results"), "--set", *BLINK, "epochs=1"]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--keep-model"]) == 0
    out, errors = capsys.readouterr()
    assert "1 of 2 runs are finished already" in out + errors
    assert "1 of 2 runs have no kept weights, " in out + errors
    (kept,) = tmp_path.glob("results/**/*.model.safetensors")
    assert kept.parent.name == "id"
    assert main([*command, "--keep-model"]) == 0
    assert "2 of 2 runs are finished already" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "name", ["config.json", "items.parquet", "items.safetensors", "recommender.safetensors"]
)
def test_a_damaged_folder_is_one_line(plain: ServedRun, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(plain.folder, tmp_path / "copy")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-9] + b"?" + data[-8:])
    with pytest.raises(UserError, match="export the run again"):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"is missing|is no model folder"):
        load_model(folder)


def test_the_card_has_metrics_data_use_and_licence(plain: ServedRun) -> None:
    card = (plain.folder / "README.md").read_text()
    assert f"{plain.record.metrics['test']['recall@10']:.4f}" in card
    assert str(plain.record.data["fingerprint"]["sha256"]) in card
    assert "adaptrec.load_model" in card and "`random-tiny`. Its weights are random numbers" in card


def blocks(language: str) -> list[str]:
    page = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_page_can_be_copied_and_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of its first part, those about new items, and its Python."""
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)  # a new process has none of an earlier run
    Path("new.tsv").write_text("item_id\ttitle\nn1\ta red pen\n")
    first, *_ = blocks("sh")
    (items,) = [block for block in blocks("sh") if "adaptrec embed" in block]
    for line in (first + items).splitlines():
        words = [
            str(name)
            for word in shlex.split(line)[1:]
            for name in (Path().glob(word) if "*" in word else [word])
        ]
        assert main(words) == 0, line
    (code,) = blocks("python")
    scope: dict[str, Any] = {}
    exec(code, scope)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(scope["lists"]) == 2 and scope["vectors"].shape[0] == 2
    out = capsys.readouterr().out
    assert sum(item.item_id in out for item in scope["model"].recommend(["i001", "i002"], k=5).items) == 5
