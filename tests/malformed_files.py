"""Malformed inputs that are no plain tables: publishers' files, recipes, and files that commands of this
project wrote."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from data_folders import TEN, TWELVE, write_unisrec
from malformed import (
    BYTES,
    PLACE,
    Files,
    Generate,
    Malformed,
    interactions_table,
    items_table,
    written,
)
from raw_server import amazon_2014, amazon_2018, amazon_2023, movielens

PREPARE = ("prepare", "--dataset", PLACE)


# --- UniSRec


def unisrec_files(folder: Path) -> Files:
    write_unisrec(folder, {user: items.split() for user, items in TWELVE.items()}, TEN)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unisrec(files: Files) -> Generate:
    """The six files of UniSRec, of which one has a fault in a line, or is missing."""
    lines: dict[str, tuple[str, Callable[[list[str]], None]]] = {
        "an index without a tab": ("X.item2index", lambda line: line.pop()),
        "an index that is a word": ("X.user2index", lambda line: line.__setitem__(1, "one")),
        "an index taken twice": ("X.item2index", lambda line: line.__setitem__(1, "5")),
        "a user without index": ("X.test.inter", lambda line: line.__setitem__(0, "99")),
        "an item without index": ("X.train.inter", lambda line: line.__setitem__(2, "99")),
        "a history of other items": ("X.valid.inter", lambda line: line.__setitem__(1, "9 9 9")),
        "a line with a cell too few": ("X.train.inter", lambda line: line.pop()),
        "an item without text and id": ("X.text", lambda line: line.__setitem__(0, "")),
    }

    def generate(random: Random) -> Malformed:
        name = random.choice(
            sorted([*lines, "a missing file", "a user without validation", "bytes that are no text"])
        )
        changed = dict(files)
        if name in lines:
            file, change = lines[name]
            rows = [line.split("\t") for line in files[file].decode().splitlines()]
            change(random.choice(rows[1:5]))  # indices 1 to 4, so that 5 is taken
            changed[file] = "".join("\t".join(row) + "\n" for row in rows).encode()
        elif name == "a missing file":
            file = random.choice(sorted({*files} - {"X.train.inter"}))
            del changed[file]
        elif name == "a user without validation":
            file = "X.valid.inter"
            changed[file] = b"".join(files[file].splitlines(keepends=True)[: random.randint(3, 8)])
        else:
            file = random.choice(sorted(files))
            changed[file] = BYTES[name](random, files[file])
        return Malformed("unisrec", f"{file}: {name}", PREPARE, changed)

    return generate


# --- files of publishers

EDITIONS = {"amazon-2014": amazon_2014, "amazon-2018": amazon_2018, "amazon-2023": amazon_2023}
FIELDS = {"amazon-2014": "categories", "amazon-2018": "category", "amazon-2023": "categories"}
RATINGS: dict[str, Callable[[Random], bytes]] = {
    "a line with a field too few": lambda random: b"B000000001,A000000001,5.0",
    "a line with a field too many": lambda random: b"B000000001,A000000001,5.0,1400000000,1",
    "no user and no item": lambda random: b",,5.0,1400000000",
    "a time that is no number": lambda random: (
        f"B000000001,A000000001,5.0,{random.choice(['soon', '1.5', '1e9', ''])}".encode()
    ),
    "a time before 1970": lambda random: b"B000000001,A000000001,5.0,-5",
    "bytes that are no text": lambda random: b"B00000\xff001,A000000001,5.0,1400000000",
}
METADATA: dict[str, Callable[[Random], bytes]] = {
    "a line that is cut": lambda random: b'{"asin": "B1", "title',
    "no table": lambda random: random.choice([b"[]", b"1", b'"B1"', b"null"]),
    "no id": lambda random: b'{"title": "Pen"}',
    "an id that is a number": lambda random: b'{"asin": 5, "parent_asin": 5, "title": "Pen"}',
    "an id that is not ASCII": lambda random: '{"asin": "B\u0430", "parent_asin": "B\u0430"}'.encode(),
    "code": lambda random: b"__import__('os').getcwd()",
    "lists a thousand deep": lambda random: b"[" * 20_000,
    "bytes that are no text": lambda random: b'{"asin": "B\xff"}',
}


def publishers(kind: str) -> Generate:
    """The two files of an edition, of which one has a fault in a line, or as a whole."""

    def generate(random: Random) -> Malformed:
        files = EDITIONS[kind]()
        (ratings, _), (metadata, _) = files.items()
        lines, file = random.choice([(RATINGS, ratings), (METADATA, metadata)])
        if kind == "amazon-2014" and file == ratings:
            lines = METADATA  # reviews as JSON lines
        name = random.choice(sorted([*lines, "no bytes", "cut gzip", "random bytes"]))
        plain = gzip.decompress(files[file]) if file.endswith(".gz") else files[file]
        if name in lines:
            whole = plain.splitlines(keepends=True)
            whole.insert(random.randrange(1, len(whole)), lines[name](random) + b"\n")
            plain = b"".join(whole)
            files[file] = gzip.compress(plain, mtime=0) if file.endswith(".gz") else plain
        else:
            files[file] = BYTES[name](random, plain)
        recipe = {
            "text_fields": ["title", FIELDS[kind]],
            "urls": {"interactions": ratings, "items": metadata},
        }
        return Malformed(kind, f"{file.partition('.')[0]}: {name}", with_download(kind, **recipe)[0],
                         files | with_download(kind, **recipe)[1])  # fmt: skip

    return generate


def with_download(kind: str, text_fields: list[str], urls: dict[str, str]) -> tuple[tuple[str, ...], Files]:
    """The command that prepares files that lie ready, and the recipe that it reads."""
    lines = [f"[download]\nformat = '{kind}'\ntext_fields = {json.dumps(text_fields)}\n[download.files]"]
    lines += [f"{role} = ['file://{PLACE}/{name}']" for role, name in urls.items()]
    return PREPARE, {"recipe.toml": "\n".join(lines).encode()}


def movies(random: Random) -> Malformed:
    """The archive of MovieLens."""
    ((name, archive),) = movielens().items()
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = {member: opened.read(member) for member in opened.namelist()}
    ratings, films = "ml-1m/ratings.dat", "ml-1m/movies.dat"
    lines = {
        "a rating with a field too few": (ratings, b"1::2::5"),
        "a rating at no time": (ratings, b"1::2::5::soon"),
        "a rating without user": (ratings, b"::2::5::978300000"),
        "a film with a field too few": (films, b"99::Film"),
        "a line of a megabyte": (films, b"9" * 1_000_000),
    }
    mutation = random.choice(sorted([*lines, "a member missing", "a cut archive", "no archive"]))
    if mutation in lines:
        member, line = lines[mutation]
        whole = members[member].splitlines(keepends=True)
        whole.insert(random.randrange(len(whole)), line + b"\n")
        members[member] = b"".join(whole)
    elif mutation == "a member missing":
        del members[random.choice([ratings, films])]
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as opened:
        for member, content in members.items():
            opened.writestr(zipfile.ZipInfo(member), content)
    content = sink.getvalue()
    if mutation == "a cut archive":
        content = content[: random.randrange(1, len(content))]
    elif mutation == "no archive":
        content = random.randbytes(300)
    command, recipe = with_download("movielens", ["title", "genres"], {"archive": name})
    return Malformed("movielens", mutation, command, {name: content, **recipe})


# --- recipes

NOT_TEXT, NOT_WHOLE = ("1", "true", "[]", "{}"), ("-1", "1.5", "true", "'1'", "[]", "nan", "99999999999")
CHOICE = ("'Drop'", "''", "'none '", "1", "true", "['drop']")
KEYS = {
    "text_fields": ("'title'", "[1]", "{}", "true"), "core": NOT_WHOLE, "recent": (*NOT_WHOLE, "2"),
    "max_text": (*NOT_WHOLE, "0"), "seed": NOT_WHOLE, "summary": NOT_TEXT, "edition": NOT_TEXT,
    "licence": NOT_TEXT, "format": ("'xml'", "''"), "separator": ("'ab'", "'a'", "'\"'", "1", "'\\u00e9'"),
    "valid_share": ("0.0", "1.0", "-0.1", "nan", "1", "'0.1'", "inf"),
    "test_share": ("0.0", "1.0", "1.5", "nan", "true"), "expected": ("1", "{users = 0}", "{people = 3}"),
    "columns": ("[]", "{user_id = 1}", "{person = 'user_id'}", "{user_id = 'x', item_id = 'x'}"),
    "settings": ("1", "{fair = 1}"), "synthetic": ("1", "[]"),
    "folder": ("1", '"a\\u0000b"'), "download": ("1", "{}", "{files = {}}"),
    "categories": ("'a'", "[]", "['../x']"),
    **dict.fromkeys(
        ("no_text", "repeats", "duplicate_reviews", "split", "target", "tie_order", "untouched", "quotes",
         "short_users", "bad_rows", "bad_bytes", "unknown_items", "duplicate_items", "long_texts", "clean",
         "negative_times", "mixed_times"), CHOICE,
    ),
}  # fmt: skip
"""Key of a recipe -> values in TOML that it must not have."""
SYNTAX = (
    "core = ",
    "core 3",
    "[a",
    "core = 1\ncore = 2",
    "'",
    "core = 1e",
    "\ufffe",
    "core = 0x",
    "a.b.c = {",
    "=1",
)
CONTRADICTIONS = (
    "valid_share = 0.5\ntest_share = 0.5", "target = 'last'", "seed = 3", "untouched = 'keep'\ncore = 5",
    "format = 'synthetic'", "format = 'movielens'", "format = 'parquet'", "text_fields = ['price']",
)  # fmt: skip


def recipe(random: Random) -> Malformed:
    """`recipe.toml` beside good tables."""
    key = random.choice(sorted(KEYS))
    lines = {
        f"a value that {key} cannot have": f"{key} = {random.choice(KEYS[key])}",
        f"the misspelt key {key}": f"{key[:-1]}{random.choice(['', 'x', key[-1] * 2])} = 1",
        "no TOML": random.choice(SYNTAX),
        "values that contradict each other": random.choice(CONTRADICTIONS),
    }
    mutation = random.choice([*lines][:1] * 4 + [*lines])
    files = {"interactions.tsv": written(interactions_table()), "items.tsv": written(items_table())}
    files["recipe.toml"] = lines[mutation].encode()
    return Malformed("recipe", f"{mutation}: {lines[mutation]}", PREPARE, files)
