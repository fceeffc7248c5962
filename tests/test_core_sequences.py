"""Rows, bins and batches against plain slicing of lists."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from core_worlds import make_world, pairs_of, plain_pairs, with_settings, world_of

from benchmark.train.batches import EpochBatches, build_batch, share_of, total_steps
from benchmark.train.rows import (
    Rows,
    bin_width,
    evaluation_rows,
    joined,
    pack,
    share_of_users,
    training_rows,
)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 50])
@pytest.mark.parametrize("seed", range(6))
def test_packed_rows_and_literal_prefixes_are_the_papers_pairs(seed: int, window: int) -> None:
    world = make_world(seed, n_users=20, longest=14)
    expected = plain_pairs(world, window)
    for mode in ("packed", "prefixes"):
        rows = training_rows(world.offsets, world.train_end, window, mode)
        assert pairs_of(rows, world.items) == expected
        assert rows.length.max() <= window
        assert rows.predictions.sum() == len(expected)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 4), (50, 40)])
@pytest.mark.parametrize("slide", [0, 7])
def test_a_stride_predicts_each_target_once_from_nearly_a_window(
    window: int, stride: int, slide: int
) -> None:
    world = make_world(2, n_users=20, longest=30)
    rows = training_rows(world.offsets, world.train_end, window, "packed", slide, stride)
    exact = training_rows(world.offsets, world.train_end, window, "packed", slide)
    assert sorted(rows.targets) == sorted(exact.targets)
    for start, length, first in zip(rows.start, rows.length, rows.first, strict=True):
        assert length <= window
        for seen in range(first + 1, length + 1):  # items before each target of the row
            beyond = length == window and first > 0  # a row behind the first one of its sequence
            assert seen >= window - stride + 1 if beyond else start + seen >= 1
    whole = rows.take(np.flatnonzero(rows.first > 0))
    assert (whole.length == window).all() and (whole.predictions <= stride).all()
    assert pairs_of(rows, world.items) == pairs_of(exact, world.items) or stride > 1


def test_packing_reads_a_short_user_once() -> None:
    world = world_of([list(range(9)), [1, 2, 3]], 9)
    packed = training_rows(world.offsets, world.train_end, 50, "packed")
    assert (packed.user.tolist(), packed.length.tolist(), packed.first.tolist()) == ([0], [6], [0])
    assert len(training_rows(world.offsets, world.train_end, 50, "prefixes")) == 6


@pytest.mark.parametrize("mode", ["packed", "prefixes"])
def test_users_with_a_single_training_item_give_no_row(mode: str) -> None:
    world = world_of([[1, 2, 3], [4, 5, 6]], 7)
    rows = training_rows(world.offsets, world.train_end, 3, mode)
    assert len(rows) == 0
    assert pack(rows, 3).source.size == 0


def test_a_user_without_training_items_gives_no_row() -> None:
    """A temporal split may leave nothing to train on."""
    rows = training_rows(np.array([0, 3, 7]), np.array([0, 4]), 2, "packed")
    assert set(rows.user.tolist()) == {1}


@pytest.mark.parametrize("window", [1, 2, 3, 5, 50])
def test_evaluation_reads_the_last_items_before_the_target(window: int) -> None:
    world = make_world(3, n_users=30, longest=9)
    absent = np.arange(30) % 7 == 0
    for target_at in (world.valid_at, world.test_at):
        at = np.where(absent, -1, target_at)
        rows = evaluation_rows(world.offsets, at, window)
        assert rows.user.tolist() == np.flatnonzero(~absent).tolist()
        assert (rows.predictions == 1).all()
        for user, prefix, target in pairs_of(rows, world.items):
            sequence, end = world.users[user], int(at[user])
            assert prefix == tuple(sequence[max(0, end - window) : end])
            assert target == sequence[end]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 50])
def test_joined_rows_have_the_same_predictions_in_the_same_order(window: int) -> None:
    world = make_world(3, n_users=30, longest=12)
    ends = np.diff(world.offsets)
    begin = np.minimum([1 + user % 4 for user in range(30)], ends - 1)
    rows = evaluation_rows(world.offsets, begin, window, ends)
    found = joined(rows)
    # a prefix of a joined row is what the row of its target reads alone
    assert pairs_of(found, world.items) == pairs_of(rows, world.items)
    assert found.targets.tolist() == rows.targets.tolist()
    histories = [range(first, end) for first, end in zip(begin.tolist(), ends.tolist(), strict=True)]
    within = sum(min(lengths) <= window for lengths in histories)
    beyond = sum(length > window for lengths in histories for length in lengths)
    assert len(found) == within + beyond, "one row while the history fits, then one a target"
    assert len(joined(evaluation_rows(world.offsets, world.test_at, window))) == 30


@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
def test_processes_share_users_and_not_their_targets(world_size: int) -> None:
    rows = Rows(*(np.array([4, 4, 4, 5, 9, 9]) for _ in range(4)))
    shares = [share_of_users(rows, rank, world_size) for rank in range(world_size)]
    assert sorted(itertools.chain(*shares)) == list(range(6))
    assert sum(len(set(rows.user[share].tolist())) for share in shares) == 3


def random_rows(seed: int, width: int) -> Rows:
    generator = np.random.default_rng(seed)
    length = generator.integers(1, width + 1, 40)
    start = generator.integers(0, 1000, 40)
    return Rows(np.arange(40), start, length, np.minimum(generator.integers(0, width, 40), length - 1))


@pytest.mark.parametrize("width", [1, 2, 5, 64])
@pytest.mark.parametrize("seed", range(4))
def test_bins_hold_each_input_and_each_prediction_once(seed: int, width: int) -> None:
    rows = random_rows(seed, width)
    packed = pack(rows, width)
    bins, slots = packed.source.shape
    assert slots == width
    seen: dict[int, list[tuple[int, int, int]]] = {row: [] for row in range(len(rows))}
    for flat in range(bins * slots):
        place = divmod(flat, slots)
        row = int(packed.segment[place])
        assert (row < 0) == (packed.source[place] < 0)
        if row >= 0:
            seen[row].append((flat, int(packed.position[place]), int(packed.source[place])))
    predicted = []
    for row, found in seen.items():
        flats, positions, sources = zip(*found, strict=True)
        n = int(rows.length[row])
        assert positions == tuple(range(n)), "each position once, in order"
        assert sources == tuple(range(rows.start[row], rows.start[row] + n))
        assert flats == tuple(range(flats[0], flats[0] + n)), "a row is contiguous"
        assert flats[0] // slots == flats[-1] // slots, "and in one bin"
        predicted += [(flat, row) for flat in flats[rows.first[row] :]]
    assert list(zip(packed.slot.tolist(), packed.row.tolist(), strict=True)) == predicted
    assert bins <= 2 * -(-int(rows.length.sum()) // width), "next fit fills at least every other bin"


def epoch(settings_changes: dict[str, object], seed: int = 1, number: int = 1, rank: int = 0, world: int = 1):
    small = make_world(2, n_users=25)
    settings = with_settings(**settings_changes)
    rows = training_rows(small.offsets, small.train_end, settings.window, settings.sequences)
    return small, rows, list(EpochBatches(rows, small.sequences, settings, seed, number, rank, world))


@pytest.mark.parametrize("sequences", ["packed", "prefixes"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_predicts_each_pair_once(batch_size: int, sequences: str) -> None:
    small, rows, batches = epoch({"batch_size": batch_size, "sequences": sequences})
    predicted = sorted((int(u), int(t)) for b in batches for u, t in zip(b.users, b.targets, strict=True))
    assert predicted == sorted((user, target) for user, _, target in plain_pairs(small, 4))
    assert all(b.predictions < batch_size + 4 for b in batches), "over by less than one row"
    if sequences == "prefixes":
        assert all(b.predictions == batch_size for b in batches[:-1])
    assert len(batches) <= -(-int(rows.predictions.sum()) // batch_size)


@pytest.mark.parametrize("candidates", ["batch", "catalogue", "sampled"])
def test_a_batch_names_the_right_rows_of_its_table(candidates: str) -> None:
    changes = {"batch_size": 9, "candidates": candidates, "samples": 5}
    small, _, batches = epoch(changes)
    for batch in batches:
        table = batch.share.items  # one process: the whole table
        assert len(np.unique(table)) == len(table) == batch.share.rows, "no item is encoded twice"
        assert (table[batch.target_rows.numpy()] == batch.targets.numpy()).all()
        assert (table[batch.candidate_rows.numpy()] == batch.candidates.numpy()).all()
        inputs = table[batch.inputs.numpy()].ravel()
        before = inputs[batch.slots.numpy()]
        for user, item, target in zip(batch.users, before, batch.targets, strict=True):
            sequence = small.users[int(user)][:-2]
            assert (int(item), int(target)) in list(itertools.pairwise(sequence))
    if candidates == "batch":
        assert all((b.candidates == b.targets).all() for b in batches)
    elif candidates == "catalogue":
        assert all((b.candidates.numpy() == small.sequences.trained).all() for b in batches)
    else:
        assert all(len(set(b.candidates.tolist())) == 5 for b in batches)
        assert len({tuple(b.candidates.tolist()) for b in batches}) > 1, "drawn anew each step"


@pytest.mark.parametrize("candidates", ["batch", "catalogue", "sampled"])
def test_the_batches_of_a_step_are_built_as_one(candidates: str) -> None:
    changes = {"batch_size": 9, "candidates": candidates, "samples": 5, "accumulation": 3}
    small, rows, batches = epoch(changes)
    settings = with_settings(**changes)
    steps = list(EpochBatches(rows, small.sequences, settings, 1, 1).steps())
    assert len(steps) == -(-len(batches) // 3) > 1 and len(batches) % 3
    for number, (step,) in enumerate(steps):
        apart = batches[3 * number : 3 * number + 3]
        assert step.members == len(apart) and step.predictions == sum(b.predictions for b in apart)
        assert len(np.unique(step.share.items)) == step.share.rows
        begin = 0
        for group, batch in enumerate(apart):
            mine = slice(begin, begin := begin + batch.predictions)
            assert step.targets[mine].equal(batch.targets) and step.users[mine].equal(batch.users)
            assert step.weight[mine].allclose(batch.weight / len(apart))
            seen = step.candidates
            if candidates != "catalogue" and len(apart) > 1:
                assert step.group is not None and step.candidate_group is not None
                assert (step.group[mine] == group).all()
                seen = seen[step.candidate_group == group]
            assert seen.equal(batch.candidates)
            if step.own is not None and batch.own is not None:
                own = step.own[mine]
                assert (own < 0).equal(batch.own < 0)
                assert step.candidates[own[own >= 0]].equal(step.targets[mine][own >= 0])


def test_the_steps_of_a_run_are_counted_as_they_will_be_taken() -> None:
    small = make_world(4, n_users=30, n_items=20)
    settings = with_settings(batch_size=7, accumulation=3, epochs=5)
    rows = small.task(settings).train
    batches = [
        sum(1 for _ in EpochBatches(rows, small.sequences, settings, 2, epoch)) for epoch in range(1, 6)
    ]
    assert total_steps(rows, small.sequences, settings, seed=2) == sum(-(-count // 3) for count in batches)


def test_items_of_equal_input_are_encoded_through_one_of_them() -> None:
    small = world_of([[0, 1, 2, 3, 0, 1]], 4)
    twins = np.array([0, 1, 0, 1])  # 2 reads like 0, 3 like 1
    data = type(small.sequences)(small.items, twins, small.sequences.trained)
    settings = with_settings(batch_size=8, candidates="catalogue")
    rows = training_rows(small.offsets, small.train_end, 4, "packed")
    batch = build_batch(rows, data, settings, data.trained)
    assert batch.share.items.tolist() == [0, 1]
    assert batch.targets.tolist() == [1, 2, 3]
    assert batch.target_rows.tolist() == [1, 0, 1]
    assert batch.candidate_rows.tolist() == [0, 1, 0, 1]


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def order(seed: int, number: int) -> list[list[int]]:
        return [b.targets.tolist() for b in epoch({"batch_size": 6}, seed, number)[2]]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


@pytest.mark.parametrize("sequences", ["prefixes", "packed"])
@pytest.mark.parametrize("candidates", ["batch", "catalogue", "sampled"])
def test_occurrences_encode_every_slot_of_every_row(candidates: str, sequences: str) -> None:
    small = make_world(3, n_users=6, n_items=9)
    settings = with_settings(
        batch_size=7, candidates=candidates, samples=4, encode="occurrences", sequences=sequences
    )
    data = replace(small.sequences, padding=9)
    rows = training_rows(small.offsets, small.train_end, settings.window, sequences).take(np.array([2, 0, 4]))
    draws = {"batch": None, "catalogue": data.trained, "sampled": np.array([0, 3, 5, 8])}[candidates]
    batch = build_batch(rows, data, settings, draws)
    table = batch.share.items
    drawn = 0 if draws is None else len(draws)
    assert len(table) == 3 * settings.window + len(batch.targets) + drawn
    padded = table[: 3 * settings.window].reshape(3, settings.window)
    for row, start, length in zip(padded, rows.start, rows.length, strict=True):
        assert row.tolist() == [*small.items[start : start + length], *[9] * (settings.window - length)]
    assert table[batch.target_rows.numpy()].tolist() == batch.targets.tolist()
    assert table[batch.candidate_rows.numpy()].tolist() == batch.candidates.tolist()
    real = batch.segments.numpy() >= 0
    plain = build_batch(rows, data, replace(settings, encode="unique"), draws)
    once = plain.share.items[plain.inputs.numpy()]
    assert (table[batch.inputs.numpy()] == once)[real].all()
    assert len(set(batch.inputs.numpy()[real])) == real.sum(), "each slot has a row of its own"


@pytest.mark.parametrize("encode", ["unique", "occurrences"])
@pytest.mark.parametrize("candidates", ["batch", "sampled"])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_one_global_batch(world: int, candidates: str, encode: str) -> None:
    changes = {"batch_size": 5, "candidates": candidates, "samples": 6, "sequences": "prefixes"}
    changes["encode"] = encode
    alone = epoch(changes)[2]
    parts = [epoch(changes, rank=rank, world=world)[2] for rank in range(world)]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert all((s.candidates == whole.candidates).all() for s in shares)
        assert all(s.predictions == whole.predictions for s in shares)
        assert len({len(s.share.items) for s in shares}) == 1, "collectives want equal sizes"
        table = np.concatenate([s.share.items for s in shares])[: whole.share.rows]
        assert (table == whole.share.items).all()
        for s in shares:
            assert (table[s.target_rows.numpy()] == s.targets.numpy()).all()
            assert (table[s.candidate_rows.numpy()] == s.candidates.numpy()).all()
        predicted = sorted((int(u), int(t)) for s in shares for u, t in zip(s.users, s.targets, strict=True))
        assert predicted == sorted((int(u), int(t)) for u, t in zip(whole.users, whole.targets, strict=True))
        assert all(s.inputs.numel() for s in shares), "a process without a row still runs the model"


@pytest.mark.parametrize(("count", "world"), [(1, 1), (1, 4), (7, 2), (8, 3), (2, 5)])
def test_shares_of_items_cover_all_in_order(count: int, world: int) -> None:
    unique = np.arange(count) * 10
    shares = [share_of(unique, rank, world) for rank in range(world)]
    table = np.concatenate([share.items for share in shares])[: shares[0].rows]
    assert table.tolist() == unique.tolist()


@pytest.mark.parametrize("window", [1, 50, 64, 65, 200])
def test_a_bin_has_room_for_the_longest_row(window: int) -> None:
    assert bin_width(window) >= window
    assert bin_width(window) % 64 == 0
