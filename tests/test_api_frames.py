"""DataFrames in place of a folder give the same prepared data and the same records."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from data_folders import BLINK, TEN, TWELVE, interaction_rows, write_folder

import adaptrec
from benchmark.cli import main

SETTINGS = dict(pair.split("=") for pair in BLINK) | {"epochs": 1}


@pytest.fixture
def interactions() -> pd.DataFrame:
    return pd.DataFrame(interaction_rows(TWELVE), columns=["user_id", "item_id", "timestamp"])


@pytest.fixture
def items() -> pd.DataFrame:
    return pd.DataFrame(TEN.items(), columns=["item_id", "title"])


def test_content_decides_what_is_prepared(
    interactions: pd.DataFrame, items: pd.DataFrame, tmp_path: Path
) -> None:
    frames = adaptrec.prepare(interactions=interactions, items=items)
    text = adaptrec.prepare(write_folder(tmp_path / "text", TWELVE, TEN))
    assert frames.fingerprint == text.fingerprint
    assert [*frames.texts] == [*TEN.values()] and frames.name == "data"
    again = adaptrec.prepare(interactions=interactions.copy(), items=items.copy(), name="other")
    assert again.key == frames.key and again.name == "other"
    later = interactions.assign(timestamp=interactions.timestamp + 1)
    assert adaptrec.prepare(interactions=later, items=items).key != frames.key


@pytest.mark.usefixtures("in_process")
def test_frames_and_the_folder_that_pandas_writes_have_the_same_record(
    interactions: pd.DataFrame, items: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "mine").mkdir()
    interactions.to_parquet(folder / "interactions.parquet", index=False)
    items.to_parquet(folder / "items.parquet", index=False)
    command = ["run", "--dataset", str(folder), "--method", "id", "--protocol", "fair", "--results"]
    assert main([*command, str(tmp_path), "--epochs", "1", "--set", *BLINK]) == 0
    (path,) = tmp_path.rglob("*-s0.json")
    before = path.read_bytes()

    table = adaptrec.bench(
        interactions=interactions, items=items, name="mine", methods="id", protocols="fair",
        results=tmp_path, **SETTINGS,
    )  # fmt: skip
    assert list(tmp_path.rglob("*-s0.json")) == [path] and path.read_bytes() == before
    assert "1 of 1 runs are finished already" in capsys.readouterr().err
    run = adaptrec.load(path)
    (value,) = table[
        (table.split == "test_masked") & (table.measure == "ndcg@10") & table.record.notna()
    ].value
    assert value == run.metrics.loc["test_masked", "ndcg@10"]
    assert set(table.record.dropna()) == {run.name}


def test_other_names_of_columns(interactions: pd.DataFrame, items: pd.DataFrame) -> None:
    names = {"user_id": "uid", "item_id": "asin", "timestamp": "ts"}
    mine = interactions.rename(columns=names)
    renamed = adaptrec.prepare(interactions=mine, items=items.rename(columns=names), columns=names)
    assert renamed.fingerprint == adaptrec.prepare(interactions=interactions, items=items).fingerprint
    assert adaptrec.prepare(interactions=mine, items=items, columns=names).fingerprint == renamed.fingerprint


@pytest.mark.parametrize(
    ("role", "change", "line"),
    [
        (
            "interactions",
            lambda frame: frame.rename(columns={"timestamp": "time"}),
            "interactions has no column 'timestamp'; its columns are user_id, item_id, time; name yours with "
            "columns={'timestamp': 'time'}.",
        ),
        (
            "items",
            lambda frame: frame.set_index("item_id"),
            "items has no column 'item_id'; its columns are title; it is the index: give "
            "items.reset_index().",
        ),
        ("items", lambda frame: frame[:0], "items is empty; give a DataFrame with rows and columns."),
        ("items", list, "items must be a pandas DataFrame, got list."),
        (
            "items",
            lambda frame: frame[["item_id"]],
            "items has no text column; give each item at least a title.",
        ),
        (
            "items",
            lambda frame: frame.T.reset_index().T,
            "items has the column 0; names of columns must be text.",
        ),
        (
            "interactions",
            lambda frame: frame.assign(user_id=pd.Series([1, *frame.user_id[1:]], dtype=object)),
            r"interactions: Conversion failed for column user_id with type object; .*; store each column as "
            r"one type\.",
        ),
        (
            "interactions",
            lambda frame: frame.assign(timestamp=frame.timestamp > 1),
            "interactions: the column 'timestamp' has the type bool, which is not read as timestamp; store "
            "it as int64, double or timestamp.",
        ),
        (
            "interactions",
            lambda frame: frame.assign(item_id=frame.item_id.mask(frame.index == 2)),
            'interactions, row 3: user_id or item_id is empty; mend the row, or set bad_rows = "skip" in '
            "datasets/NAME/recipe.toml and give recipe='NAME'.",
        ),
    ],
)  # fmt: skip
def test_a_bad_frame_is_one_line(
    role: str, change: object, line: str, interactions: pd.DataFrame, items: pd.DataFrame
) -> None:
    frames = {"interactions": interactions, "items": items}
    frames[role] = change(frames[role])  # type: ignore[operator]
    with pytest.raises(adaptrec.UserError) as caught:
        adaptrec.prepare(**frames)
    assert str(caught.value) == line or re.fullmatch(line, str(caught.value)), str(caught.value)


def test_the_advice_of_a_bad_frame_helps(
    interactions: pd.DataFrame, items: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(adaptrec.UserError, match=r"'uid'; .*; leave 'user_id' out of columns\.$"):
        adaptrec.prepare(interactions=interactions, items=items, columns={"user_id": "uid"})
    (tmp_path / "datasets" / "mine").mkdir(parents=True)
    (tmp_path / "datasets" / "mine" / "recipe.toml").write_text('bad_rows = "skip"\n')
    monkeypatch.chdir(tmp_path)
    bad = pd.concat([interactions, interactions[:1].assign(item_id=None)])
    skipped = adaptrec.prepare(interactions=bad, items=items, recipe="mine")
    assert skipped.fingerprint["repairs"] == {"bad rows skipped": 1}


def test_data_are_given_in_one_way(interactions: pd.DataFrame, items: pd.DataFrame) -> None:
    for given in (
        {"interactions": interactions},
        {"datasets": "tiny", "interactions": interactions, "items": items},
    ):
        with pytest.raises(
            adaptrec.UserError, match=r"^give either datasets, or interactions and items together"
        ):
            adaptrec.bench(methods="id", **given)
    with pytest.raises(adaptrec.UserError, match=r"name='a/b' must be a plain name"):
        adaptrec.prepare(interactions=interactions, items=items, name="a/b")
    with pytest.raises(adaptrec.UserError, match=r"give a dataset, or interactions and items"):
        adaptrec.prepare()
