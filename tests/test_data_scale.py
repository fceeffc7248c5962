"""The columnar, out-of-core preparation against slow plain versions, and what it leaves behind: nothing."""

from __future__ import annotations

import _thread
import csv
import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_folders import lines, recipe_of, write_folder

from benchmark.data import database, download, filters, text_files
from benchmark.data.database import memory_budget, scratch
from benchmark.data.prepare import Strings, prepare
from benchmark.data.raw import RawFile
from benchmark.data.recipe import Recipe
from benchmark.data.text_files import Delimited
from methods.errors import UserError
from studies.prepare_speed.generate import make
from studies.prepare_speed.measure import ours, with_pandas

Event = tuple[str, str, float]


def slow(
    events: list[Event], texts: dict[str, str], recipe: Recipe
) -> tuple[dict[str, list[Event]], Counter]:
    """The steps of docs/datasets.md one after another, on lists."""
    dropped: Counter[str] = Counter()

    def keep(result: list[Event], why: str, of: list[Event]) -> list[Event]:
        if len(result) < len(of):
            dropped[why] += len(of) - len(result)
        return result

    rows = keep([e for e in events if e[1] in texts], "interactions with unknown items", events)
    if recipe.no_text == "drop":
        if empty := sum(not text for text in texts.values()):
            dropped["items without text"] += empty
        rows = keep([e for e in rows if texts[e[1]]], "interactions with items without text", rows)
    if recipe.duplicate_reviews == "drop":
        rows = keep(list(dict.fromkeys(rows)), "duplicate reviews", rows)
    order = {user: None for user, _, _ in events}
    users = {user: sorted((e for e in rows if e[0] == user), key=lambda e: e[2]) for user in order}
    rows = [e for part in users.values() for e in part]
    if recipe.repeats == "first":
        result: dict[tuple[str, str], Event] = {}
        for event in rows:
            result.setdefault(event[:2], event)
        rows = keep(list(result.values()), "repeated pairs", rows)
    before = rows
    while recipe.core:
        count = Counter(e[0] for e in rows), Counter(e[1] for e in rows)
        left = [e for e in rows if count[0][e[0]] >= recipe.core and count[1][e[1]] >= recipe.core]
        if left == rows:
            break
        rows = left
    keep(rows, f"interactions outside the {recipe.core}-core", before)
    users = {user: [e for e in rows if e[0] == user] for user in order}
    if recipe.recent:
        users = {user: part[-recipe.recent :] for user, part in users.items()}
        left = [e for part in users.values() for e in part]
        keep(left, f"interactions before the {recipe.recent} most recent", rows)
    if recipe.split == "leave-one-out":
        short = {user for user, part in users.items() if len(part) < 3}
        if lost := sum(len(users[user]) for user in short):
            dropped["interactions of users with fewer than three"] += lost
        users = {user: part for user, part in users.items() if user not in short}
    users = {user: part for user, part in users.items() if part}
    touched = {item for part in users.values() for _, item, _ in part}
    allowed = [item for item, text in texts.items() if text or recipe.no_text == "keep"]
    if missed := sum(item not in touched for item in allowed):
        dropped["items without interactions"] += missed
    return users, dropped


def drawn(rng: random.Random) -> tuple[list[Event], dict[str, str]]:
    items = [f"i{n}" for n in range(rng.randint(6, 20))]
    texts = {item: rng.choice(["", "pen", f"mug {item}", f"pot {item}"]) for item in items}
    events: list[Event] = []
    for _ in range(rng.randint(60, 200)):
        user, item = f"u{rng.randint(0, 14)}", rng.choice([*items, *items[:4], "unknown"])
        events.append((user, item, rng.choice([rng.randint(-3, 9), rng.random() * 9])))
        if rng.random() < 0.2:
            events.append(rng.choice(events))
    return events, texts


@pytest.mark.parametrize("seed", range(16))
def test_steps_agree_with_slow_ones(tmp_path, seed):
    rng = random.Random(seed)
    events, texts = drawn(rng)
    folder = write_folder(tmp_path / "toy", texts=texts)
    header = ("user_id", "item_id", "timestamp")
    (folder / "interactions.tsv").write_text(lines([header, *events]), encoding="utf-8")
    recipe = recipe_of(
        folder,
        core=rng.choice([0, 2, 3]),
        recent=rng.choice([None, 3, 4]),
        repeats=rng.choice(["keep", "first"]),
        duplicate_reviews=rng.choice(["keep", "drop"]),
        no_text=rng.choice(["keep", "drop"]),
        split=rng.choice(["leave-one-out", "temporal"]),
        target=rng.choice(["first", "last"]),
        valid_share=0.2,
        test_share=0.2,
        unknown_items="drop",
        short_users="drop",
    )
    users, dropped = slow(events, texts, recipe)
    made = prepare(recipe, tmp_path / "cache")
    parts = np.split(made.items, made.offsets[1:-1])
    assert made.user_ids == list(users)
    assert [[made.item_ids[i] for i in part] for part in parts] == [[e[1] for e in p] for p in users.values()]
    touched = {e[1] for part in users.values() for e in part}
    assert made.item_ids == [item for item in texts if item in touched]
    assert made.texts == [texts[item] or "unknown item" for item in made.item_ids]
    assert made.fingerprint["dropped"] == dropped
    same = Counter(texts[item] for item in made.item_ids)
    assert made.fingerprint["share_duplicate_text"] * len(touched) == pytest.approx(
        sum(count for text, count in same.items() if text and count > 1)
    )
    if recipe.split == "temporal":
        check_temporal(made, [[e[2] for e in part] for part in users.values()], recipe.target)


def check_temporal(made, times: list[list[float]], target: str) -> None:
    ranked = sorted(time for part in times for time in part)
    n = len(ranked)
    cuts = [ranked[max(0, int(np.ceil(n * share - 1)))] for share in (1 - 0.2 - 0.2, 1 - 0.2)]
    for user, part in enumerate(times):
        early, late = (sum(time < cut for time in part) for cut in cuts)
        assert made.train_end[user] == early
        for at, begin, end in ((made.valid_at, early, late), (made.test_at, late, len(part))):
            chosen = begin if target == "first" else end - 1
            assert at[user] == (chosen if 0 < begin < end else -1)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_core_in_chunks_of_any_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(filters, "CHUNK", chunk)
    rng = np.random.default_rng(chunk)
    pairs = np.stack([rng.integers(0, 60, 300), (40 * rng.random(300) ** 2).astype(int)], 1).astype(np.int32)
    expected = pairs
    while True:
        per_user, per_item = (np.bincount(column, minlength=60) for column in expected.T)
        good = (per_user[expected[:, 0]] >= 4) & (per_item[expected[:, 1]] >= 4)
        if good.all():
            break
        expected = expected[good]
    path = tmp_path / "pairs.bin"
    pairs.tofile(path)
    items, counts = filters.k_core(path, 60, 40, 4)
    assert np.array_equal(np.fromfile(path, np.int32).reshape(-1, 2), expected) and len(expected)
    assert np.array_equal(counts, per_user)
    assert set(np.flatnonzero(items)) == set(expected[:, 1])


CELLS = [
    "a",
    "bb",
    "",
    " x ",
    'say "no"',
    "tab\there",
    "two\nlines",
    "crlf\r\nin",
    "ünï",
    "7",
    "\x00",
    "'",
    "a\\b",
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("block", [5, 64, 1 << 20])
def test_blocks_of_any_size_read_as_python_does(tmp_path, monkeypatch, seed, block):
    """Rows, and the line that each begins on, whichever way a block is read."""
    monkeypatch.setattr(text_files, "BLOCK", block)
    rng = random.Random(seed)
    plain = rng.random() < 0.5
    cells = [cell for cell in CELLS if not plain or not re.search('[\t\n\r"]', cell)]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t", lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["one", "two"])
    for _ in range(60):
        writer.writerow([rng.choice(cells), rng.choice(cells)])
        if rng.random() < 0.1 and not plain:
            out.write(rng.choice(["\n", "\r\n", "\r"]))
    text = out.getvalue().rstrip("\r\n") if rng.random() < 0.5 else out.getvalue()
    path = tmp_path / "file.tsv"
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.encode())
    reference, reader = [], csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    while True:
        number = reader.line_num + 1
        if (row := next(reader, None)) is None:
            break
        if row:
            reference.append((number, *row))
    repairs: Counter[str] = Counter()
    parts = list(Delimited(RawFile(path, Recipe("toy"), repairs), "\t").parts(["two", "one"]))
    result = [
        row
        for part in parts
        for row in zip(
            part.rows.tolist(), part.columns["one"].to_pylist(), part.columns["two"].to_pylist(), strict=True
        )
    ]
    assert result == reference[1:] and not repairs


@pytest.mark.parametrize(
    ("bad", "message", "repair"),
    [
        ("u\ta\n", "line {}: 2 fields where the header has 3", "bad_rows"),
        ("u\ta\tnoon\n", "line {}: timestamp 'noon' is not a number", "bad_rows"),
        ("u\ta\t0x10\n", "line {}: timestamp '0x10' is not a number", "bad_rows"),
        ("\ta\t5\n", "line {}: user_id or item_id is empty", "bad_rows"),
        ("u\ta\xff\t5\n", "line {}: byte 0xff is not UTF-8", "bad_bytes"),
        ('u\t"a"b\t5\n', "line {}: bad quoting", "bad_rows"),
    ],
)
def test_a_fault_far_into_a_file_is_named_by_its_line(tmp_path, monkeypatch, bad, message, repair):
    monkeypatch.setattr(text_files, "BLOCK", 256)
    folder = write_folder(tmp_path / "toy")
    good = [f"u{n % 50}\t{'abcd'[n % 4]}\t{n}\n" for n in range(1000)]
    whole = "".join(["user_id\titem_id\ttimestamp\n", *good[:700], "\n", bad, *good[700:]])
    (folder / "interactions.tsv").write_bytes(whole.encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(message.format(703))) as caught:
        prepare(recipe_of(folder), tmp_path / "cache")
    assert repair in str(caught.value) or "quotes" in str(caught.value)
    word = {"bad_rows": "skip", "bad_bytes": "replace"}[repair]
    made = prepare(recipe_of(folder, unknown_items="drop", **{repair: word}), tmp_path / "cache")
    assert made.fingerprint["interactions"] == 1000


def test_times_of_several_kinds_keep_their_order(tmp_path, monkeypatch):
    """Whole numbers in one block, others in the next: all are compared as the same kind."""
    monkeypatch.setattr(text_files, "BLOCK", 32)
    folder = write_folder(tmp_path / "toy")
    times = ["3", "1", "2", "2.5", " 0 ", "1e0", "-4", "+9"]
    rows = [("u", "abcd"[n % 4], time) for n, time in enumerate(times)]
    (folder / "interactions.tsv").write_text(
        lines([("user_id", "item_id", "timestamp"), *rows]), encoding="utf-8"
    )
    made = prepare(recipe_of(folder), tmp_path / "cache")
    order = sorted(range(len(times)), key=lambda n: float(times[n]))
    assert [made.item_ids[i] for i in made.items] == ["abcd"[n % 4] for n in order]


def test_more_than_the_memory_goes_to_disk_and_is_gone_afterwards(tmp_path):
    with scratch(tmp_path, memory=80 << 20) as database:
        database.run("CREATE TABLE t AS SELECT hash(range) AS h, range::VARCHAR AS s FROM range(1500000)")
        stream = database.stream("SELECT s FROM t ORDER BY h", rows=20_000)
        count = len(next(stream))
        spilled = sum(path.stat().st_size for path in (database.folder / "spill").rglob("*"))
        count += sum(len(batch) for batch in stream)
    assert count == 1_500_000 and spilled > 1_000_000
    assert list(tmp_path.iterdir()) == []


def test_little_memory_changes_nothing(tmp_path, monkeypatch):
    folder = make(tmp_path / "made", 100_000)
    plenty = ours(folder, tmp_path / "plenty")
    monkeypatch.setenv("ADAPTREC_MEMORY", "0.1")
    assert ours(folder, tmp_path / "little")["sha256"] == plenty["sha256"]


def test_nothing_is_left_after_a_failure(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "toy", {"u": "a b zz c", "v": "d c a b"})
    with pytest.raises(UserError, match="item 'zz' is not in the items file"):
        prepare(recipe_of(folder), tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in left if path.parent.name == "prepared"] in ([], [".lock"])
    assert not list((tmp_path / "cache").rglob("*.tmp"))


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pathlib import Path
from dataclasses import replace
from benchmark.data import pipeline
from benchmark.data.prepare import prepare
from benchmark.data.catalogue import find
stage = pipeline.stage
def slowly(batches):
    for batch in batches:
        print("reading", flush=True)
        for _ in range(10_000):
            time.sleep(0.1)
            yield batch
pipeline.stage = lambda raw, *rest: stage(replace(raw, interactions=slowly(raw.interactions)), *rest)
prepare(find(sys.argv[1]), Path(sys.argv[2]), lambda step: print(step, flush=True))
"""


def test_ctrl_c_ends_a_query_at_once_and_leaves_nothing(tmp_path):
    folder, cache = write_folder(tmp_path / "toy"), tmp_path / "cache"
    command = [sys.executable, "-c", INTERRUPTED, str(folder), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("reading"):
                break
        assert list((cache / "prepared").rglob("scratch.*.tmp"))
        time.sleep(0.3)  # as a rule the query waits for the next batch by then
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=300)  # the batch alone would take a quarter of an hour
    assert "KeyboardInterrupt" in complaint and child.returncode != 0
    assert [path.suffix for path in (cache / "prepared").iterdir()] in ([], [".lock"])


def test_what_a_killed_process_left_is_cleared(tmp_path):
    recipe = recipe_of(write_folder(tmp_path / "toy"))
    made = prepare(recipe, tmp_path / "cache")
    for path in made.folder.iterdir():
        path.unlink()
    made.folder.rmdir()
    left = made.folder.with_name(f"{made.folder.name}.abcdefgh.tmp")
    (left / "scratch.x.tmp").mkdir(parents=True)
    assert prepare(recipe, tmp_path / "cache").key == made.key and not left.exists()


@pytest.mark.parametrize("written", ["much", "0", "-3", "inf"])
def test_memory_that_is_no_number(monkeypatch, written):
    monkeypatch.setenv("ADAPTREC_MEMORY", written)
    with pytest.raises(UserError, match=rf"ADAPTREC_MEMORY={written} is not valid; .* gigabytes"):
        memory_budget()


def test_too_little_memory_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match="set ADAPTREC_MEMORY to more") as caught,
        scratch(tmp_path, memory=4 << 20) as database,
    ):
        database.run("CREATE TABLE t AS SELECT range AS r, hash(range) AS h FROM range(4000000)")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def refused(*_: object) -> int:
    raise RuntimeError("can't start new thread")


def dies(*_: object) -> int:
    """A thread that had too little memory to call anything."""
    return 0


@pytest.mark.parametrize("start", [refused, dies])
def test_a_limit_that_allows_no_thread_changes_nothing(tmp_path, monkeypatch, start):
    monkeypatch.setattr(_thread, "start_new_thread", start)
    monkeypatch.setattr(database, "BEGIN_SECONDS", 0.01)
    with scratch(tmp_path) as tables:
        assert tables.run("SELECT 40 + 2") == (42,)
        with pytest.raises(Exception, match="nowhere"):
            tables.run("SELECT * FROM nowhere")
    assert not list(tmp_path.iterdir())


def test_digests_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_bytes(b"first")
    fresh = download.remembered_digest(path, cache)
    assert fresh == download.digest_of(path) and not cache.exists()  # it could still change unseen
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert download.remembered_digest(path, cache) == fresh and not cache.exists()  # this changed it too
    monkeypatch.setattr(download, "SETTLED_SECONDS", -1.0)
    assert download.remembered_digest(path, cache) == fresh
    with monkeypatch.context() as patch:
        patch.setattr(download, "digest_of", lambda path: pytest.fail("read again"))
        assert download.remembered_digest(path, cache) == fresh
    path.write_bytes(b"other")
    os.utime(path, (1_000_000_001, 1_000_000_001))
    assert download.remembered_digest(path, cache) == download.digest_of(path) != fresh
    for memory in (cache / "digests").iterdir():
        memory.write_text("{", encoding="utf-8")
    assert download.remembered_digest(path, cache) == download.digest_of(path)


@pytest.mark.parametrize("how", ["write", "link", "replace"])
def test_a_changed_file_whose_time_was_restored_is_noticed(how, tmp_path, monkeypatch):
    """Size, inode and time of modification can all be as before; the time of the change cannot."""
    monkeypatch.setattr(download, "SETTLED_SECONDS", -1.0)
    path, cache, link = tmp_path / "file", tmp_path / "cache", tmp_path / "link"
    path.write_bytes(b"first")
    link.hardlink_to(path)
    assert download.remembered_digest(path, cache) == download.digest_of(path)
    before = path.stat()
    if how == "replace":  # as `cp -p` and `rsync -t` do
        (tmp_path / "new").write_bytes(b"other")
        (tmp_path / "new").replace(path)
    else:
        (path if how == "write" else link).write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert (after.st_ino == before.st_ino) == (how != "replace")
    assert download.remembered_digest(path, cache) == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SETTLED_SECONDS", -1.0)
    path, cache, real = tmp_path / "file", tmp_path / "cache", download.digest_of
    path.write_bytes(b"first")

    def changing(place):
        result = real(place)
        path.write_bytes(b"and more")
        return result

    monkeypatch.setattr(download, "digest_of", changing)
    download.remembered_digest(path, cache)
    assert not cache.exists()


def test_a_damaged_memory_of_a_digest_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SETTLED_SECONDS", -1.0)
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_bytes(b"first")
    right = download.remembered_digest(path, cache)
    (memory,) = (cache / "digests").iterdir()
    memory.write_text(memory.read_text().replace(right, right[::-1]))
    assert download.remembered_digest(path, cache) == right


def test_strings_are_a_sequence():
    import pyarrow as pa

    texts = [f"text {n}" for n in range(100)]
    lazy = Strings(pa.chunked_array([texts[:30], texts[30:]], pa.large_string()))
    assert list(lazy) == texts and lazy == texts and len(lazy) == 100
    assert (lazy[0], lazy[-1], lazy[np.int64(31)]) == (texts[0], texts[-1], texts[31])
    assert lazy[28:32] == texts[28:32] and lazy[::-10] == texts[::-10]
    assert lazy != texts[1:] and lazy != [*texts[:-1], "other"] and lazy != "text"
    assert "text 99" in lazy and lazy.index("text 40") == 40
    with pytest.raises(IndexError):
        lazy[100]


def test_a_made_set_is_the_same_to_pandas(tmp_path):
    folder = make(tmp_path / "made", 60_000)
    (tmp_path / "out").mkdir()
    left, right = ours(folder, tmp_path / "cache"), with_pandas(folder, tmp_path / "out")
    assert left["counts"] == right["counts"] and left["sha256"] == right["sha256"]
    assert left["counts"]["interactions"] > 20_000 and left["dropped"]["duplicate reviews"] > 100
    assert (Path(folder) / "items.csv").stat().st_size > 100_000
