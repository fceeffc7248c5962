"""Temporal protocol with successive targets, against plain versions and by hand: each user has weight one."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from core_worlds import make_world, recommender, trainer, with_settings
from data_folders import BLINK, lines, write_folder

from benchmark.cli import main
from benchmark.data.catalogue import find
from benchmark.data.prepare import Prepared, describe, prepare
from benchmark.results.compared import user_gains
from benchmark.results.list_metrics import list_measure
from benchmark.results.metrics import Ranks, metrics_of, target_weights
from benchmark.results.record import ranks_path, read_record, top_path
from benchmark.results.store import read_result
from benchmark.train.rows import evaluation_rows
from methods.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHARES = "valid_share = 0.2\ntest_share = 0.2\n"
TEMPORAL = f'split = "temporal"\n{SHARES}'
METRICS = ("recall@10", "recall@50", "ndcg@10", "ndcg@50")
Event = tuple[str, str, int]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))


def clock_folder(folder: Path, events: list[Event], items: list[str], recipe: str = TEMPORAL) -> Path:
    write_folder(folder, {}, {item: f"thing {item}" for item in items}, recipe)
    (folder / "interactions.tsv").write_text(lines([("user_id", "item_id", "timestamp"), *events]))
    return folder


def drawn(seed: int) -> tuple[list[Event], list[str]]:
    """Users of 1 to 15 interactions at different times; some items are new late."""
    rng = np.random.default_rng(seed)
    items = [f"i{n:02}" for n in range(30)]
    events = []
    for user in range(50):
        begin = rng.integers(0, 800)
        for time in rng.choice(np.arange(begin, begin + 300), rng.integers(1, 16), replace=False):
            newest = 15 + int(time) // 75
            events.append((f"u{user:02}", items[rng.integers(0, newest)], 1_500_000_000 + 86_400 * int(time)))
    return events, items


def plain_targets(events: list[Event]) -> dict[str, dict[str, list[tuple[list[str], str]]]]:
    """Period -> user -> (history, target) of each of his interactions there, if he has some before it."""
    times = sorted(time for _, _, time in events)
    cuts = [times[math.ceil(len(times) * share) - 1] for share in (1 - 0.2 - 0.2, 0.8)]
    found: dict[str, dict[str, list[tuple[list[str], str]]]] = {"valid": {}, "test": {}}
    for user in sorted({user for user, _, _ in events}):
        own = sorted((time, item) for name, item, time in events if name == user)
        for part, low, high in (("valid", cuts[0], cuts[1]), ("test", cuts[1], math.inf)):
            places = [n for n, (time, _) in enumerate(own) if low <= time < high]
            if places and places[0] > 0:
                sequence = [item for _, item in own]
                found[part][user] = [(sequence[:n], sequence[n]) for n in places]
    return found


def trained_counts(events: list[Event]) -> Counter[str]:
    times = sorted(time for _, _, time in events)
    return Counter(
        item for _, item, time in events if time < times[math.ceil(len(times) * (1 - 0.2 - 0.2)) - 1]
    )


def expected_gain(metric: str, above: int, tied: int) -> float:
    """The mean over all places that the target may have among the tied items."""
    name, k = metric.split("@")
    places = range(above + 1, above + tied + 1)
    gain = {"recall": lambda place: 1.0, "ndcg": lambda place: 1 / math.log2(place + 1)}[name]
    return sum(gain(place) for place in places if place <= int(k)) / tied


def plain_popularity(events: list[Event], catalogue: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Split -> metrics of items ranked by training interactions, with lists of Python alone."""
    counts = trained_counts(events)
    for part, users in plain_targets(events).items():
        for form in ("", "_masked"):
            for kind in ("", "_warm", "_cold") if part == "test" else ("",):
                gains: dict[str, float] = Counter()
                weights = 0.0
                for pairs in users.values():
                    for history, target in pairs:
                        if kind and (counts[target] == 0) != (kind == "_cold"):
                            continue
                        left = [i for i in catalogue if i == target or not form or i not in history]
                        above = sum(counts[i] > counts[target] for i in left)
                        tied = sum(counts[i] == counts[target] for i in left)
                        weights += 1 / len(pairs)
                        for metric in METRICS:
                            gains[metric] += expected_gain(metric, above, tied) / len(pairs)
                yield f"{part}{kind}{form}", {metric: gains[metric] / weights for metric in METRICS}


def run(folder: Path, results: Path, method: str, capsys: pytest.CaptureFixture[str], *more: str) -> Path:
    words = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", method]
    assert main([*words, "--results", str(results), *more]) == 0
    return Path(capsys.readouterr().out.strip())


def pairs_of(made: Prepared, part: str) -> dict[str, list[tuple[list[str], str]]]:
    rows = evaluation_rows(made.offsets, getattr(made, f"{part}_at"), 10**6, getattr(made, f"{part}_end"))
    found: dict[str, list[tuple[list[str], str]]] = {}
    for user, start, length in zip(rows.user, rows.start, rows.length, strict=True):
        *history, target = [made.item_ids[item] for item in made.items[start : start + length + 1]]
        found.setdefault(made.user_ids[user], []).append((history, target))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_those_of_a_plain_loop(tmp_path: Path, seed: int) -> None:
    events, items = drawn(seed)
    made = prepare(find(str(clock_folder(tmp_path / "toy", events, items))), tmp_path / "cache")
    plain = plain_targets(events)
    for part in ("valid", "test"):
        assert pairs_of(made, part) == plain[part]
        assert made.fingerprint[f"{part}_users"] == len(plain[part])
        assert made.fingerprint[f"{part}_targets"] == sum(map(len, plain[part].values()))
    counts = trained_counts(events)
    cold = [target for pairs in plain["test"].values() for _, target in pairs if not counts[target]]
    assert made.fingerprint["cold_test_targets"] == len(cold) > 0
    users, targets = (f"{made.fingerprint[f'test_{what}']:,}" for what in ("users", "targets"))
    assert f"{targets} test of {users} users" in describe(made)
    assert made.fingerprint["share_older_test_targets"] == 0
    assert (
        prepare(find(str(tmp_path / "toy")), tmp_path / "cache").test_end.tolist() == made.test_end.tolist()
    )


def test_targets_and_metrics_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training: ann a a b, bob a c, cy b. Validation: bob b. Test: ann c d, bob d; dee has no history."""
    events = [
        ("ann", "a", 0), ("ann", "a", 1), ("bob", "a", 2), ("cy", "b", 3), ("ann", "b", 4), ("bob", "c", 5),
        ("bob", "b", 60), ("ann", "c", 70), ("ann", "d", 71), ("bob", "d", 72), ("dee", "a", 73),
    ]  # fmt: skip
    recipe = 'split = "temporal"\nvalid_share = 0.1\ntest_share = 0.3\n'
    folder = clock_folder(tmp_path / "toy", events, list("abcd"), recipe)
    made = prepare(find(str(folder)), tmp_path / "cache")
    assert made.train_end.tolist() == [3, 2, 1, 0]
    assert (made.valid_at.tolist(), made.valid_end.tolist()) == ([-1, 2, -1, -1], [0, 3, 0, 0])
    assert (made.test_at.tolist(), made.test_end.tolist()) == ([3, 3, -1, -1], [5, 4, 0, 0])
    path = run(folder, tmp_path / "results", "popularity", capsys)
    # a occurs three times in training, b twice, c once, d never; ann and bob have seen all that is above
    record = read_record(path)
    ranks = pd.read_parquet(ranks_path(path))
    assert ranks.to_dict("list") == {
        "user": [0, 0, 1], "position": [3, 4, 3], "rank": [3, 4, 4], "tied": [1, 1, 1],
        "rank_masked": [1, 1, 1], "tied_masked": [1, 1, 1],
    }  # fmt: skip
    third, fourth = 1 / math.log2(4), 1 / math.log2(5)
    assert record.metrics["test"]["ndcg@10"] == pytest.approx(((third + fourth) / 2 + fourth) / 2)
    assert record.metrics["test_masked"]["ndcg@10"] == 1
    # ann has half a target of each kind, bob a cold one
    assert (record.cold_targets, record.cold_weight) == (2, 1.5)
    assert record.metrics["test_warm"]["ndcg@10"] == pytest.approx(third)
    assert record.metrics["test_cold"]["ndcg@10"] == pytest.approx(fourth)
    # two items are left to ann's first target, one to her second, one to bob's
    of_two = (1 + 1 / math.log2(3)) / 2
    assert record.data["chance"]["test_masked"]["ndcg@10"] == pytest.approx(((of_two + 1) / 2 + 1) / 2)


def test_a_control_has_the_metrics_of_a_plain_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, items = drawn(7)
    folder = clock_folder(tmp_path / "toy", events, items)
    path = run(folder, tmp_path / "results", "popularity", capsys)
    record = read_record(path)
    catalogue = sorted({item for _, item, _ in events})
    for split, plain in plain_popularity(events, catalogue):
        assert record.metrics[split] == pytest.approx(plain), split
    stored = read_result(path, [*METRICS, "mrr", "coverage@5", "novelty@5"])
    targets = plain_targets(events)["test"]
    sizes = [len(pairs) for pairs in targets.values()]
    assert stored.ranks.users.tolist() == [sorted({u for u, _, _ in events}).index(user) for user in targets]
    ranks = pd.read_parquet(ranks_path(path))
    assert (ranks.groupby("user").size() == sizes).all()
    gains, faults = user_gains([stored], ["mrr"])
    assert gains is not None and gains.user.tolist() == stored.ranks.users.tolist() and not faults
    for split in ("test", "test_masked"):
        assert gains.values(split, "mrr").mean() == pytest.approx(stored.record.metrics[split]["mrr"])


def test_lists_count_each_user_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gini, novelty and popularity weigh the lists of a user with n targets by 1/n each."""
    events, items = drawn(3)
    folder = clock_folder(tmp_path / "toy", events, items)
    path = run(folder, tmp_path / "results", "popularity", capsys)
    stored = read_result(path)
    lists = stored.lists
    assert lists is not None and len(lists.user) > len(set(lists.user.tolist()))
    table = pd.read_parquet(top_path(path))
    texts, trained = prepare(find(str(folder)), tmp_path / "cache").texts, trained_counts(events)
    counts = np.array([trained[text.removeprefix("thing ")] for text in texts])
    means = [
        np.mean([counts[own[:5]].mean() for own in group["items"]]) for _, group in table.groupby("user")
    ]
    assert lists.value(list_measure("popularity@5")) == pytest.approx(np.mean(means))
    share: dict[int, float] = Counter()
    for _, group in table.groupby("user"):
        for first in group["items"]:
            for item in first[:5]:
                share[item] += 1 / len(group)
    times = [share[item] for item in range(lists.catalogue)]
    apart = sum(abs(a - b) for a in times for b in times)
    gini = apart / (2 * len(times) * sum(times))
    assert lists.value(list_measure("gini@5")) == pytest.approx(gini)
    assert lists.value(list_measure("coverage@5")) == np.mean([value > 0 for value in times])


def test_the_epoch_is_selected_by_the_mean_over_users(tmp_path: Path) -> None:
    """Validation in training: each target with its own history, each user with weight one."""
    world = make_world(4, n_users=20, longest=11)
    settings = with_settings(epochs=2, learning_rate=0.05)
    task = world.task(settings)
    first = np.where(np.arange(20) % 3 == 0, world.train_end, world.train_end + 1)
    rows = evaluation_rows(world.offsets, first, settings.window, world.train_end + 2)
    assert sorted(set(Counter(rows.user.tolist()).values())) == [1, 2]
    made, _ = trainer(
        recommender(settings, world), type(task)(**{**vars(task), "valid": rows}), settings, tmp_path, seed=2
    )
    made.fit()
    ranks = made.rank_users(rows)
    for place, user in enumerate(ranks.user):  # each target as the only one of its user
        at = np.full(20, -1)
        at[user] = ranks.position[place]
        alone = made.rank_users(evaluation_rows(world.offsets, at, settings.window))
        assert alone.user.tolist() == [user]
        assert (alone.raw.best[0], alone.masked.best[0]) == (ranks.raw.best[place], ranks.masked.best[place])
    by_user = pd.Series(ranks.masked.best <= 10).groupby(ranks.user).mean()
    last = made.progress.curve[-1]
    assert last.valid_masked["recall@10"] == pytest.approx(by_user.mean())


def test_a_trained_run_is_read_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, items = drawn(5)
    folder = clock_folder(tmp_path / "toy", events, items)
    results = tmp_path / "results"
    path = run(folder, results, "id", capsys, "--protocol", "fair", "--set", *BLINK, "epochs=2")
    record = read_record(path)
    ranks = pd.read_parquet(ranks_path(path))
    users = (ranks["rank_masked"] <= 10).groupby(ranks["user"]).mean()
    assert record.metrics["test_masked"]["recall@10"] == pytest.approx(users.mean())
    assert (ranks.groupby("user").size() > 1).any()
    for method in ("popularity", "transitions"):
        run(folder, results, method, capsys)
    assert main(["report", "--results", str(results), "--out", str(tmp_path / "report")]) == 0
    tests = pd.read_csv(tmp_path / "report" / "toy-none-fair-tests.csv")
    assert (tests["users"] == len(users)).all(), "tests are over users, not over targets"
    table = (tmp_path / "report" / "toy-none-fair.md").read_text()
    sequences = {user: sorted(time for name, _, time in events if name == user) for user, _, _ in events}
    gaps = [
        np.diff(sequences[user])[len(history) - 1] / 86_400
        for user, pairs in plain_targets(events)["test"].items()
        for history, _ in pairs
    ]
    days = f"median {np.median(gaps):.2f}, 90th percentile {np.quantile(gaps, 0.9):.2f}"
    assert f"newest training interaction: 0.00%; days from the last input to the target: {days};" in table
    assert f"{len(ranks)} test targets of {len(users)} users" in table
    groups = pd.read_csv(tmp_path / "report" / "toy-none-fair-recommended.csv")
    sizes = groups[groups["figures"] == "by history length"].dropna(subset="test_masked_recall@10")
    assert set(sizes.groupby("row")["targets"].sum()) == {len(ranks)}
    page = (tmp_path / "report" / "toy-none-fair-recommended.md").read_text()
    assert "Groups are of test targets here" in page


def test_damaged_ranks_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, items = drawn(6)
    path = run(clock_folder(tmp_path / "toy", events, items), tmp_path / "results", "popularity", capsys)
    table = pd.read_parquet(ranks_path(path))
    table.drop(columns="position").to_parquet(ranks_path(path))
    with pytest.raises(UserError, match="does not have each user once"):
        read_result(path)
    table.assign(position=1).to_parquet(ranks_path(path))
    with pytest.raises(UserError, match="does not have each target once"):
        read_result(path)
    table.sample(frac=1, random_state=0).to_parquet(ranks_path(path))
    edited = json.loads(path.read_text()) | {"ranks_sha256": None}
    del edited["checksum"]
    path.write_text(json.dumps(edited))
    assert read_result(path).ranks.user.tolist() == table["user"].tolist()


def test_a_temporal_recipe_has_successive_targets_where_it_names_none(tmp_path: Path) -> None:
    events, items = drawn(0)
    first = find(str(clock_folder(tmp_path / "first", events, items, f'{TEMPORAL}target = "first"\n')))
    silent = find(str(clock_folder(tmp_path / "silent", events, items)))
    assert silent.target == "successive" and silent.options()["target"] == "successive"
    assert "target" not in first.options(), "prepared forms and records of `first` keep their names"
    one, all_of_them = (prepare(recipe, tmp_path / "cache") for recipe in (first, silent))
    assert one.test_at.tolist() == all_of_them.test_at.tolist()
    assert one.fingerprint["sha256"] != all_of_them.fingerprint["sha256"]
    assert "test_users" not in one.fingerprint and one.test_end.tolist() == (one.test_at + 1).tolist()


def test_the_example_of_the_documents(tmp_path: Path) -> None:
    """Its commands run as they are printed, and give the counts that the text names."""
    text = (ROOT / "docs" / "temporal.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```sh\n(.*?)```", text, re.S) if "mkdir -p shop" in block)
    function = f'adaptrec() {{ "{sys.executable}" -m benchmark "$@"; }}\n'
    script = function + example.replace("python -", f'"{sys.executable}" -')
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    counts = re.search(r"targets: \d+ validation of .* users, (\d+) test of (\d+) users", done.stdout)
    assert counts is not None and counts[0] in text
    (path,) = (tmp_path / "shop-results").rglob("*.ranks.parquet")
    ranks = pd.read_parquet(path)
    assert (len(ranks), ranks["user"].nunique()) == (int(counts[1]), int(counts[2]))


def test_weights_give_each_user_one() -> None:
    user = np.array([2, 2, 2, 5, 7, 7])
    weight = target_weights(user)
    assert weight.tolist() == [1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2]
    ranks = Ranks(np.array([1, 20, 30, 20, 1, 1]), np.ones(6, int))
    assert metrics_of(ranks, ["recall@10"], weight)["recall@10"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    drawn_ranks = Ranks(np.random.default_rng(0).integers(1, 99, 1001), np.ones(1001, int))
    alone = target_weights(np.arange(1001))
    assert metrics_of(drawn_ranks, METRICS, alone) == metrics_of(drawn_ranks), "equal to the last bit"


def test_positions_are_no_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = {f"u{n}": "a b c d" for n in range(20)}
    folder = write_folder(tmp_path / "toy", users, recipe='split = "temporal"\n')
    assert main(["prepare", "--dataset", str(folder)]) == 2
    message = capsys.readouterr().err
    assert "needs clock times" in message and message.count("\n") == 1
    assert not list((tmp_path / "cache").rglob("*.arrow"))
