"""What a user is warned of before trusting a dataset's numbers."""

from __future__ import annotations

import json

import pytest
from data_folders import TEN, TWELVE, lines, recipe_of, write_folder

from benchmark.config import digest
from benchmark.data import filters
from benchmark.data import prepare as prepare_module
from benchmark.data.prepare import describe, prepare
from benchmark.data.recipe import Recipe
from methods.errors import UserError

HEADER = ("user_id", "item_id", "timestamp")


def timed(folder, times):
    """TWELVE's interactions with `times[k]` for the k-th of each user."""
    rows = [(user, item, times[k]) for user, items in TWELVE.items() for k, item in enumerate(items.split())]
    (folder / "interactions.tsv").write_text(lines([HEADER, *rows]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("chunk", [1 << 22, 7])
def test_neighbours_of_equal_time_are_counted_within_users(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(filters, "CHUNK", chunk)
    folder = timed(write_folder(tmp_path / "toy", TWELVE, TEN), [1, 1, 2, 3, 3, 3])
    made = prepare(recipe_of(folder), tmp_path / "cache")
    assert made.fingerprint["share_equal_times"] == pytest.approx(3 / 5)
    assert (
        "60% of neighbouring interactions of a user have equal times; their order is that of the file"
        in (made.warnings[0])
    )


def test_users_that_follow_each_other_with_one_time_are_no_neighbours(tmp_path):
    folder = timed(write_folder(tmp_path / "toy", TWELVE, TEN), [7, 8, 9, 10, 11, 7])
    made = prepare(recipe_of(folder), tmp_path / "cache")
    assert made.fingerprint["share_equal_times"] == pytest.approx(1 / 5) and made.warnings == ()


def test_texts_that_look_like_missing_values_are_counted(tmp_path):
    words = ["nan", "NULL", "None", "N/A", "nan nan", "-", "<NA>", "naan bread", "none of it", "no-one"]
    made = prepare(
        recipe_of(write_folder(tmp_path / "toy", TWELVE, dict(zip(TEN, words, strict=True)))),
        tmp_path / "cache",
    )
    assert made.fingerprint["texts_like_missing"] == 7
    assert "7 of 10 texts look like missing values" in made.warnings[0]


@pytest.mark.parametrize(("items", "warned"), [(50, True), (51, False)])
def test_a_catalogue_where_chance_is_large(monkeypatch, items, warned):
    monkeypatch.setattr(prepare_module, "LARGE_CHANCE", 0.2)
    message = prepare_module.find_warnings(Recipe("toy"), {"items": items, "repairs": {}})
    assert [f"random order of the {items} items reaches a Recall@10 of 0.20" in line for line in message] == (
        [True] if warned else []
    )


def test_one_item_cannot_be_ranked(tmp_path):
    folder = write_folder(tmp_path / "toy", {"u": "a a a a", "v": "a a a"}, {"a": "only", "b": "untouched"})
    with pytest.raises(
        UserError, match="dataset 'toy': the catalogue has one item, so nothing can be ranked"
    ):
        prepare(recipe_of(folder), tmp_path / "cache")


def test_data_of_an_earlier_version_get_the_new_statistics(tmp_path, monkeypatch):
    recipe = recipe_of(write_folder(tmp_path / "toy", TWELVE, TEN))
    first = prepare(recipe, tmp_path / "cache")
    path = first.folder / "fingerprint.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in prepare_module.LATER_STATISTICS:
        del stored["content"]["fingerprint"][name]
    stored["content_digest"] = digest(stored["content"], 64)
    path.write_text(json.dumps(stored), encoding="utf-8")
    again = prepare(recipe, tmp_path / "cache")
    assert (again.key, again.fingerprint) == (first.key, first.fingerprint) and again.warnings == ()
    monkeypatch.setattr(prepare_module, "build", lambda *_: pytest.fail("built a third time"))
    prepare(recipe, tmp_path / "cache")


DAY = 86_400


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_test_targets_in_time(tmp_path, unit):
    """u0's newest training interaction is the newest of all: two of three test targets are older."""
    starts = {"u0": 1000, "u1": 10, "u2": 20}
    gaps = {"u0": (1, 1, 1, 2), "u1": (1, 1, 1, 10), "u2": (0, 5, 0, 30)}
    rows = []
    for user, start in starts.items():
        days = [start, *(start + sum(gaps[user][:n]) for n in range(1, 5))]
        rows += [
            (user, item, (1_500_000_000 + day * DAY) * unit) for item, day in zip("abcde", days, strict=True)
        ]
    folder = write_folder(tmp_path / "toy", {"x": "a"}, TEN)
    (folder / "interactions.tsv").write_text(lines([HEADER, *rows]), encoding="utf-8")
    made = prepare(recipe_of(folder), tmp_path / "cache")
    counts = made.fingerprint
    assert counts["share_older_test_targets"] == pytest.approx(2 / 3)
    assert counts["median_days_to_test_target"] == pytest.approx(10)
    assert counts["p90_days_to_test_target"] == pytest.approx(26)
    assert counts["share_equal_times"] == pytest.approx(2 / 12)
    assert "older than the newest training interaction: 66.67%\n" in describe(made)
    assert "to the target: median 10.00, 90th percentile 26.00\n" in describe(made)


def test_positions_give_no_age_of_targets(tmp_path):
    made = prepare(recipe_of(write_folder(tmp_path / "toy", TWELVE, TEN)), tmp_path / "cache")
    assert made.fingerprint["share_older_test_targets"] is None
    assert describe(made).count("n/a (timestamps are positions in each user's sequence)") == 1


def test_times_of_no_known_unit_give_an_order(tmp_path):
    made = prepare(recipe_of(write_folder(tmp_path / "toy", TWELVE, TEN, clock=1)), tmp_path / "cache")
    assert made.fingerprint["share_older_test_targets"] == pytest.approx(9 / 12)
    assert made.fingerprint["median_days_to_test_target"] is None
    assert describe(made).count("n/a (timestamps are numbers of no known unit)") == 1
