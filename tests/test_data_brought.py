"""Files as users have them: other names of columns, separators, gzip, ISO 8601 times, ids of odd types."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_folders import TEXTS, USERS, interaction_rows, lines, read, recipe_of, write_folder

from benchmark.commands import run as run_options
from benchmark.commands.options import Parser, add_reading, reading
from benchmark.data.catalogue import find
from benchmark.data.prepare import prepare
from benchmark.data.recipe import FolderOptions, Recipe
from benchmark.grid.executor import Options, run_command
from benchmark.run.spec import RunSpec, specs_from_json
from methods.errors import UserError

HEADER = ("user_id", "item_id", "timestamp")


def write(
    folder: Path,
    interactions: list[tuple[object, ...]],
    items: list[tuple[object, ...]],
    separator: str = "\t",
    kind: str = "tsv",
) -> Path:
    """Both files with the given rows, headers included."""
    folder.mkdir()
    for name, rows in (("interactions", interactions), ("items", items)):
        data = lines(rows, separator).encode()
        (folder / f"{name}.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    return folder


def parquet(folder: Path, interactions: Mapping[str, Any], items: Mapping[str, Any]) -> Recipe:
    folder.mkdir()
    for name, columns in (("interactions", interactions), ("items", items)):
        pq.write_table(pa.table(dict(columns)), folder / f"{name}.parquet")
    return find(str(folder))


def same_as_plain(tmp_path: Path, recipe: Recipe) -> bool:
    plain = read(recipe_of(write_folder(tmp_path / "plain")))
    result = read(recipe)
    return (result.users, result.items, result.item_ids, result.texts) == (
        plain.users, plain.items, plain.item_ids, plain.texts,
    )  # fmt: skip


PLAIN_ROWS = [HEADER, *interaction_rows()]
PLAIN_ITEMS = [("item_id", "title"), *TEXTS.items()]


@pytest.mark.parametrize(("kind", "separator"), [("tsv.gz", "\t"), ("csv.gz", ",")])
def test_gzipped_plain_files(tmp_path, kind, separator):
    folder = write(tmp_path / "own", PLAIN_ROWS, PLAIN_ITEMS, separator, kind)
    assert same_as_plain(tmp_path, recipe_of(folder))
    (folder / kind.replace(".gz", "")).touch()
    (folder / f"items.{kind.removesuffix('.gz')}").touch()
    with pytest.raises(UserError, match=r"holds both items\.\w+ and items\.\w+\.gz; remove the one"):
        read(recipe_of(folder))


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_a_named_separator(tmp_path, separator):
    folder = write(tmp_path / "own", PLAIN_ROWS, PLAIN_ITEMS, separator, "csv")
    with pytest.raises(UserError) as caught:
        read(recipe_of(folder))
    shown = {"\t": "\\t"}.get(separator, separator)
    assert f"--separator '{shown}'" in str(caught.value) and "\n" not in str(caught.value)
    assert same_as_plain(tmp_path, find(str(folder), FolderOptions(separator=separator)))


def test_columns_of_other_names(tmp_path):
    rows = [("uid", "asin", "ts", "item_id"), *((*row, "other") for row in interaction_rows())]
    folder = write(tmp_path / "own", rows, PLAIN_ITEMS)
    mapped = {"user_id": "uid", "item_id": "asin", "timestamp": "ts"}
    assert same_as_plain(tmp_path, find(str(folder), FolderOptions(columns=tuple(mapped.items()))))
    table = "[columns]\n" + "".join(f'{name} = "{column}"\n' for name, column in mapped.items())
    (folder / "recipe.toml").write_text(table, encoding="utf-8")
    named = find(str(folder))
    assert same_as_plain(tmp_path, named)
    for name, wrong in (("user_id", "uuid"), ("item_id", "asni"), ("timestamp", "time")):
        with pytest.raises(
            UserError, match=f"no column '{wrong}', which is to be {name}; its columns are uid"
        ):
            read(find(str(folder), FolderOptions(columns=((name, wrong),))))


def test_the_message_on_unknown_columns_explains_how_to_map_them(tmp_path):
    folder = write(tmp_path / "own", [("user", "asin", "time"), *interaction_rows()], PLAIN_ITEMS)
    with pytest.raises(UserError) as caught:
        read(recipe_of(folder))
    assert "its columns are user, asin, time" in str(caught.value)
    assert "--columns user_id=user,item_id=COLUMN,timestamp=time" in str(caught.value)


def test_a_mapping_to_copy_is_quoted_for_a_shell(tmp_path):
    folder = write(tmp_path / "own", [("user_id", " item_id", "timestamp"), *interaction_rows()], PLAIN_ITEMS)
    with pytest.raises(UserError, match=r"--columns 'item_id= item_id', or") as caught:
        read(recipe_of(folder))
    parser = Parser("run", "")
    add_reading(parser)
    given = shlex.split(str(caught.value).partition("with ")[2].partition(", or")[0])
    assert same_as_plain(tmp_path, find(str(folder), reading(parser.parse_args(given))))


def test_text_fields_of_other_names_and_an_item_id_that_is_not_meant(tmp_path):
    items = [("item_id", "asin", "name"), *((n, item, text) for n, (item, text) in enumerate(TEXTS.items()))]
    folder = write(tmp_path / "own", PLAIN_ROWS, items)
    (folder / "recipe.toml").write_text('text_fields = ["title"]', encoding="utf-8")
    assert same_as_plain(
        tmp_path, find(str(folder), FolderOptions(columns=(("item_id", "asin"), ("title", "name"))))
    )
    (folder / "recipe.toml").unlink()
    result = read(find(str(folder), FolderOptions(columns=(("item_id", "asin"),))))
    assert result.texts == [*TEXTS.values()], "an id is no text"


def test_columns_of_parquet_of_other_names(tmp_path):
    users, items, times = zip(*interaction_rows(), strict=True)
    recipe = parquet(
        tmp_path / "own", {"u": users, "i": items, "t": times}, {"i": [*TEXTS], "title": [*TEXTS.values()]}
    )
    mapped = (("user_id", "u"), ("item_id", "i"), ("timestamp", "t"))
    assert same_as_plain(tmp_path, find(str(recipe.source), FolderOptions(columns=mapped)))


def moments(texts: list[str], folder: Path, **options: Any) -> list[int | float]:
    rows = [HEADER, *(("u", item, text) for item, text in zip("abcd", texts, strict=False))]
    return read(recipe_of(write(folder, rows, PLAIN_ITEMS), **options)).times


def ticks(*moment: int) -> int:
    return int(dt.datetime(*moment, tzinfo=dt.UTC).timestamp()) * 10**6


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2024-01-02", "1969-12-31"], [ticks(2024, 1, 2), -86_400 * 10**6]),
        (["2024-01-02T03:04", "2024-01-02 03:04:05"], [ticks(2024, 1, 2, 3, 4), ticks(2024, 1, 2, 3, 4, 5)]),
        (["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.250+02:00"], [0, -7_200 * 10**6 + 250_000]),
        (["2024-01-02T03:04:05", "2024-01-02T03:04:05+0100"], [0, -3_600 * 10**6]),  # no zone counts as UTC
        (["2024-01-02T03:04:05.1234567", "2024-01-02T03:04:05"], [123_456, 0]),
    ],
)
def test_iso_8601_times(tmp_path, texts, expected):
    base = 0 if expected[0] > 10**9 else ticks(2024, 1, 2, 3, 4, 5)
    result = moments(texts, tmp_path / "own")
    assert result == [base + entry for entry in expected] and all(isinstance(entry, int) for entry in result)


@pytest.mark.parametrize(
    "wrong", ["1704164645", "2024-13-01", "9999-12-31", "1500-01-01T00:00:00", "noon", ""]
)
def test_what_is_no_iso_8601_time_is_a_bad_row(tmp_path, wrong):
    texts = ["2024-01-02", "2024-01-03T04:05", wrong, "2024-01-04"]
    with pytest.raises(UserError, match=f"line 4: timestamp '{wrong}' is not an ISO 8601 date"):
        moments(texts, tmp_path / "own")
    result = moments(texts, tmp_path / "skipped", bad_rows="skip")
    assert result == [ticks(2024, 1, 2), ticks(2024, 1, 3, 4, 5), ticks(2024, 1, 4)]


BASE = {"user_id": ["u", "u", "u"], "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]}
ITEMS = {"item_id": ["a", "b", "c"], "title": ["x", "y", "z"]}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([7.0, 8.0, 9.0], pa.float64()),
        pa.array([7.0, 8.0, 9.0], pa.float32()),
        pa.array(np.asarray([7, 8, 9], np.float16)),
        pa.array([decimal.Decimal(n) for n in (7, 8, 9)], pa.decimal128(20, 3)),
        pa.array([7, 8, 9], pa.uint8()),
        pa.array(["7", "8", "9"], pa.string_view()),
        pa.array(["7", "8", "9"], pa.large_string()),
        pa.array(["7", "8", "9"]).dictionary_encode(),
    ],
    ids=str,
)
def test_parquet_ids_that_are_exact(tmp_path, column):
    recipe = parquet(tmp_path / "own", {**BASE, "item_id": column}, {**ITEMS, "item_id": ["7", "8", "9"]})
    assert read(recipe).items == ["7", "8", "9"]
    other = parquet(tmp_path / "other", {**BASE, "item_id": ["7", "8", "9"]}, {**ITEMS, "item_id": column})
    assert read(other).item_ids == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1.0, 2**24 + 1.0, 3.0], pa.float32(), r"row 2: .*'user_id' has the type float .* 16,777,216 on"),
        ([1.0, 2.0, 2.0**53], pa.float64(), r"row 3: .*the type double .* from 9,007,199,254,740,99"),
        ([1.5, 2.0, 3.0], pa.float64(), r"row 1: .*the type double and here the value 1\.5; ids"),
        ([float("inf"), 2.0, 3.0], pa.float64(), r"row 1: .*the value inf; ids must be whole"),
        ([decimal.Decimal("1.5")] * 3, pa.decimal128(9, 2), r"row 1: .*128\(9, 2\) and here the value 1\.50"),
        ([b"1", b"2", b"3"], pa.binary(), r"'user_id' has the type binary, .* store it as string or int64"),
        ([True, True, False], pa.bool_(), r"'user_id' has the type bool, .* store it as string or int64"),
        ([["a"]] * 3, pa.list_(pa.string()), r"'user_id' has the type list<.*, which is not read as user_id"),
    ],
)  # fmt: skip
def test_parquet_ids_that_lost_something_or_are_not_read(tmp_path, values, kind, message):
    recipe = parquet(tmp_path / "own", {**BASE, "user_id": pa.array(values, kind)}, ITEMS)
    with pytest.raises(UserError, match=message) as caught:
        read(recipe)
    assert "\n" not in str(caught.value)


def test_a_gap_among_ids_that_pandas_stored_as_floats_is_a_bad_row(tmp_path):
    column = pa.array([1.0, float("nan"), None], from_pandas=False)
    recipe = parquet(tmp_path / "own", {**BASE, "user_id": column}, ITEMS)
    with pytest.raises(UserError, match="row 2: user_id or item_id is empty"):
        read(recipe)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([decimal.Decimal(n) for n in (3, 1, 2)], pa.decimal128(20, 0)), [3, 1, 2]),
        (pa.array([decimal.Decimal(n) / 2 for n in (3, 1, 2)], pa.decimal128(20, 1)), [1.5, 0.5, 1.0]),
        (pa.array([1, 2, 2**63], pa.uint64()), [1.0, 2.0, 2.0**63]),
        (pa.array([dt.date(2024, 1, 2)] * 3), [ticks(2024, 1, 2) * 1000] * 3),
        (pa.array(["2024-01-02"] * 3, pa.string_view()), [ticks(2024, 1, 2)] * 3),
    ],
)
def test_parquet_times(tmp_path, column, expected):
    assert read(parquet(tmp_path / "own", {**BASE, "timestamp": column}, ITEMS)).times == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_date_out_of_range_is_a_bad_row(tmp_path, unit):
    times = [dt.datetime(2024, 1, 2), dt.datetime(9999, 12, 31), dt.datetime(2024, 1, 3)]
    recipe = parquet(tmp_path / "own", {**BASE, "timestamp": pa.array(times, pa.timestamp(unit))}, ITEMS)
    with pytest.raises(
        UserError, match=r"row 2: timestamp '9999-12-31.*' is not a moment of the years 1678 to"
    ):
        read(recipe)
    result = read(recipe_of(tmp_path / "own", bad_rows="skip"))
    assert result.times == [ticks(2024, 1, 2) * 1000, ticks(2024, 1, 3) * 1000]


@pytest.mark.parametrize(
    "kind", [pa.bool_(), pa.binary(), pa.duration("s"), pa.time64("us"), pa.null()], ids=str
)
def test_a_time_of_another_type_is_named(tmp_path, kind):
    recipe = parquet(tmp_path / "own", {**BASE, "timestamp": pa.nulls(3, kind)}, ITEMS)
    message = (
        "'timestamp' has the type .*, which is not read as timestamp; store it as int64, double or timestamp"
    )
    with pytest.raises(UserError, match=message):
        read(recipe)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.list_(pa.string())),
        pa.list_(pa.string_view()),
    ],
    ids=str,
)
def test_lists_of_texts_are_joined_as_publishers_are(tmp_path, kind):
    nested = kind.value_type == pa.list_(pa.string())
    values = [["red", "pen", "red"], [], None]
    column = pa.array([[value] if nested and value else value for value in values], kind)
    recipe = parquet(tmp_path / "own", BASE, {**ITEMS, "title": column})
    assert read(recipe).texts == ["red pen", "", ""]


def invalid(count: int) -> Any:
    """Strings of two bytes that are not UTF-8."""
    ends = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * 2)
    return pa.Array.from_buffers(pa.string(), count, [None, ends, pa.py_buffer(b"\xff\xfe" * count)])


@pytest.mark.parametrize(("file", "name"), [("interactions", "user_id"), ("items", "title")])
def test_bytes_of_parquet_that_are_not_utf_8_are_refused_or_replaced(tmp_path, file, name):
    wrong = {name: invalid(3)}
    both = {"interactions": BASE, "items": ITEMS}
    both[file] = {**both[file], **wrong}
    recipe = parquet(tmp_path / "own", both["interactions"], both["items"])
    with pytest.raises(UserError, match=rf"{file}\.parquet, row 1: byte 0xff is not UTF-8; .*bad_bytes"):
        read(recipe)
    assert read(recipe_of(tmp_path / "own", bad_bytes="replace")).repairs["undecodable bytes replaced"] == 6


def test_lists_of_bytes_that_are_not_utf_8_are_refused(tmp_path):
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), invalid(3))
    with pytest.raises(UserError, match="'title' has bytes that are not UTF-8, between the rows 1 and 3"):
        read(parquet(tmp_path / "own", BASE, {**ITEMS, "title": lists}))


def test_columns_that_can_be_no_text_are_named_where_there_is_no_other(tmp_path):
    recipe = parquet(tmp_path / "own", BASE, {**ITEMS, "title": [{"a": "x"}] * 3})
    with pytest.raises(UserError, match=r"has no text column: title \(struct<a: string>\) cannot be"):
        read(recipe)


def test_a_text_of_another_type_is_named_where_it_is_asked_for(tmp_path):
    recipe = parquet(tmp_path / "own", BASE, {**ITEMS, "image": [b"1", b"2", b"3"]})
    assert read(recipe).texts == ["x", "y", "z"]
    with pytest.raises(
        UserError, match="'image' has the type binary, which is not read as text; store it as"
    ):
        read(recipe_of(tmp_path / "own", text_fields=("image",)))


@pytest.mark.parametrize(("ours", "theirs"), [("{}.0", "{}"), ("{}", "{}.0")])
def test_ids_with_a_fraction_of_zero_match_those_without(tmp_path, ours, theirs):
    rows = [HEADER, *((user, ours.format(ord(item)), time) for user, item, time in interaction_rows())]
    items = [("item_id", "title"), *((theirs.format(ord(item)), text) for item, text in TEXTS.items())]
    made = prepare(recipe_of(write(tmp_path / "own", rows, items)), tmp_path / "cache")
    assert made.item_ids == [theirs.format(ord(item)) for item in TEXTS]
    count = sum(len(items.split()) for items in USERS.values())
    assert made.fingerprint["interactions"] == count and [*made.fingerprint["repairs"].values()] == [count]


def test_ids_with_and_without_a_fraction_in_one_file_stay_two(tmp_path):
    rows = [HEADER, ("u", "1", 1), ("u", "1.0", 2), ("u", "2", 3)]
    items = [("item_id", "title"), ("1", "one"), ("1.0", "one point zero"), ("2.0", "two")]
    result = read(recipe_of(write(tmp_path / "own", rows, items)))
    assert result.items == ["1", "1.0", "2.0"]
    rows.append(("u", "1.00", 4))
    with pytest.raises(UserError, match=r"item '1\.00' is not in the items file"):
        prepare(recipe_of(write(tmp_path / "two", rows, items)), tmp_path / "cache")


READINGS = [
    FolderOptions(),
    FolderOptions(recipe="games"),
    FolderOptions("beauty", (("user_id", "uid"), ("timestamp", "a b=c")), ";"),
    FolderOptions(separator="\t"),
]


@pytest.mark.parametrize("given", READINGS, ids=lambda given: " ".join(given.words()))
def test_a_child_of_a_bench_reads_the_folder_as_a_run_by_hand(given):
    spec = RunSpec("folder", "minilm", "ssna", "fair", 3, ("epochs=1",), given)
    words = run_command(spec, Options(Path("results")))
    parser = Parser("run", "")
    run_options.add_arguments(parser)
    assert specs_from_json(parser.parse_args(words[words.index("run") + 1 :]).spec) == [spec]
    assert reading(parser.parse_args([*given.words()])) == given


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--columns", "user_id"], "'user_id' is not NAME=COLUMN"),
        (["--columns", "user_id=a,user_id=b"], "is not NAME=COLUMN,... with each name once"),
        (["--columns", "user_id="], "is not NAME=COLUMN"),
        (["--separator", ""], "it must be one character"),
    ],
)
def test_reading_options_with_a_bad_value_are_refused(words, message):
    parser = Parser("run", "")
    add_reading(parser)
    with pytest.raises(UserError, match=message):
        parser.parse_args(words)
    assert reading(parser.parse_args(["--separator", "\\t"])).separator == "\t"
