"""Malformed inputs, made from the grammar of each format: a valid input, and one named mutation of it.

A format says how a valid input looks as parts (rows and cells, keys and values, members of an archive). A
mutation breaks one part at a random place. `inputs` gives the same inputs for the same seed.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from data_folders import TEN, TWELVE, interaction_rows

PLACE = "{}"
"""Stands in a command and in a file for the folder that holds the files."""
Rows = list[list[str]]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Malformed:
    """An input that a command has to refuse."""

    format: str
    mutation: str
    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name in the folder -> content."""


Generate = Callable[[Random], Malformed]


def inputs(generators: Mapping[str, Generate], seed: int, count: int) -> Iterator[Malformed]:
    """`count` inputs, each generator's in turn, every one with random numbers of its own."""
    names = sorted(generators)
    for number in range(count):
        name = names[number % len(names)]
        yield generators[name](Random(f"{seed} {name} {number // len(names)}"))


# --- delimited tables


def interactions_table() -> Rows:
    return [["user_id", "item_id", "timestamp"], *([*map(str, row)] for row in interaction_rows(TWELVE))]


def items_table() -> Rows:
    return [["item_id", "title"], *([item, text] for item, text in TEN.items())]


def written(rows: Rows, delimiter: str = "\t") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def cell(column: int, *values: str) -> Callable[[Random, Rows], None]:
    """A mutation: another value in a random row of a column."""

    def change(random: Random, rows: Rows) -> None:
        random.choice(rows[1:])[column] = random.choice(values)

    return change


def rename(random: Random, rows: Rows) -> None:
    place = random.randrange(len(rows[0])) if len(rows[0]) == 3 else 0  # a column of text may have any name
    rows[0][place] += random.choice("sx_ 1")


def lose_cell(random: Random, rows: Rows) -> None:
    random.choice(rows[1:]).pop()


def gain_cell(random: Random, rows: Rows) -> None:
    random.choice(rows[1:]).insert(random.randrange(3), "more")


def double_column(random: Random, rows: Rows) -> None:
    place = random.randrange(len(rows[0]))
    for row in rows:
        row.append(row[place])


def lose_column(random: Random, rows: Rows) -> None:
    place = random.randrange(2)
    for row in rows:
        row.pop(place)


def no_rows(random: Random, rows: Rows) -> None:
    del rows[1:]


def short_user(random: Random, rows: Rows) -> None:
    rows += [["short", item, "1"] for item in random.sample(sorted(TEN), random.randint(1, 2))]


def item_twice(random: Random, rows: Rows) -> None:
    rows.append(list(random.choice(rows[1:])))


ROWS: dict[str, Callable[[Random, Rows], None]] = {
    "a column under another name": rename,
    "a row with a cell too few": lose_cell,
    "a row with a cell too many": gain_cell,
    "a column twice": double_column,
    "no id column": lose_column,
    "no rows": no_rows,
}
INTERACTIONS = ROWS | {
    "an empty user": cell(0, ""),
    "an empty item": cell(1, ""),
    "an unknown item": cell(1, "?", "a ", "A", "\u0430"),
    "a time that is no number": cell(2, "", "soon", "nan", "inf", "1e999", "0x10", "1,5", "12:30", "1_000"),
    "a user of two items": short_user,
}
ITEMS = ROWS | {"an item twice": item_twice, "an empty item": cell(0, "")}
BYTES: dict[str, Callable[[Random, bytes], bytes]] = {
    "no bytes": lambda random, data: b"",
    "blank lines": lambda random, data: b"\n" * random.randint(1, 9),
    "UTF-16": lambda random, data: data.decode().encode("utf-16"),
    "bytes that are no text": lambda random, data: _inserted(
        random, data, random.choice([b"\xff", b"\xc3\x28"])
    ),
    "a quote that nothing closes": lambda random, data: data + b'"u\t1\n',
    "cut gzip": lambda random, data: gzip.compress(data, mtime=0)[: -random.randint(1, 20)],
    "gzip with another checksum": lambda random, data: flipped(
        gzip.compress(data, mtime=0), -random.randint(5, 8)
    ),
    "random bytes": lambda random, data: random.randbytes(random.randint(1, 500)) + b"\0\xff",
}
"""Mutations of a text file as a whole."""


def _inserted(random: Random, data: bytes, more: bytes) -> bytes:
    place = random.randrange(data.index(b"\n") + 1, len(data))
    return data[:place] + more + data[place:]


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 0x55
    return bytes(changed)


def delimited(kind: str) -> Generate:
    """Folders of TSV or CSV."""
    delimiter = {"tsv": "\t", "csv": ","}[kind]

    def generate(random: Random) -> Malformed:
        tables = {"interactions": interactions_table(), "items": items_table()}
        role = random.choice(sorted(tables))
        mutations = INTERACTIONS if role == "interactions" else ITEMS
        name = random.choice(sorted({**mutations, **BYTES}))
        if name in mutations:
            mutations[name](random, tables[role])
        files = {f"{role}.{kind}": written(rows, delimiter) for role, rows in tables.items()}
        if name in BYTES:
            files[f"{role}.{kind}"] = BYTES[name](random, files[f"{role}.{kind}"])
        return Malformed(kind, f"{role}: {name}", ("prepare", "--dataset", PLACE), files)

    return generate


# --- Parquet


def _cast(column: str, kind: pa.DataType, value: object) -> Callable[[Random, pa.Table], pa.Table]:
    def change(random: Random, table: pa.Table) -> pa.Table:
        values = pa.array([value] * len(table), kind)
        return table.set_column(table.schema.get_field_index(column), column, values)

    return change


COLUMNS: dict[str, Callable[[Random, pa.Table], pa.Table]] = {
    "ids that are lists": _cast("item_id", pa.list_(pa.string()), ["a"]),
    "ids that are true or false": _cast("item_id", pa.bool_(), True),
    "ids that are fractions": _cast("item_id", pa.float64(), 1.5),
    "ids that are null": _cast("item_id", pa.string(), None),
    "ids that are tables": _cast("item_id", pa.struct([("a", pa.int8())]), {"a": 1}),
    "a column under another name": lambda random, table: table.rename_columns(
        [f"{name}{random.choice('sx_')}" for name in table.column_names]
    ),
    "a column twice": lambda random, table: table.append_column("item_id", table["item_id"]),
    "no rows": lambda random, table: table.slice(0, 0),
}
TIMES = {
    "times that are null": _cast("timestamp", pa.int64(), None),
    "times that are infinite": _cast("timestamp", pa.float64(), float("inf")),
    "times that are words": _cast("timestamp", pa.string(), "soon"),
    "times that are true or false": _cast("timestamp", pa.bool_(), False),
}
PACKED: dict[str, Callable[[Random, bytes], bytes]] = {
    "no bytes": lambda random, data: b"",
    "a cut file": lambda random, data: data[: random.randrange(1, len(data))],
    "another end": lambda random, data: flipped(data, -random.randint(1, 8)),
    "no Parquet": lambda random, data: random.randbytes(random.randint(1, 200)),
}


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def parquet(random: Random) -> Malformed:
    """Folders of Parquet."""
    tables = {
        role: pa.table({name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])})
        for role, rows in (("interactions", interactions_table()), ("items", items_table()))
    }
    role = random.choice(sorted(tables))
    changes = {**COLUMNS, **(TIMES if role == "interactions" else {})}
    name = random.choice(sorted({**changes, **PACKED}))
    if name in changes:
        tables[role] = changes[name](random, tables[role])
    files = {f"{role}.parquet": parquet_bytes(table) for role, table in tables.items()}
    if name in PACKED:
        files[f"{role}.parquet"] = PACKED[name](random, files[f"{role}.parquet"])
    return Malformed("parquet", f"{role}: {name}", ("prepare", "--dataset", PLACE), files)


# --- RecBole and UniSRec


def recbole(random: Random) -> Malformed:
    """A RecBole folder; the cells of its headers are `name:type`."""
    types = {"X.inter": ["token", "token", "float"], "X.item": ["token", "token_seq"]}
    tables = {"X.inter": interactions_table(), "X.item": items_table()}
    name = random.choice(sorted(tables))
    for file, kinds in types.items():
        tables[file][0] = [f"{column}:{kind}" for column, kind in zip(tables[file][0], kinds, strict=True)]
    cells = tables[name][0]
    place = random.randrange(len(cells))
    plain = cells[place].partition(":")[0]
    wrong = {
        "a head without type": plain,
        "a head of an unknown type": f"{plain}:{random.choice(['int', 'Token', 'seq', ''])}",
        "a head of another name": f"x{cells[place]}",
    }
    rows = {**({} if name == "X.item" else {"an unknown item": INTERACTIONS["an unknown item"]}), **ROWS}
    mutation = random.choice(sorted({*wrong, *rows, "no items"}))
    if mutation in wrong:
        cells[place] = wrong[mutation]
        if mutation == "a head of another name" and name == "X.item" and place == 1:
            cells[0] = "x" + cells[0]  # a text column may have any name
    elif mutation in rows:
        rows[mutation](random, tables[name])
        if mutation == "a column under another name":
            cells[0] = f"x{cells[0]}"
    files = {file: written(rows) for file, rows in tables.items()}
    if mutation == "no items":
        del files["X.item"]
    return Malformed("recbole", f"{name}: {mutation}", ("prepare", "--dataset", PLACE), files)
