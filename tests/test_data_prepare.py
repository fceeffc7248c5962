from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from data_folders import lines, recipe_of, write_folder, write_unisrec

from benchmark.data import filters
from benchmark.data import prepare as prepare_module
from benchmark.data.catalogue import find
from benchmark.data.prepare import describe, prepare
from benchmark.data.recipe import FolderOptions
from benchmark.process.progress import print_steps
from methods.errors import UserError


def sequences(prepared) -> dict[str, list[str]]:
    parts = np.split(prepared.items, prepared.offsets[1:-1])
    return {
        user: [prepared.item_ids[i] for i in part]
        for user, part in zip(prepared.user_ids, parts, strict=True)
    }


def slow_core(users: dict[str, list[str]], k: int) -> dict[str, list[str]]:
    """Remove one offending user or item at a time until none is left."""
    while True:
        count = Counter(item for items in users.values() for item in items)
        if bad := next((user for user, items in users.items() if len(items) < k), None):
            users = {user: items for user, items in users.items() if user != bad}
        elif bad := next((item for item, n in count.items() if n < k), None):
            users = {user: [item for item in items if item != bad] for user, items in users.items()}
        else:
            return users


def test_hand_computed_set(tmp_path):
    made = prepare(recipe_of(write_folder(tmp_path / "toy")), tmp_path / "cache")
    assert made.user_ids == ["ann", "bob", "cy"] and made.item_ids == ["a", "b", "c", "d"]
    assert made.texts == ["red pen", "blue pen", "green mug", "grey mug"]
    assert made.items.tolist() == [0, 1, 2, 3, 1, 2, 0, 3, 0, 1, 2] and made.items.dtype == np.int32
    assert made.offsets.tolist() == [0, 4, 7, 11] and made.offsets.dtype == np.int64
    assert made.train_end.tolist() == [2, 1, 2]
    assert made.valid_at.tolist() == [2, 1, 2] and made.test_at.tolist() == [3, 2, 3]
    facts = made.fingerprint
    assert (facts["users"], facts["items"], facts["interactions"]) == (3, 4, 11)
    # Training holds a, b (ann), b (bob), d, a (cy): c is the one cold item, a target of ann, bob and cy.
    assert (facts["cold_items"], facts["cold_valid_targets"], facts["cold_test_targets"]) == (1, 2, 1)
    assert made.warnings == () and made.ceiling is None
    assert "3 users, 4 items, 11 interactions" in describe(made)
    json.dumps(made.recipe)


def test_datasets_reads_prepared_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = prepare(recipe_of(write_folder(tmp_path / "toy")), tmp_path / "cache").folder
    users, items = (datasets.Dataset.from_file(str(folder / name)) for name in ("users.arrow", "items.arrow"))
    assert users[1] == {"user_id": "bob", "items": [1, 2, 0], "train_end": 1, "valid_at": 1, "test_at": 2}
    assert items["text"][:] == ["red pen", "blue pen", "green mug", "grey mug"]


def test_order_is_time_and_then_the_file(tmp_path):
    folder = write_folder(tmp_path / "toy")
    rows = "user_id\titem_id\ttimestamp\nu\tc\t5\nu\ta\t5\nu\tb\t1.5\nu\td\t-2\n"
    (folder / "interactions.tsv").write_text(rows, encoding="utf-8")
    assert sequences(prepare(recipe_of(folder), tmp_path / "cache")) == {"u": ["d", "b", "c", "a"]}


@pytest.mark.parametrize("k", [2, 3, 4])
def test_core_agrees_with_a_slow_one(tmp_path, k):
    rng = np.random.default_rng(k)
    drawn = {f"u{u}": [f"i{i}" for i in rng.integers(0, 25, rng.integers(1, 9))] for u in range(40)}
    texts = {f"i{i}": f"text {i}" for i in range(25)}
    folder = write_folder(tmp_path / "toy", {user: " ".join(items) for user, items in drawn.items()}, texts)
    made = prepare(recipe_of(folder, core=k, short_users="drop"), tmp_path / "cache")
    reference = {user: items for user, items in slow_core(drawn, k).items() if len(items) >= 3}
    assert reference and sequences(made) == reference


def test_most_recent_and_first_of_pairs(tmp_path):
    folder = write_folder(tmp_path / "toy", {"u": "a b a c d b", "v": "d c a"})
    cache = tmp_path / "cache"
    assert sequences(prepare(recipe_of(folder, recent=3), cache)) == {"u": list("cdb"), "v": list("dca")}
    first = prepare(recipe_of(folder, repeats="first"), cache)
    assert sequences(first) == {"u": list("abcd"), "v": list("dca")}
    assert first.fingerprint["dropped"] == {"repeated pairs": 2}


def test_items_without_text(tmp_path):
    texts = {"a": "pen", "b": " ", "c": "mug", "d": "pen", "e": "never touched"}
    folder = write_folder(tmp_path / "toy", {"u": "a b c d", "v": "d c a b"}, texts)
    dropped = prepare(recipe_of(folder), tmp_path / "cache")
    assert sequences(dropped) == {"u": list("acd"), "v": list("dca")}
    assert dropped.fingerprint["share_without_text"] == 0
    assert dropped.fingerprint["share_duplicate_text"] == pytest.approx(2 / 3)
    assert dropped.fingerprint["dropped"]["items without text"] == 1
    assert dropped.fingerprint["dropped"]["items without interactions"] == 1
    kept = prepare(recipe_of(folder, no_text="keep"), tmp_path / "cache")
    assert kept.texts == ["pen", "unknown item", "mug", "pen"]
    assert kept.fingerprint["share_without_text"] == 0.25 and kept.key != dropped.key
    whole = prepare(recipe_of(folder, untouched="keep"), tmp_path / "cache")
    assert whole.texts == ["pen", "mug", "pen", "never touched"]
    assert whole.fingerprint["items_without_interactions"] == 1


def test_unknown_items(tmp_path):
    folder = write_folder(tmp_path / "toy", {"u": "a b zz c", "v": "d c a b"})
    with pytest.raises(UserError, match=r"interactions\.tsv, line 4: item 'zz' is not in the items file"):
        prepare(recipe_of(folder), tmp_path / "cache")
    made = prepare(recipe_of(folder, unknown_items="drop"), tmp_path / "cache")
    assert sequences(made)["u"] == list("abc")
    printed = describe(made)
    assert made.warnings == () and "  repairs: interactions with unknown items dropped 1\n" in printed
    assert printed.count("unknown items") == 1, "not among what is dropped again"


def test_short_users(tmp_path):
    folder = write_folder(tmp_path / "toy", {"u": "a b c", "v": "d c", "w": "a"})
    with pytest.raises(UserError, match=r"line 5: user 'v' has 2 interactions .*\(2 such users\)"):
        prepare(recipe_of(folder), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    made = prepare(recipe_of(folder, short_users="drop"), tmp_path / "cache")
    assert made.user_ids == ["u"] and made.item_ids == ["a", "b", "c"]
    assert made.fingerprint["repairs"] == {"users with fewer than three interactions dropped": 2}
    with pytest.raises(UserError, match="no interaction is left"):
        prepare(recipe_of(folder, core=5), tmp_path / "cache")


def test_temporal_split_by_hand(tmp_path):
    # All times are 0..9; one tenth for validation is time 8, for test time 9 by the shares below.
    folder = write_folder(tmp_path / "toy")
    rows = [
        ("u", "a", 0),
        ("v", "b", 1),
        ("u", "b", 2),
        ("v", "c", 3),
        ("u", "c", 4),
        ("v", "d", 5),
        ("u", "d", 6),
        ("v", "a", 7),
        ("w", "a", 6),
        ("u", "a", 8),
        ("x", "b", 8),
        ("v", "c", 9),
        ("x", "d", 9),
    ]
    text = "user_id\titem_id\ttimestamp\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
    (folder / "interactions.tsv").write_text(text, encoding="utf-8")
    recipe = recipe_of(folder, split="temporal", valid_share=0.15, test_share=0.15)
    made = prepare(recipe, tmp_path / "cache")
    assert made.user_ids == ["u", "v", "w", "x"]
    assert made.train_end.tolist() == [4, 4, 1, 0]
    assert made.valid_at.tolist() == [4, -1, -1, -1]  # x has no history at its first interaction
    assert made.test_at.tolist() == [-1, 4, -1, 1]
    assert (made.fingerprint["valid_targets"], made.fingerprint["test_targets"]) == (1, 2)


@pytest.mark.parametrize(
    ("target", "valid", "test"), [("first", 2, 4), ("last", 3, 7), ("random", {2, 3}, {4, 5, 6, 7})]
)
def test_target_of_a_temporal_period(tmp_path, target, valid, test):
    """Each user has two interactions for training, two for validation and four for test."""
    users = {f"u{n}": " ".join("abcd"[(n + step) % 4] for step in range(8)) for n in range(40)}
    folder = write_folder(tmp_path / "toy", users)
    rows = [
        (user, item, 1000 * step + number)
        for number, (user, items) in enumerate(users.items())
        for step, item in enumerate(items.split())
    ]
    (folder / "interactions.tsv").write_text(lines([("user_id", "item_id", "timestamp"), *rows]))
    options = {"split": "temporal", "target": target, "valid_share": 0.25, "test_share": 0.499}
    made = prepare(recipe_of(folder, **options), tmp_path / "cache")
    for at, expected in ((made.valid_at, valid), (made.test_at, test)):
        assert set(at.tolist()) == (expected if isinstance(expected, set) else {expected})
    again = prepare(recipe_of(folder, **options, seed=1), tmp_path / "cache")
    assert (again.test_at.tolist() == made.test_at.tolist()) == (target != "random")
    fewest = prepare(recipe_of(folder, **options), tmp_path / "other cache")
    assert fewest.fingerprint == made.fingerprint and fewest.key == made.key


def test_random_order_of_equal_times(tmp_path):
    """A seed always gives one order; every order occurs, and different times keep theirs."""
    users = {f"u{n}": "a b c d e f" for n in range(60)}
    folder = write_folder(tmp_path / "toy", users, {item: f"thing {item}" for item in "abcdef"})
    times = (1, 2, 2, 2, 3, 4)
    rows = [(user, item, moment) for user in users for item, moment in zip("abcdef", times, strict=True)]
    (folder / "interactions.tsv").write_text(lines([("user_id", "item_id", "timestamp"), *rows]))

    def orders(where: str, **options):
        return [
            "".join(s) for s in sequences(prepare(recipe_of(folder, **options), tmp_path / where)).values()
        ]

    assert set(orders("cache")) == {"abcdef"}
    drawn = orders("cache", tie_order="random")
    assert set(drawn) == {f"a{''.join(middle)}ef" for middle in permutations("bcd")}
    assert drawn == orders("other cache", tie_order="random") != orders("cache", tie_order="random", seed=1)


def test_temporal_split_refuses_positions(tmp_path):
    folder = write_folder(tmp_path / "toy", {f"u{n}": "a b c d" for n in range(20)})
    with pytest.raises(UserError, match=r"needs clock times.*leave-one-out"):
        prepare(recipe_of(folder, split="temporal"), tmp_path / "cache")


def test_temporal_split_without_leak():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate([np.sort(rng.integers(0, 1000, n)) for n in lengths])
    split = filters.temporal(times, offsets, 0.2, 0.2, "toy")
    seen = np.concatenate([times[a : a + n] for a, n in zip(offsets, split.train_end, strict=False)])
    valid = times[(offsets[:-1] + split.valid_at)[split.valid_at >= 0]]
    test = times[(offsets[:-1] + split.test_at)[split.test_at >= 0]]
    assert seen.max() < valid.min() <= valid.max() < test.min()
    assert abs(len(seen) / len(times) - 0.6) < 0.02


def test_expected_counts_that_are_missed_warn_with_both_numbers(tmp_path):
    recipe = recipe_of(write_folder(tmp_path / "toy"), expected={"users": 3, "items": 5})
    made = prepare(recipe, tmp_path / "cache")
    assert len(made.warnings) == 1 and "has 4 items, not 5, as its recipe expects" in made.warnings[0]
    assert prepare(recipe, tmp_path / "cache").warnings == made.warnings


def test_slow_steps_are_reported(tmp_path, capsys):
    with print_steps("toy", patience=0.0) as begin:
        prepare(recipe_of(write_folder(tmp_path / "toy", recipe="core = 2")), tmp_path / "cache", begin)
    message = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("...")]
    assert message[0] == "toy: digest of the files: 0 s" and message[-1] == "toy: write: 0 s"
    assert {"toy: read items: 0 s", "toy: core: 0 s", "toy: sort: 0 s"} <= set(message)
    with print_steps("toy") as begin:
        prepare(recipe_of(tmp_path / "toy"), tmp_path / "cache", begin)
    assert capsys.readouterr().err == ""
    with print_steps("toy", patience=0.05) as begin:
        begin("wait")
        told, end = "", time.monotonic() + 300
        while not told and time.monotonic() < end:
            time.sleep(0.02)
            told = capsys.readouterr().err
        assert told == "toy: wait ...\n"


def test_second_call_reads_the_cache_without_a_copy(tmp_path, monkeypatch):
    recipe = recipe_of(write_folder(tmp_path / "toy"))
    first = prepare(recipe, tmp_path / "cache")
    monkeypatch.setattr(prepare_module, "build", lambda *_: pytest.fail("built twice"))
    again = prepare(replace(recipe, summary="other words"), tmp_path / "cache")
    assert again.key == first.key and sequences(again) == sequences(first)
    assert not again.items.flags.owndata and not again.items.flags.writeable
    assert again.fingerprint == first.fingerprint


def test_key_follows_options_and_bytes(tmp_path):
    folder = write_folder(tmp_path / "toy")
    cache = tmp_path / "cache"
    keys = [prepare(recipe_of(folder), cache).key, prepare(recipe_of(folder, recent=3), cache).key]
    with (folder / "items.tsv").open("a", encoding="utf-8") as file:
        file.write("z\tnew\n")
    keys.append(prepare(recipe_of(folder), cache).key)
    assert len(set(keys)) == 3
    moved = write_folder(tmp_path / "elsewhere" / "toy")
    assert prepare(recipe_of(moved), cache).key == keys[0]


@pytest.mark.parametrize("name", ["users.arrow", "items.arrow", "fingerprint.json"])
def test_damage_is_seen_and_mended(tmp_path, name):
    recipe = recipe_of(write_folder(tmp_path / "toy"))
    first = prepare(recipe, tmp_path / "cache")
    reference = sequences(first)
    path = first.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    again = prepare(recipe, tmp_path / "cache")
    assert sequences(again) == reference and "were damaged" in again.warnings[0]
    assert prepare(recipe, tmp_path / "cache").warnings == ()
    path.unlink()
    assert "were damaged" in prepare(recipe, tmp_path / "cache").warnings[0]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    recipe = recipe_of(write_folder(tmp_path / "toy"))
    monkeypatch.setattr(
        prepare_module, "write_json", lambda *_: (_ for _ in ()).throw(RuntimeError("killed"))
    )
    with pytest.raises(RuntimeError, match="killed"):
        prepare(recipe, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "prepared").iterdir()] in ([], [".lock"])


def _prepare_in_process(folder: str, cache: str) -> str:
    return prepare(find(folder), Path(cache)).fingerprint["sha256"]


def test_processes_at_once_agree(tmp_path):
    folder = write_folder(tmp_path / "toy")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        result = pool.starmap(_prepare_in_process, [(str(folder), str(tmp_path / "cache"))] * 4)
    assert len(set(result)) == 1


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(recipe_of(write_folder(tmp_path / "toy")), tmp_path / "cache")


@pytest.mark.parametrize("name", ["scientific", "beauty", "instruments"])
def test_real_data_have_their_published_counts(name, real_data, tmp_path):
    recipe = find(str(real_data / name), FolderOptions(recipe=name))
    made = prepare(recipe, tmp_path)
    assert made.warnings == ()
    assert recipe.expected == {what: made.fingerprint[what] for what in ("users", "items", "interactions")}
    published = {
        "scientific": (8442, 4385, 59427),
        "beauty": (22363, 12101, 198502),
        "instruments": (17112, 6250, 136226),
    }
    assert tuple(recipe.expected.values()) == published[name]


def test_real_data_survive_the_unisrec_form(real_data, tmp_path):
    plain = prepare(
        find(str(real_data / "scientific"), FolderOptions(recipe="scientific")), tmp_path / "cache"
    )
    assert max(np.diff(plain.offsets)) > 50  # so that histories are cut
    texts = dict(zip(plain.item_ids, plain.texts, strict=True))
    write_unisrec(tmp_path / "unisrec", sequences(plain), texts)
    other = prepare(recipe_of(tmp_path / "unisrec"), tmp_path / "cache")
    assert (
        other.recipe["format"] == "unisrec"
        and other.item_ids == plain.item_ids
        and other.texts == plain.texts
    )
    assert sequences(other) == sequences(plain)
    assert other.fingerprint["sha256"] == plain.fingerprint["sha256"]


def test_environment_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTREC_DATA", raising=False)
    assert "ADAPTREC_DATA" not in os.environ
    assert prepare(find("tiny"), tmp_path).fingerprint["users"] == 400
