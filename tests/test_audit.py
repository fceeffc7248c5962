"""`adaptrec audit` against plain versions of its figures."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations

import numpy as np
import pytest
from data_folders import TEN, TWELVE, lines, recipe_of, write_folder

from benchmark.audit import duplicates, order
from benchmark.audit.duplicates import duplicate_classes, near_pairs, normalised
from benchmark.audit.figures import history_length, popularity
from benchmark.audit.order import TestedSequences as Sequences
from benchmark.audit.order import control_of, masked_metrics, random_tie_orders
from benchmark.cli import main
from benchmark.data.prepare import prepare
from methods.controls.transitions import TransitionsConfig


def test_texts_are_normalised():
    words = "red pen no 2 ab"
    assert normalised("  Red-Pen,  (No. 2)\u00a0\uff21\uff22 ") == normalised(words) == words
    assert normalised("--- ?!") == ""


@pytest.mark.parametrize("chunk", [1 << 16, 3])
def test_near_pairs_are_those_of_every_pair_compared(monkeypatch, chunk):
    monkeypatch.setattr(duplicates, "CHUNK", chunk)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 9))) for _ in range(200)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(60)]
    for text in texts[:40]:  # variants of which some are near enough
        place = rng.randrange(len(text))
        texts.append(text[:place] + rng.choice("xyz") + text[place + 1 :])
    texts = sorted(set(texts))
    sets = [{text.ljust(5)[i : i + 5] for i in range(max(1, len(text) - 4))} for text in texts]
    plain = {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if len(sets[a] & sets[b]) >= 0.8 * len(sets[a] | sets[b])
    }
    assert {tuple(pair) for pair in near_pairs(texts).tolist()} == plain and len(plain) > 10


def test_classes_of_duplicates():
    long = "a stainless steel thermometer for the kitchen, with a probe of twelve centimetres"
    texts = [long, "unknown item", long.upper(), f"{long}s", "red mug", "unknown item", "Red  mug!", "-", "-"]
    assert duplicate_classes(texts) == ([[0, 2], [4, 6]], [[0, 2, 3], [4, 6]])
    assert duplicate_classes(["one"]) == duplicate_classes(["", "-"]) == ([], [])


def test_a_class_of_many_is_found_whole():
    texts = [f"{'the same long beginning of a title ' * 6}{n:03}" for n in range(300)]
    assert duplicate_classes(texts) == ([], [list(range(300))])


def some_sequences(seed: int, n_items: int = 30, users: int = 40) -> Sequences:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 80, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    absent, targets = np.arange(users) % 5 == 0, 1 + np.arange(users) % 3 % (lengths - 2)
    test_at, test_end = np.where(absent, -1, lengths - targets), np.where(absent, 0, lengths)
    return Sequences(items, offsets, lengths - 1 - targets, test_at, test_end, n_items)


def targets_of(data: Sequences) -> list[list[int]]:
    """The positions of each user's test targets, of users who have one."""
    ranges = [list(range(at, end)) for at, end in zip(data.test_at, data.test_end, strict=True) if at >= 0]
    assert max(map(len, ranges)) == 3
    return ranges


@pytest.mark.parametrize("scores", [1 << 24, 100])
def test_metrics_are_those_of_a_plain_loop(monkeypatch, scores):
    monkeypatch.setattr(order, "SCORES", scores)
    data = some_sequences(1)
    control = control_of(data)

    def gains_at(sequence: np.ndarray, at: int) -> tuple[float, float]:
        values = control.scores(sequence[None, max(0, at - 50) : at].astype(np.int64), TransitionsConfig())[0]
        target = sequence[at]
        others = [i for i in range(data.n_items) if i != target and i not in sequence[:at]]
        above = sum(values[i] > values[target] for i in others)
        tied = sum(values[i] == values[target] for i in others)
        places = range(above + 1, above + tied + 2)
        return (
            sum(place <= 10 for place in places) / len(places),
            sum(1 / math.log2(place + 1) for place in places if place <= 10) / len(places),
        )

    users = [user for user, at in enumerate(data.test_at) if at >= 0]
    gains = []
    for user, positions in zip(users, targets_of(data), strict=True):
        sequence = data.items[data.offsets[user] : data.offsets[user + 1]]
        gains.append(np.mean([gains_at(sequence, at) for at in positions], axis=0))
    assert list(masked_metrics(control, data).values()) == pytest.approx(np.mean(gains, axis=0))


def test_shuffled_histories():
    """A seed always gives the same; only the order within the last 50 items changes."""
    data = some_sequences(2)
    control = control_of(data)
    first = masked_metrics(control, data, seed=0)
    assert first == masked_metrics(control, data, seed=0) != masked_metrics(control, data, seed=1)
    only = np.minimum(data.test_at, 1)
    short = Sequences(data.items, data.offsets, data.train_end, only, only + 1, data.n_items)
    assert masked_metrics(control, short, seed=0) == masked_metrics(control, short)


def test_popularity_and_history_length():
    data = some_sequences(3)
    counts = np.bincount(data.items, minlength=30)
    spread = popularity(data)
    assert spread["share_of_top_10_percent"] == pytest.approx(sum(sorted(counts)[-3:]) / counts.sum())
    assert spread["share_of_top_1_percent"] == pytest.approx(counts.max() / counts.sum())
    differences = sum(abs(int(a) - int(b)) for a in counts for b in counts)
    assert spread["gini"] == pytest.approx(differences / (2 * 30 * counts.sum()))
    lengths = [position for positions in targets_of(data) for position in positions]
    assert list(history_length(data).values()) == [np.percentile(lengths, p) for p in (0, 25, 50, 75, 100)]


def clock_folder(folder, recipe=None):
    """Twelve users of ten items; a user's times come in equal pairs of successive days."""
    write_folder(folder, TWELVE, TEN, recipe)
    rows = [
        (user, item, 1_500_000_000 + 86_400 * (number + step // 2))
        for number, (user, items) in enumerate(TWELVE.items())
        for step, item in enumerate(items.split())
    ]
    (folder / "interactions.tsv").write_text(lines([("user_id", "item_id", "timestamp"), *rows]))
    return folder


@pytest.mark.parametrize("split", ['split = "temporal"\ntest_share = 0.3\n', None])
def test_random_orders_are_those_of_the_recipe_option(tmp_path, split):
    recipe = recipe_of(clock_folder(tmp_path / "toy", split))
    drawn = random_tie_orders(recipe, tmp_path / "cache", tmp_path, 3, lambda step: None)
    for seed, data in enumerate(drawn):
        made = prepare(recipe_of(tmp_path / "toy", tie_order="random", seed=seed), tmp_path / "cache")
        for name in ("items", "test_at", "test_end"):
            assert getattr(data, name).tolist() == getattr(made, name).tolist()
    assert (data.test_end > data.test_at + 1).any() == (split is not None)
    assert not list(tmp_path.glob("scratch*"))


def test_the_command_prints_and_writes_all_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    folder = clock_folder(tmp_path / "toy")
    assert main(["audit", str(folder), "--json", str(tmp_path / "figures.json")]) == 0
    printed = capsys.readouterr().out
    for line in (
        "toy (", "older than the newest training interaction: ", "with equal times: 60.00%",
        "; Gini coefficient ", "history before the test target: least 5, quartiles 5, 5, 5, most 5",
        "equal texts after normalisation: 0 items", "histories in random order, seeds 0 to 4: R@10 ",
        "random orders of equal times, seeds 0 to 9: R@10 ",
    ):  # fmt: skip
        assert line in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["tie_order"]["seeds"] == list(range(10)) and len(figures["tie_order"]["draws"]) == 10
    assert figures["fingerprint"]["time_unit"] == "s"
    assert figures["histories"]["shuffled"]["recall@10"]["mean"] <= 1


def test_positions_have_no_order_of_equal_times(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    assert main(["audit", str(write_folder(tmp_path / "toy", TWELVE, TEN))]) == 0
    assert "of equal times: n/a (timestamps are positions in each user's sequence)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit", "tinny"], "unknown dataset 'tinny'"),
        (["audit", "tiny", "--json", "."], "--json: '.' is a folder; give the name of a file."),
        (["audit"], "the following arguments are required: DATASET"),
        (["audit", "tiny", "--jsn", "x"], "unknown option of `adaptrec audit`: '--jsn'"),
    ],
)
def test_faults_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
