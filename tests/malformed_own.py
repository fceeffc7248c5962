"""Malformed files of this project: model folders, records, bundles, an index, and what is passed on."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from malformed import (
    BYTES,
    COLUMNS,
    PACKED,
    PLACE,
    Files,
    Generate,
    Malformed,
    flipped,
    parquet_bytes,
    written,
)

from benchmark.files import checksum_of

WRONG: tuple[Any, ...] = (None, -1, "x", [], {}, [[]], 1e999, True, "\x00", {"a": None}, 2**70)
"""Values of which no field of a record or of a model folder takes all."""
CONFIG = "model/config.json"


@dataclass(frozen=True)
class Own:
    """Good files of this project: a model folder, a record beside its ranks and lists, a bundle."""

    model: Path
    record: Path
    bundle: Path
    embedded: Path

    def model_files(self) -> Files:
        """Of the model folder, as they lie below `model`."""
        return {f"model/{path.name}": path.read_bytes() for path in self.model.iterdir() if path.is_file()}

    def record_files(self) -> Files:
        """Record, ranks and lists, as they lie below `results`."""
        stem, parts = self.record.name.removesuffix(".json"), self.record.parts[-4:-1]
        paths = [path for path in self.record.parent.iterdir() if path.name.startswith(f"{stem}.")]
        kept = (path for path in paths if path.suffix in (".json", ".parquet"))
        return {"/".join(("results", *parts, path.name)): path.read_bytes() for path in kept}


HISTORY: dict[str, tuple[str, bytes]] = {
    "a line that is no JSON": ("jsonl", b'["a", '),
    "an object without history": ("jsonl", b'{"user": "u", "items": ["a"]}'),
    "a history that is a text": ("jsonl", b'{"history": "a"}'),
    "ids that are lists": ("jsonl", b'[["a"], {}]'),
    "ids that are fractions": ("jsonl", b"[1.5, null]"),
    "ids that are true or false": ("jsonl", b"[true, false]"),
    "a number": ("jsonl", b"3"),
    "lists very deep": ("jsonl", b"[" * 100_000),
    "a line without a tab": ("tsv", b"u a b"),
    "a line with two tabs": ("tsv", b"u\ta\tb"),
    "bytes that are no text": ("txt", b"a \xff b"),
    "bytes that are no text, in JSON": ("jsonl", b'["\xff"]'),
    "no known item": ("txt", b"? !"),
    "no lines": ("txt", b""),
    "another ending": ("json", b'["a"]'),
}
"""Fault of a file of histories -> its ending, and the line."""


def history(own: Own) -> Generate:
    """Files of histories for `recommend`."""

    def generate(random: Random) -> Malformed:
        name = random.choice(sorted(HISTORY))
        ending, line = HISTORY[name]
        good = {"jsonl": b'["a", "b"]\n', "tsv": b"u\ta b\n", "txt": b"a b\n"}.get(ending, b"")
        good = b"" if name in ("no known item", "no lines", "another ending") else good
        content = good * random.randint(0, 3) + line + b"\n" + good * random.randint(0, 2)
        command = ("recommend", str(own.model), "--history", f"{PLACE}/h.{ending}", "--k", "3")
        return Malformed("histories", name, command, {f"h.{ending}": content})

    return generate


def new_items(own: Own) -> Generate:
    """Files of items for `embed`."""

    def generate(random: Random) -> Malformed:
        kind = random.choice(["tsv", "csv", "parquet"])
        rows = [["item_id", "text"], *([f"new{n}", f"thing {n}"] for n in range(4))]
        tables: dict[str, Callable[[], object]] = {
            "an item twice": lambda: rows.append(rows[1]),
            "an empty item": lambda: rows[2].__setitem__(0, ""),
            "an empty text": lambda: rows[2].__setitem__(1, ""),
            "a row with a cell too many": lambda: rows[3].append("x"),
            "no item ids": lambda: rows[0].__setitem__(0, "id"),
            "no rows": lambda: rows.__delitem__(slice(1, None)),
        }
        if kind == "parquet":
            table = pa.table({name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])})
            name = random.choice(sorted({*COLUMNS, *PACKED}))
            content = (
                parquet_bytes(COLUMNS[name](random, table)) if name in COLUMNS
                else PACKED[name](random, parquet_bytes(table))
            )  # fmt: skip
        else:
            name = random.choice(sorted([*tables, "bytes that are no text", "no bytes", "UTF-16"]))
            if name in tables:
                tables[name]()
            content = written(rows, {"tsv": "\t", "csv": ","}[kind])
            content = content if name in tables else BYTES[name](random, content)
        out = f"{PLACE}/out.npz"
        command = ("embed", str(own.model), "--items", f"{PLACE}/new.{kind}", "-o", out)
        return Malformed("new items", f"{kind}: {name}", command, {f"new.{kind}": content})

    return generate


def embedded(own: Own) -> Generate:
    """What `embed` wrote, for `recommend --items`."""

    def generate(random: Random) -> Malformed:
        table, data = pq.read_table(own.embedded), own.embedded.read_bytes()
        changes: dict[str, Callable[[], bytes]] = {
            "no model named": lambda: parquet_bytes(table.replace_schema_metadata({})),
            "vectors of another model": lambda: parquet_bytes(
                table.replace_schema_metadata({"adaptrec_model": "0" * 16})
            ),
            "vectors that are not finite": lambda: parquet_bytes(_vectors(table, float("nan"))),
            "vectors of another width": lambda: parquet_bytes(_vectors(table, 0.5, less=1)),
            "an item twice": lambda: parquet_bytes(pa.concat_tables([table, table])),
            "no vectors": lambda: parquet_bytes(table.drop_columns(["embedding"])),
            **{name: lambda name=name: PACKED[name](random, data) for name in PACKED},
        }
        name = random.choice(sorted(changes))
        file = random.choice(["e.parquet", "e.npz"]) if name in PACKED else "e.parquet"
        command = ("recommend", str(own.model), "--history", "a", "--k", "3", "--items", f"{PLACE}/{file}")
        return Malformed("embedded items", name, command, {file: changes[name]()})

    return generate


def _vectors(table: pa.Table, value: float, less: int = 0) -> pa.Table:
    """The table with other embeddings."""
    place = table.schema.get_field_index("embedding")
    width = table.schema.field(place).type.list_size - less
    column = pa.array([[value] * width] * len(table), pa.list_(pa.float32(), width))
    return table.set_column(place, "embedding", column)


def changed_json(random: Random, data: bytes) -> tuple[str, bytes]:
    """A JSON object with another value, a missing or a further key, whose checksum may follow."""
    fields = json.loads(data)
    fields.pop("checksum", None)
    key = random.choice(sorted(fields))
    mutation = random.choice(
        ["another value", "another value", "a key missing", "a key more", "no object", "cut"]
    )
    if mutation == "a key missing":
        del fields[key]
    elif mutation == "a key more":
        fields[f"{key}2"] = 1
    elif mutation == "another value":
        own = (str, type(None)) if fields[key] is None else (type(fields[key]),)  # some texts may be null
        fields[key] = random.choice([value for value in WRONG if type(value) not in own])
    whole: Any = {**fields, "checksum": random.choice([checksum_of(fields), "0" * 64])}
    text = json.dumps([whole] if mutation == "no object" else whole, indent=1).encode()
    return f"{mutation}: {key}", text[: random.randrange(1, len(text))] if mutation == "cut" else text


def model_folder(own: Own) -> Generate:
    """Model folders; where a file is changed, its digest may follow."""

    def generate(random: Random) -> Malformed:
        files = own.model_files()
        # `recommend` reads all but the card and the weights of the method
        name = random.choice(
            [CONFIG, CONFIG, *sorted({*files} - {"model/README.md", "model/method.safetensors"})]
        )
        if name == CONFIG:
            mutation, files[name] = changed_json(random, files[name])
        else:
            mutation = random.choice(["missing", "cut", "random bytes"])
            data = files.pop(name)
            if mutation != "missing":
                files[name] = data[: len(data) // 2] if mutation == "cut" else random.randbytes(64)
                mutation += ", with its digest" if random.random() < 0.5 else ""
            if mutation.endswith("digest"):
                config = json.loads(files[CONFIG])
                config.pop("checksum")
                config["files"][name.removeprefix("model/")] = hashlib.sha256(files[name]).hexdigest()
                files[CONFIG] = json.dumps({**config, "checksum": checksum_of(config)}).encode()
        command = ("recommend", f"{PLACE}/model", "--history", "a,b", "--k", "3")
        return Malformed("model folder", f"{name.removeprefix('model/')}: {mutation}", command, files)

    return generate


def record(own: Own) -> Generate:
    """Records with their ranks and lists."""

    def generate(random: Random) -> Malformed:
        files = own.record_files()
        name = random.choice(sorted(files))
        place = next(name for name in files if name.endswith(".json"))
        if name == place:
            mutation, files[name] = changed_json(random, files[name])
        else:
            data = files.pop(name)
            mutation = random.choice(["missing", *sorted(PACKED)])
            if mutation != "missing":
                files[name] = PACKED[mutation](random, data)
        kind = "record" if name == place else "ranks and lists"
        out = f"{PLACE}/out.adaptrec.zip"
        command = random.choice([
            ("bundle", f"{PLACE}/{place}", "-o", out),
            ("explain", f"{PLACE}/{place}", str(own.record), "--results", f"{PLACE}/results"),
            ("report", "--results", f"{PLACE}/results", "--out", f"{PLACE}/report"),
        ])  # fmt: skip
        command = command if name == place else ("bundle", f"{PLACE}/{place}", "-o", out)
        return Malformed(kind, f"{command[0]}: {mutation}", command, files)

    return generate


def index(own: Own) -> Generate:
    """The index of a store, which `add` reads before it writes."""

    def generate(random: Random) -> Malformed:
        files = own.record_files()
        line = (own.record.parents[3] / "index.jsonl").read_bytes()
        lines: dict[str, Callable[[], bytes]] = {
            "a line twice": lambda: line * 2,
            "no line feed at the end": line.rstrip,
            "a blank line": lambda: b"\n" + line,
            "a cut line": lambda: line[: random.randrange(1, len(line) - 1)] + b"\n",
            "another value": lambda: changed_json(random, line)[1].replace(b"\n", b" ") + b"\n",
            "a changed digit": lambda: flipped(line, random.randrange(2, len(line) - 2)),
            "lists very deep": lambda: b"[" * 100_000 + b"\n",
        }
        name = random.choice(sorted(lines))
        place = next(name for name in files if name.endswith(".json"))
        command = ("add", f"{PLACE}/{place}", "--results", f"{PLACE}/results")
        return Malformed("index", name, command, {**files, "results/index.jsonl": lines[name]()})

    return generate


def bundle(own: Own) -> Generate:
    """Bundles; `verify` says what is wrong and ends with status 1."""

    def generate(random: Random) -> Malformed:
        data = own.bundle.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice(sorted(members))
        mutation = random.choice([*sorted(PACKED), "a member missing", "a member more", "a member changed"])
        if mutation in PACKED:
            content = PACKED[mutation](random, data)
        else:
            if mutation == "a member missing":
                del members[name]
            elif mutation == "a member more":
                members[random.choice(["../x", "/x", "x.py", "runs/x", "a\x00b", "sources/x.pkl"])] = b"x"
            elif name.endswith(".json"):
                mutation, members[name] = changed_json(random, members[name])
            else:
                members[name] = PACKED["another end"](random, members[name])
            sink = io.BytesIO()
            with zipfile.ZipFile(sink, "w") as archive:
                for member, own_bytes in members.items():
                    archive.writestr(zipfile.ZipInfo(member), own_bytes)
            content = sink.getvalue()
        return Malformed(
            "bundle", mutation, ("verify", f"{PLACE}/b.adaptrec.zip"), {"b.adaptrec.zip": content}
        )

    return generate


SPECS = (
    "", "{", "[]", "3", "null", '"x"', '{"dataset": 1}', '{"dataset": "tiny"}', "[" * 50_000,
    '{"dataset": "tiny", "llm": "none", "method": "id", "seed": "x"}',
    '{"dataset": "tiny", "llm": "none", "method": "id", "overrides": "x"}',
    '{"dataset": "tiny", "llm": "none", "method": "no-such"}', '{"no_such_key": 1}', "\x00",
)  # fmt: skip


def passed_on(own: Own) -> Generate:
    """JSON that executors and `speed` pass on."""

    def generate(random: Random) -> Malformed:
        if random.random() < 0.5:
            text = random.choice(SPECS)
            return Malformed("specification", text[:40], ("run", "--spec", text, "--results", f"{PLACE}/r"))
        text = random.choice([*SPECS, '{"variants": []}', '{"schema_version": 99}']).encode() + b"\n"
        flag = random.choice(["--show", "--guard"])
        return Malformed(
            "speed record", f"{flag}: {text[:40]!r}", ("speed", flag, f"{PLACE}/s.json"), {"s.json": text}
        )

    return generate
