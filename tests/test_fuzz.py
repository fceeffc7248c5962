"""Readers and `verify` on any bytes: they end with a result or with one line, and with no other error.

`ADAPTREC_FUZZ=N` gives N times as many examples, at random (`make fuzz`); else they are always the same.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from data_folders import TEN, TWELVE, lines, write_unisrec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_server import amazon_2014, amazon_2018, amazon_2023, movielens
from report_records import record

from benchmark.data.amazon import read_amazon
from benchmark.data.movielens import read_movielens
from benchmark.data.recipe import Recipe, checked, load_toml
from benchmark.data.tables import read_tables
from benchmark.data.unisrec import read_unisrec
from benchmark.results.index import read_index
from benchmark.results.record import read_record
from benchmark.serve.folder import read_config
from benchmark.serve.histories import read_histories
from benchmark.speed.record import read_speed
from benchmark.verify.levels import verify
from methods.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TIMES = int(os.environ.get("ADAPTREC_FUZZ", "0"))
EXAMPLES = 40
fuzzed = settings(
    max_examples=EXAMPLES * max(TIMES, 1),
    deadline=None,
    derandomize=not TIMES,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
SPLICES = (
    b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b'"', b'""', b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"nan", b"-1", b"9" * 30, b"1e999", b"{", b"}", b"[", b"]", b"::", b"null", b"true",
    b"\\u0000", b"\\ud800", b" ",
    b"[" * 3000, b"'", b"=", b"PK\x05\x06", b"\x1f\x8b",
)  # fmt: skip


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Up to four edits of a file: the share of it that lies before, bytes that go, bytes that come."""
    piece = st.sampled_from(SPLICES) | st.binary(max_size=12)
    edit = st.tuples(st.floats(0, 1), st.integers(0, 40) | st.integers(0, 100_000), piece)
    return draw(st.lists(edit, min_size=1, max_size=4))


def edited(data: bytes, changes: Sequence[tuple[float, int, bytes]]) -> bytes:
    for share, gone, come in changes:
        place = int(share * len(data))
        data = data[:place] + come + data[place + gone :]
    return data


@dataclass(frozen=True)
class Reader:
    """A good file, and a function that reads the folder in which its edited copy lies."""

    name: str
    good: bytes
    read: Callable[[Path], object]
    others: dict[str, bytes]
    """Files beside it, which stay as they are."""


def rows_of(raw: Any) -> list[Any]:
    return [batch.to_pylist() for part in (raw.interactions, raw.items) for batch in part]


def of_table(kind: str, role: str, **options: Any) -> Reader:
    delimiter = "," if kind == "csv" else "\t"
    header = ("user_id", "item_id", "timestamp")
    interactions = [
        (user, item, time) for user, items in TWELVE.items() for time, item in enumerate(items.split())
    ]
    files = {
        f"interactions.{kind}": lines([header, *interactions], delimiter).encode(),
        f"items.{kind}": lines([("item_id", "title"), *TEN.items()], delimiter).encode(),
    }
    name = f"{role}.{kind}"

    def read(folder: Path) -> object:
        paths = {part: folder / f"{part}.{kind}" for part in ("interactions", "items")}
        return rows_of(read_tables(paths, Recipe("own", format=kind, **options), Counter()))

    return Reader(name, files.pop(name), read, files)


def of_publisher(kind: str, files: dict[str, bytes], edit: int) -> Reader:
    plain = {name.removesuffix(".gz"): gzip.decompress(data) if name.endswith(".gz") else data
             for name, data in files.items()}  # fmt: skip
    names = list(plain)
    fields = ("title", "category" if kind == "amazon-2018" else "categories")

    def read(folder: Path) -> object:
        if kind == "movielens":
            recipe = Recipe("own", format=kind, text_fields=("title", "genres"))
            return rows_of(read_movielens({"archive": folder / names[0]}, recipe, Counter()))
        recipe = Recipe("own", format=kind, text_fields=fields, clean="html")
        paths = dict(zip(("interactions", "items"), (folder / name for name in names), strict=True))
        return rows_of(read_amazon(paths, recipe, Counter()))

    return Reader(names[edit], plain.pop(names[edit]), read, plain)


def of_unisrec(folder: Path, name: str) -> Reader:
    write_unisrec(folder, {user: items.split() for user, items in TWELVE.items()}, TEN)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    roles = ("train.inter", "valid.inter", "test.inter", "text", "item2index", "user2index")

    def read(folder: Path) -> object:
        paths = {role.removesuffix(".inter"): folder / f"X.{role}" for role in roles}
        return rows_of(read_unisrec(paths, Recipe("own", format="unisrec"), Counter()))

    return Reader(name, files.pop(name), read, files)


def alone(name: str, good: bytes, read: Callable[[Path], object]) -> Reader:
    return Reader(name, good, lambda folder: read(folder / name), {})


def readers(folder: Path) -> Iterator[Reader]:
    """One for each format, and for each file of it that has a grammar of its own."""
    yield of_table("tsv", "interactions")
    yield of_table("csv", "items")
    yield of_table("csv", "interactions", bad_rows="skip", bad_bytes="replace")
    yield of_publisher("amazon-2014", amazon_2014(items=3), 1)
    yield of_publisher("amazon-2018", amazon_2018(items=3), 0)
    yield of_publisher("amazon-2023", amazon_2023(items=3), 1)
    yield of_publisher("movielens", movielens(), 0)
    yield of_unisrec(folder / "train", "X.train.inter")
    yield of_unisrec(folder / "index", "X.item2index")
    toml = (ROOT / "datasets/tools/recipe.toml").read_bytes()
    yield alone("recipe.toml", toml, lambda path: checked("own", load_toml(path), path, None))
    for ending, line in (("jsonl", b'{"user": "u", "history": ["a", "b"]}\n'), ("tsv", b"u\ta b\n")):
        yield alone(f"h.{ending}", line * 5, lambda path: list(read_histories(str(path), 2)))
    record().write(folder / "record.json")
    yield alone("record.json", (folder / "record.json").read_bytes(), read_record)
    yield alone("speed.json", b'{"schema_version": 2, "variants": []}', read_speed)
    index = b"\n".join((ROOT / "results/index.jsonl").read_bytes().split(b"\n")[:3]) + b"\n"
    yield alone("index.jsonl", index, lambda path: read_index(path.parent))
    yield alone("config.json", b'{"format": 1, "files": {}}', lambda path: read_config(path.parent))


NAMES = (
    "tsv interactions", "csv items", "csv interactions, repaired", "amazon-2014", "amazon-2018",
    "amazon-2023", "movielens", "unisrec", "unisrec index", "recipe", "histories as JSON",
    "histories in tabs", "record",
    "speed record", "index", "model folder",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return dict(zip(NAMES, readers(tmp_path_factory.mktemp("good")), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_ends_with_a_result_or_one_line(name: str, made: dict[str, Reader], tmp_path: Path) -> None:
    reader = made[name]
    for other, data in {**reader.others, reader.name: reader.good}.items():
        (tmp_path / other).write_bytes(data)

    @fuzzed
    @given(changes=edits())
    def reads(changes: list[tuple[float, int, bytes]]) -> None:
        (tmp_path / reader.name).write_bytes(edited(reader.good, changes))
        with suppress(UserError):
            reader.read(tmp_path)

    reads()


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@fuzzed
@given(
    rows=st.lists(st.tuples(CELL.filter(str.strip), CELL.filter(str.strip)), min_size=1, max_size=6),
    kind=st.sampled_from(["csv", "tsv"]),
)
def test_what_a_csv_writer_wrote_is_read_as_it_was(
    rows: list[tuple[str, str]], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import csv

    folder = tmp_path_factory.mktemp("cells")
    for role, head in (
        ("interactions", ["user_id", "item_id", "timestamp"]),
        ("items", ["item_id", "title"]),
    ):
        with (folder / f"{role}.{kind}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", quoting=csv.QUOTE_ALL)
            writer.writerows([head, *([*row, "5"][: len(head)] for row in rows)])
    paths = {role: folder / f"{role}.{kind}" for role in ("interactions", "items")}
    try:
        raw = read_tables(paths, Recipe("own", format=kind), Counter())
        found = [(row["user_id"], row["item_id"]) for batch in raw.interactions for row in batch.to_pylist()]
    except UserError as error:  # a field of several lines that looks like rows is refused in a TSV
        assert kind == "tsv" and "are one row" in str(error)
        return
    assert found == rows


@pytest.fixture(scope="module")
def bundle() -> bytes:
    """A small one of committed records."""
    from benchmark.verify.bundle import make_bundle

    path = next((ROOT / "results/beauty/none/popularity").glob("*-s0.json"))
    folder = Path(os.environ["ADAPTREC_CACHE"])
    make_bundle([path], folder / "fuzz.adaptrec.zip")
    return (folder / "fuzz.adaptrec.zip").read_bytes()


def repacked(data: bytes, member: int, changes: Sequence[tuple[float, int, bytes]]) -> bytes:
    """The archive with an edited member, under a checksum of the archive that fits."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as good, zipfile.ZipFile(out, "w") as archive:
        names = good.namelist()
        for number, name in enumerate(names):
            content = good.read(name)
            changed = edited(content, changes) if number == member % len(names) else content
            archive.writestr(zipfile.ZipInfo(name), changed)
    return out.getvalue()


@fuzzed
@given(changes=edits(), member=st.integers(0, 9), whole=st.booleans())
def test_verify_refuses_or_says_why_not(
    bundle: bytes, tmp_path_factory: pytest.TempPathFactory, changes: Any, member: int, whole: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.adaptrec.zip"
    path.write_bytes(edited(bundle, changes) if whole else repacked(bundle, member, changes))
    verdict = verify(path, "L2")
    if path.read_bytes() == bundle:
        assert verdict.reached == "L2"
    else:
        assert verdict.reached != "L2" and verdict.faults
        assert not any("could not be checked" in fault or "\n" in fault for fault in verdict.faults)
