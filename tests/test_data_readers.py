from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from data_folders import TEXTS, interaction_rows, lines, read, recipe_of, write_folder, write_unisrec

from benchmark.data import text_files
from benchmark.data.prepare import prepare
from methods.errors import UserError

HEADER = "user_id\titem_id\ttimestamp\n"


def summary(raw):
    return raw.users, raw.items, raw.times, raw.item_ids, raw.texts


@pytest.fixture
def plain(tmp_path):
    return write_folder(tmp_path / "plain")


def test_all_plain_formats_read_the_same(tmp_path, plain):
    expected = summary(read(recipe_of(plain)))
    interactions = pd.DataFrame(interaction_rows(), columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": TEXTS.keys(), "title": TEXTS.values()})
    csv, parquet, recbole = (tmp_path / name for name in ("csv", "parquet", "recbole"))
    for folder in (csv, parquet, recbole):
        folder.mkdir()
    interactions.to_csv(csv / "interactions.csv", index=False)
    items.to_csv(csv / "items.csv", index=False)
    interactions.to_parquet(parquet / "interactions.parquet")
    items.to_parquet(parquet / "items.parquet")
    typed = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
    interactions.rename(columns=typed).to_csv(recbole / "toy.inter", index=False, sep="\t")
    typed_items = items.assign(price=1.5).rename(
        columns={"item_id": "item_id:token", "title": "title:token_seq", "price": "price:float"}
    )
    typed_items.to_csv(recbole / "toy.item", index=False, sep="\t")
    for folder in (csv, parquet, recbole):
        recipe = recipe_of(folder)
        assert recipe.format == folder.name
        assert summary(read(recipe)) == expected


def test_parquet_types_become_text_and_time(tmp_path):
    times = pd.to_datetime(["2020-01-03", "2020-01-01", "2020-01-02"])
    pd.DataFrame({"user_id": [1, 1, 1], "item_id": [7, 8, 9], "timestamp": times}).to_parquet(
        tmp_path / "interactions.parquet"
    )
    pd.DataFrame(
        {
            "item_id": [7, 8, 9],
            "price": [1.0, 2.0, 3.0],
            "title": ["x", None, "z"],
            "tags": [["t"], ["u"], []],
        }
    ).to_parquet(tmp_path / "items.parquet")
    raw = read(recipe_of(tmp_path))
    assert raw.items == ["7", "8", "9"] and raw.texts == ["x t", "u", "z"]
    assert np.argsort(raw.times).tolist() == [1, 2, 0]


def test_text_fields_are_joined_in_the_declared_order(plain):
    table = lines([("item_id", "title", "brand"), *((item, text, "Acme") for item, text in TEXTS.items())])
    (plain / "items.tsv").write_text(table, encoding="utf-8")
    assert read(recipe_of(plain)).texts[0] == "red pen Acme"
    assert read(recipe_of(plain, text_fields=("brand", "title"))).texts[0] == "Acme red pen"
    assert read(recipe_of(plain, text_fields=("brand",))).texts[0] == "Acme"


def test_byte_order_mark_crlf_quotes_and_blank_lines(plain):
    rows = ('a\t"red\tpen, 8"" long"', 'b\t"blue\r\npen"', "", 'c\tmug 8" wide', "d\tgrey mug", "")
    text = "\ufeffitem_id\ttitle\r\n" + "\r\n".join(rows)
    (plain / "items.tsv").write_bytes(text.encode())
    assert read(recipe_of(plain)).texts == ['red pen, 8" long', "blue pen", 'mug 8" wide', "grey mug"]


def test_lines_are_counted_past_quoted_line_ends(plain):
    (plain / "items.tsv").write_text('item_id\ttitle\na\t"two\nlines"\nb\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"items\.tsv, line 4: 1 fields where the header has 2"):
        read(recipe_of(plain))


def test_bad_byte_is_named_after_a_byte_order_mark(plain):
    (plain / "items.tsv").write_bytes(b"\xef\xbb\xbfitem_id\ttitle\na\tx\n\xfdb\ty\n")
    with pytest.raises(UserError, match="line 3: byte 0xfd is not UTF-8"):
        read(recipe_of(plain))


def test_quotes_as_ordinary_characters(plain):
    rows = {"a": '"Rhythm" ocarina', "b": 'pen 1/4"', "c": '"open', "d": "mug"}
    (plain / "items.tsv").write_text(lines([("item_id", "title"), *rows.items()]), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: bad quoting .*quotes = \"none\""):
        read(recipe_of(plain))
    assert read(recipe_of(plain, quotes="none")).texts == list(rows.values())


def test_an_unclosed_quote_is_never_skipped(plain):
    (plain / "items.tsv").write_text('item_id\ttitle\na\t"open\nb\tpen\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: a quoted field is never closed"):
        read(recipe_of(plain, bad_rows="skip"))


SWALLOWED = ["disc 0", '"Greatest hits', "disc 2", "disc 3", 'vinyl 12"', "disc 5"]
"""An opening quote in one title, a closing one three rows later."""


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
@pytest.mark.parametrize("block", [8 << 20, 10])
def test_rows_that_a_quote_merges_are_an_error(plain, monkeypatch, bad_rows, block):
    monkeypatch.setattr(text_files, "BLOCK", block)
    rows = [("item_id", "title"), *zip("abcdef", SWALLOWED, strict=True)]
    (plain / "items.tsv").write_text(lines(rows), encoding="utf-8")
    fault = r"items\.tsv, line 3: lines 3 to 6 are one row.* has the 2 fields of a row; set quotes = \"none\""
    with pytest.raises(UserError, match=fault):
        read(recipe_of(plain, bad_rows=bad_rows))
    assert read(recipe_of(plain, quotes="none")).texts == SWALLOWED


def test_rows_that_a_quote_may_have_merged_are_counted_where_texts_have_commas(tmp_path, plain):
    rows = [("item_id", "title"), *((f"i{n}", title) for n, title in enumerate([*SWALLOWED, '"a', 'b"']))]
    (plain / "items.tsv").rename(plain / "items.csv")
    (plain / "interactions.tsv").rename(plain / "interactions.csv")
    (plain / "items.csv").write_text(lines(rows, ","), encoding="utf-8")
    (plain / "interactions.csv").write_text(
        HEADER.replace("\t", ",") + "u,i0,1\nu,i1,2\nu,i5,3\nu,i6,4\n", encoding="utf-8"
    )
    made = prepare(recipe_of(plain), tmp_path / "cache")
    fault = "2 quoted fields of several lines that look like rows of their own (the first on line 3 of"
    assert fault in made.warnings[0]


def test_a_field_of_several_lines_is_no_merged_row(plain):
    text = 'item_id\ttitle\na\t"two\nlines"\nb\t"with\ta tab\nand two\tof\tthem"\n'
    (plain / "items.tsv").write_text(text, encoding="utf-8")
    result = read(recipe_of(plain))
    assert result.texts == ["two lines", "with a tab and two of them"] and not result.repairs


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("interactions.tsv", "user\titem_id\ttimestamp\n", r"interactions\.tsv has a header but no rows"),
        ("interactions.tsv", "", r"interactions\.tsv is empty"),
        ("items.tsv", " \n", r"items\.tsv is empty"),
        (
            "interactions.tsv",
            "user\titem_id\ttimestamp\nu\ta\t1\n",
            r"no column 'user_id'; .*--columns user_id=user,?",
        ),
        (
            "interactions.tsv",
            "user_id\titem_id\nu\ta\n",
            r"no column 'timestamp'; its columns are user_id, item_id",
        ),
        ("items.tsv", "item_id\na\n", "has no text column"),
        ("items.tsv", "item_id\ttitle\ttitle\na\tb\tc\n", "line 1: the column 'title' occurs twice"),
    ],
)
def test_wrong_shape_is_always_an_error(plain, file, content, message):
    (plain / file).write_text(content, encoding="utf-8")
    recipe = recipe_of(plain, bad_rows="skip", bad_bytes="replace", unknown_items="drop")
    with pytest.raises(UserError, match=message) as caught:
        read(recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message", "repair", "count"),
    [
        (
            "interactions.tsv",
            f"{HEADER}u\ta\t1\nu\tb\tnoon\n",
            "line 3: timestamp 'noon' is not a number",
            "bad_rows",
            1,
        ),
        (
            "interactions.tsv",
            f"{HEADER}u\ta\t1\nu\tb\tinf\n",
            "line 3: timestamp 'inf' is not a number",
            "bad_rows",
            1,
        ),
        (
            "interactions.tsv",
            f"{HEADER}u\ta\t1\nu\tb\t\n",
            "line 3: timestamp '' is not a number",
            "bad_rows",
            1,
        ),
        (
            "interactions.tsv",
            f"{HEADER}u\ta\t1\n\tb\t2\n",
            "line 3: user_id or item_id is empty",
            "bad_rows",
            1,
        ),
        (
            "interactions.tsv",
            f"{HEADER}u\ta\t1\nu\tb\n",
            "line 3: 2 fields where the header has 3",
            "bad_rows",
            1,
        ),
        ("items.tsv", "item_id\ttitle\na\tx\n\ty\n", "line 3: item_id is empty", "bad_rows", 1),
        (
            "items.tsv",
            b"item_id\ttitle\na\tx\nb\t\xff\xfe\n",
            "line 3: byte 0xff is not UTF-8",
            "bad_bytes",
            2,
        ),
        (
            "items.tsv",
            "item_id\ttitle\na\tx\nb\tx\na\ty\n",
            "line 4: item_id 'a' is already on line 2",
            "duplicate_items",
            1,
        ),
        (
            "items.tsv",
            f"item_id\ttitle\na\tx\nb\t{'y' * 100_000}\n",
            "line 3: the text has 100,000 char",
            "long_texts",
            1,
        ),
        (
            "items.tsv",
            f"item_id\ttitle\na\tx\nb\t{'y' * 200_000}\n",
            "line 3: the text has 200,000 char",
            "long_texts",
            1,
        ),
    ],
)
def test_faults_name_file_and_row_or_are_repaired_and_counted(plain, file, content, message, repair, count):
    (plain / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        read(recipe_of(plain))
    assert "\n" not in str(caught.value) and str(plain / file) in str(caught.value)
    assert repair in str(caught.value)
    word = {"bad_rows": "skip", "bad_bytes": "replace", "duplicate_items": "first", "long_texts": "cut"}[
        repair
    ]
    raw = read(recipe_of(plain, **{repair: word}))
    assert sum(raw.repairs.values()) == count
    assert max(map(len, raw.texts)) <= 10_000


def test_whole_times_keep_their_precision(plain):
    big = 1_600_000_000_123_456_789  # nanoseconds, beyond what float64 tells apart
    (plain / "interactions.tsv").write_text(f"{HEADER}u\ta\t{big + 1}\nu\tb\t{big}\n", encoding="utf-8")
    assert read(recipe_of(plain)).times == [big + 1, big]


def test_parquet_faults(tmp_path):
    (tmp_path / "interactions.parquet").write_bytes(b"not parquet")
    pd.DataFrame({"item_id": ["a"], "title": ["x"]}).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"interactions\.parquet is not a readable Parquet file"):
        read(recipe_of(tmp_path))
    frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "a"], "timestamp": [1.0, None]})
    frame.to_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(UserError, match=r"interactions\.parquet, row 2: timestamp '' is not a number"):
        read(recipe_of(tmp_path))


def test_recbole_header_needs_types(tmp_path):
    (tmp_path / "toy.inter").write_text(
        "user_id\titem_id:token\ttimestamp:float\nu\ta\t1\n", encoding="utf-8"
    )
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\na\tx\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: the header cell 'user_id' is not name:type"):
        read(recipe_of(tmp_path))


def test_missing_companion_file(plain):
    (plain / "items.tsv").unlink()
    with pytest.raises(
        UserError, match=r"lacks items\.tsv; the format tsv needs interactions\.tsv, items\.tsv"
    ):
        read(recipe_of(plain))


USERS = {"u": list("abcdefabc"), "v": list("bca"), "w": list("fedcba")}
NAMES = {item: f'text "{item}"' for item in "abcdef"}


def test_unisrec_sequences_are_rebuilt_past_the_cut(tmp_path):
    write_unisrec(tmp_path, USERS, NAMES, cut=3)
    raw = read(recipe_of(tmp_path))
    result = (
        pd.DataFrame({"user": raw.users, "item": raw.items}).groupby("user", sort=False)["item"].agg(list)
    )
    assert result.to_dict() == USERS
    assert dict(zip(raw.item_ids, raw.texts, strict=True)) == NAMES


def test_unisrec_files_that_disagree(tmp_path):
    write_unisrec(tmp_path, USERS, NAMES)
    test = tmp_path / "X.test.inter"
    good = test.read_text(encoding="utf-8")
    test.write_text(good.replace("1\t1 2\t0", "1\t2 1\t0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"X\.test\.inter, line 3: item_id_list does not continue"):
        read(recipe_of(tmp_path))
    test.write_text("\n".join(good.splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"X\.train\.inter, line \d+: user '2' needs one line in"):
        read(recipe_of(tmp_path))
    test.write_text(good, encoding="utf-8")
    (tmp_path / "X.item2index").write_text("a\t0\nb\tone\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"X\.item2index, line 2: expected an id, a tab and its index"):
        read(recipe_of(tmp_path))
    (tmp_path / "X.item2index").write_text("a\t0\nb\t1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"X\.test\.inter, line 2: item 2 is not in .*X\.item2index"):
        read(recipe_of(tmp_path))
