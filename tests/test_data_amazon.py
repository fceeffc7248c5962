"""Readers of publishers' files on made-up rows in the true schemas, a fault at a time."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raw_server import amazon_2014, amazon_2018, amazon_2023, asin, interactions, movielens

from benchmark.data.amazon import read_amazon
from benchmark.data.cleaning import field_text
from benchmark.data.movielens import read_movielens
from benchmark.data.raw import RawFile
from benchmark.data.recipe import Recipe
from methods.errors import UserError

FIELDS = {
    "amazon-2014": ("title", "categories", "brand"),
    "amazon-2018": ("title", "category", "brand"),
    "amazon-2023": ("title", "categories", "store"),
    "movielens": ("title", "genres"),
}
RATINGS = "B1,A1,5.0,1400000000\nB2,A1,4.0,1400086400\nB1,A2,1.0,1400000000\n"
ITEM = {"asin": "B1", "title": "Pen", "category": ["Office", "Pens"], "brand": "Acme"}


def recipe_of(kind: str = "amazon-2018", **options: Any) -> Recipe:
    return Recipe("own", format=kind, **{"text_fields": FIELDS[kind], **options})


def read(
    folder: Path, interactions: str | bytes, items: str | bytes = "", recipe: Recipe | None = None
) -> tuple[list[tuple[str, str, int, int]], dict[str, str], dict[str, int]]:
    """Interactions (user, item, time, line), texts of the items, repairs."""
    recipe = recipe or recipe_of()
    files = {"interactions": folder / "interactions", "items": folder / "items"}
    for path, content in zip(files.values(), (interactions, items or json.dumps(ITEM)), strict=True):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return taken(read_amazon(files, recipe, Counter()))


def taken(raw: Any) -> tuple[list[tuple[str, str, int, int]], dict[str, str], dict[str, int]]:
    texts = {row["item_id"]: row["text"] for batch in raw.items for row in batch.to_pylist()}
    rows = [tuple(row.values()) for batch in raw.interactions for row in batch.to_pylist()]
    return rows, texts, {what: count for what, count in raw.repairs.items() if count}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "files", "unit"),
    [
        ("amazon-2014", amazon_2014(), 1),
        ("amazon-2018", amazon_2018(), 1),
        ("amazon-2023", amazon_2023(), 1000),
    ],
)
def test_every_edition_gives_the_same_data(tmp_path: Path, kind: str, files: dict[str, bytes], unit: int):
    reviews, metadata = files.values()
    rows, texts, repairs = read(tmp_path, reviews, metadata, recipe_of(kind, clean="html"))
    expected = [(user, item, time * unit + (7 if unit > 1 else 0)) for user, item, time in interactions()]
    assert [row[:3] for row in rows] == expected
    assert [row[3] for row in rows] == list(range(1 + (unit > 1), len(rows) + 1 + (unit > 1)))  # a header
    assert list(texts) == [asin(item) for item in range(30)]
    categories = {
        "amazon-2014": "Beauty Hair steel O'Neil",
        "amazon-2018": "Industrial & Scientific steel Acme",
    }
    assert texts[asin(0)] == f"Steel & steel box no. 0 {categories.get(kind, 'Beauty steel Acme')}"
    assert repairs == {"fields freed of markup": 30}


def test_the_2014_and_2018_ratings_differ_in_the_order_of_columns(tmp_path: Path):
    assert read(tmp_path, RATINGS)[0][1] == ("A1", "B2", 1400086400, 2)
    kind = "amazon-2014"
    swapped = "A1,B2,4.0,1400086400\n"
    assert read(tmp_path, swapped, repr(ITEM), recipe_of(kind, text_fields=("title",)))[0] == [
        ("A1", "B2", 1400086400, 1)
    ]


def test_reviews_and_ratings_of_2018_give_the_same_data(tmp_path: Path):
    reviews = "".join(
        json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": int(time), "overall": 5.0}) + "\n"
        for item, user, _, time in (line.split(",") for line in RATINGS.splitlines())
    )
    assert read(tmp_path, reviews)[0] == read(tmp_path, RATINGS)[0]


def test_a_clean_block_and_one_with_a_fault_are_read_alike(tmp_path: Path):
    quick, _, _ = read(tmp_path, RATINGS)
    slow, _, repairs = read(
        tmp_path, RATINGS.replace("\n", "\r\n") + "\r\nB1,A3\r\n", "", recipe_of(bad_rows="skip")
    )
    assert slow == quick and repairs == {"bad rows skipped": 1}


def test_blocks_end_anywhere(tmp_path: Path, monkeypatch):
    expected = read(tmp_path, *amazon_2018().values())
    for size in (7, 1000, 4096):
        monkeypatch.setattr("benchmark.data.text_files.BLOCK", size)
        assert read(tmp_path, *amazon_2018().values()) == expected


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("B1,A1,5.0", "3 fields where ratings have 4"),
        ("B1,,5.0,1400000000", "the user or the item is empty"),
        ("B1,A1,5.0,soon", "timestamp 'soon' is not a whole number"),
        ("B1,A1,5.0,1_4", "timestamp '1_4' is not a whole number"),
        ("B1,A1,5.0,99999999999999999999", "is not a whole number"),
    ],
)
def test_a_bad_rating_is_named_or_skipped(tmp_path: Path, line: str, fault: str):
    with pytest.raises(UserError, match=rf"interactions, line 4: .*{fault}.*bad_rows = \"skip\""):
        read(tmp_path, RATINGS + line + "\n")
    rows, _, repairs = read(tmp_path, RATINGS + line + "\n" + RATINGS, "", recipe_of(bad_rows="skip"))
    assert len(rows) == 6 and rows[3][3] == 5 and repairs == {"bad rows skipped": 1}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"reviewerID": "A1", "asin": "B1"', "not JSON"),
        ('{"reviewerID": "A1", "unixReviewTime": 1400000000}', "no asin"),
        ('{"reviewerID": "", "asin": "B1", "unixReviewTime": 1400000000}', "no reviewerID"),
        ('{"reviewerID": "A1", "asin": "B1"}', "timestamp None is not a whole number"),
        ("[1]", "a list where a table of fields is needed"),
    ],
)
def test_a_bad_review_is_named_or_skipped(tmp_path: Path, line: str, fault: str):
    good = '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1400000000}\n'
    with pytest.raises(UserError, match=rf"interactions, line 2: {fault}"):
        read(tmp_path, good + line + "\n")
    rows, _, repairs = read(tmp_path, good + line + "\n", "", recipe_of(bad_rows="skip"))
    assert len(rows) == 1 and repairs == {"bad rows skipped": 1}


@pytest.mark.parametrize(
    ("kind", "line", "fault"),
    [
        ("amazon-2018", '{"title": "no id"}', "no asin"),
        ("amazon-2018", '{"asin": 7}', "no asin"),
        ("amazon-2018", "{'asin': 'B2'}", "not JSON"),
        ("amazon-2014", '{"asin": null}', "not a Python literal"),
        ("amazon-2014", "{'asin': __import__('os').getcwd()}", "not a Python literal"),
        ("amazon-2014", "{'asin': " + "[" * 5000 + "]" * 5000 + "}", "not a Python literal"),
    ],
)
def test_a_bad_item_is_named_or_skipped(tmp_path: Path, kind: str, line: str, fault: str):
    good = f"{ITEM!r}\n" if kind == "amazon-2014" else json.dumps(ITEM) + "\n"
    fields = ("title", "brand")
    with pytest.raises(UserError, match=rf"items, line 2: {fault}"):
        read(tmp_path, RATINGS, good + line + "\n", recipe_of(kind, text_fields=fields))
    chosen = recipe_of(kind, text_fields=fields, bad_rows="skip")
    _, texts, repairs = read(tmp_path, RATINGS, good + line + "\n", chosen)
    assert texts == {"B1": "Pen Acme"} and repairs == {"bad rows skipped": 1}


def test_negative_times_are_named_or_dropped(tmp_path: Path):
    text = RATINGS + "B1,A3,5.0,-86400\n"
    with pytest.raises(UserError, match=r"line 4: the timestamp -86400 is negative; set negative_times"):
        read(tmp_path, text)
    rows, _, repairs = read(tmp_path, text, "", recipe_of(negative_times="drop"))
    assert len(rows) == 3 and repairs == {"interactions with a negative timestamp dropped": 1}


def test_mixed_units_are_named_or_mended(tmp_path: Path):
    text = RATINGS + "B1,A3,5.0,1400000000123\n"
    with pytest.raises(UserError, match=r"line 4: .* seems to be in milliseconds, amazon-2018 has seconds"):
        read(tmp_path, text)
    rows, _, repairs = read(tmp_path, text, "", recipe_of(mixed_times="mend"))
    assert rows[3] == ("A3", "B1", 1400000000, 4)
    assert repairs == {"timestamps brought to the unit of the others": 1}
    interaction = (4, ("A3", "B1", 1_400_000_000))
    strict = RawFile(tmp_path, recipe_of("amazon-2023"), Counter())
    with pytest.raises(UserError, match=r"line 4: .* seems to be in seconds, amazon-2023 has milliseconds"):
        list(strict.corrected_times([interaction], 1000))
    mending = replace(strict, recipe=recipe_of("amazon-2023", mixed_times="mend"))
    assert list(mending.corrected_times([interaction], 1000)) == [(4, "A3", "B1", 1_400_000_000_000)]


def test_bytes_that_are_not_utf8_are_named_or_replaced(tmp_path: Path):
    items = json.dumps(ITEM).encode().replace(b"Pen", b"P\xe9n", 1)
    with pytest.raises(UserError, match="items, line 1: byte 0xe9 is not UTF-8"):
        read(tmp_path, RATINGS, items)
    _, texts, repairs = read(tmp_path, RATINGS, items, recipe_of(bad_bytes="replace"))
    assert texts["B1"].startswith("P\ufffdn ") and repairs == {"undecodable bytes replaced": 1}


def test_surrogates_are_joined_and_half_ones_named_or_replaced(tmp_path: Path):
    whole = json.dumps({**ITEM, "title": "Pen \U0001f58a"})  # JSON writes it as two halves
    assert read(tmp_path, RATINGS, whole)[1]["B1"].startswith("Pen \U0001f58a ")
    half = json.dumps(ITEM).replace("Pen", "Pen \\ud83d", 1)
    with pytest.raises(UserError, match="line 1: the text has half a surrogate pair"):
        read(tmp_path, RATINGS, half)
    assert read(tmp_path, RATINGS, half, recipe_of(bad_bytes="replace"))[1]["B1"].startswith("Pen \ufffd ")
    literal = repr(ITEM).replace("Pen", "Pen \\ud83d\\udd8a", 1)  # Python 2 wrote two halves
    recipe = recipe_of("amazon-2014", text_fields=("title",))
    assert read(tmp_path, "A1,B1,5.0,1400000000\n", literal, recipe)[1] == {"B1": "Pen \U0001f58a"}


def test_a_file_cut_short_is_one_line(tmp_path: Path):
    reviews, metadata = amazon_2018().values()
    with pytest.raises(UserError, match=r"items is damaged or cut short .*delete it and get it again"):
        read(tmp_path, reviews, metadata[:-20])


def test_a_line_without_end_is_no_text(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("benchmark.data.text_files.BLOCK", 100)
    monkeypatch.setattr("benchmark.data.text_files.LONGEST", 1000)
    with pytest.raises(UserError, match=r"interactions, line 1: no line end within .* is it a text file"):
        read(tmp_path, "x" * 5000)


def test_files_without_rows(tmp_path: Path):
    with pytest.raises(UserError, match="interactions has no usable rows"):
        read(tmp_path, "")
    with pytest.raises(UserError, match="items has no usable rows"):
        read(tmp_path, RATINGS, gzip.compress(b""))


def test_a_field_that_no_item_has_gives_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match=r"no item of .*items has 'titel'\. Did you mean 'title'\?"):
        read(tmp_path, RATINGS, "", recipe_of(text_fields=("titel", "brand")))
    _, texts, _ = read(tmp_path, RATINGS, '{"asin": "B2"}\n' + json.dumps(ITEM), recipe_of())
    assert texts == {"B2": "", "B1": "Pen Office Pens Acme"}


def test_messages_name_file_and_line(tmp_path: Path):
    files = {role: tmp_path / role for role in ("interactions", "items")}
    raw = read_amazon(files, recipe_of(), Counter())
    assert str(raw.place(7)) == f"{tmp_path}/interactions, line 7"
    assert str(raw.item_place(3)) == f"{tmp_path}/items, line 3"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Tom &amp; Jerry&#39;s", "Tom & Jerry's"),
        ("Salt &amp;amp; pepper", "Salt & pepper"),
        ("A <b>bold</b><br/>pen", "A bold pen"),
        ("5 < 6 and <3 pens", "5 < 6 and <3 pens"),
        ("<script>var a = '<b>';</script>Pen<style>.a{b:c}</style>", "Pen"),
        ("<!-- hidden -->Pen", "Pen"),
        ("var aPageStart = (new Date()).getTime();", ""),
        (".a-section { margin: 0 }", ""),
        ("(function (f) { return f; })", ""),
        ([["Beauty", "Hair"], ["Beauty", "Hair", "Combs"]], "Beauty Hair Combs"),
        (["One.", "Two.", None], "One. Two."),
        ({"Brand": "Acme", "Sizes": ["S", "M"]}, "Brand Acme Sizes S Sizes M"),
        (7, "7"),
        (None, ""),
    ],
)
def test_cleaning_by_html(value: Any, text: str):
    assert " ".join(field_text(value, "html", Counter()).split()) == text


def test_what_cleaning_mends_is_counted():
    repairs: Counter[str] = Counter()
    for value in ("Pen", "<i>Pen</i>", "&lt;", "x.getTime()"):
        field_text(value, "html", repairs)
    assert repairs == {"fields freed of markup": 2, "fields of page code emptied": 1}
    assert field_text("<i>Pen</i> &amp;", "none", repairs) == "<i>Pen</i> &amp;"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Pen", "Pen."),
        ('8" pen...', "8 pen."),
        (["Office", "Pens &amp; pencils"], "Office Pens & pencils."),
        ("by\n  Acme", "by  Acme."),
        ("", "."),
        (".", ".."),
        ("x" * 1998, "x" * 1998 + "."),
        ("x" * 1999, ""),
    ],
)
def test_cleaning_as_unisrec_does(value: Any, text: str):
    """Expected values worked out by hand from its `clean_text`, oddities with dots included."""
    assert field_text(value, "unisrec", Counter()) == text


def test_texts_of_the_papers_sci_have_the_form_that_unisrec_cleaning_gives(real_data: Path):
    lines = (real_data / "scientific" / "items.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[1] for line in lines]
    assert all(text.endswith(".") and '"' not in text and "&amp;" not in text for text in texts)


def test_movielens_is_read_from_its_archive(tmp_path: Path):
    path = tmp_path / "ml-1m.zip"
    path.write_bytes(movielens()["ml-1m.zip"])
    rows, texts, repairs = taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))
    assert len(rows) == 720 and rows[0][2:] == (interactions()[0][2], 1) and not repairs
    assert texts["1"] == "Café steel (1995) Drama, War"
    raw = read_movielens({"archive": path}, recipe_of("movielens"), Counter())
    assert str(raw.place(3)) == f"{path}, ratings.dat line 3"


def test_faults_of_the_archive(tmp_path: Path):
    path = tmp_path / "ml-1m.zip"
    path.write_bytes(movielens()["ml-1m.zip"][:-30])
    with pytest.raises(UserError, match="is damaged"):
        taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1::5::978300760\n1::5::978300760\n")
        archive.writestr("ml-1m/movies.dat", "1::Pen (1995)::Drama\n")
    with pytest.raises(UserError, match=r"ratings\.dat line 2: not 4 fields"):
        taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))
    rows, _, repairs = taken(
        read_movielens({"archive": path}, recipe_of("movielens", bad_rows="skip"), Counter())
    )
    assert rows == [("1", "1", 978300760, 1)] and repairs == {"bad rows skipped": 1}
    with pytest.raises(UserError, match=r"'titel'\. Did you mean 'title'\?"):
        read_movielens({"archive": path}, recipe_of("movielens", text_fields=("titel",)), Counter())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match=r"has no movies\.dat"):
        taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))


@pytest.mark.parametrize("at", range(60, 460, 57))
@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_archive_is_one_line(tmp_path: Path, packing: int, at: int):
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(
            "ml-1m/ratings.dat", "".join(f"{n}::{n % 7 + 1}::5::{978300760 + n}\n" for n in range(300))
        )
        archive.writestr("ml-1m/movies.dat", "".join(f"{n}::Film {n}::Drama\n" for n in range(1, 9)))
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"ml-1m\.zip.* delete it and get it again\.$") as caught:
        taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))
    assert "\n" not in str(caught.value)


def test_an_encrypted_archive_is_one_line(tmp_path: Path):
    path = tmp_path / "ml-1m.zip"
    data = bytearray(movielens()["ml-1m.zip"])
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"ml-1m\.zip is encrypted; delete it and get it again"):
        taken(read_movielens({"archive": path}, recipe_of("movielens"), Counter()))


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path):
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1::5::978300760\n" + "1" * (50 << 20))
        archive.writestr("ml-1m/movies.dat", "1::Pen (1995)::Drama\n")
    raw = read_movielens({"archive": path}, recipe_of("movielens"), Counter())
    tracemalloc.start()
    with pytest.raises(UserError, match=r"ratings\.dat line 2 has more than 65,536 bytes"):
        list(raw.interactions)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
