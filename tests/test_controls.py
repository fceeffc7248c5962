"""Controls without training against hand-computed cases and slow plain versions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from methods.control_checks import check_control
from methods.controls.base import Control, TrainingData, recency_weights
from methods.controls.blend import Blend, BlendConfig
from methods.controls.geometry import TextVectors
from methods.controls.popularity import Popularity
from methods.controls.text_knn import TextKnn, TextKnnConfig
from methods.controls.transitions import Transitions, TransitionsConfig, transition_counts


def data_of(sequences: list[list[int]], n_items: int, states: np.ndarray | None = None) -> TrainingData:
    offsets = np.cumsum([0, *map(len, sequences)])
    return TrainingData(
        n_items, np.concatenate([np.array(sequence, np.int64) for sequence in sequences]), offsets, states
    )


@pytest.fixture
def random_data() -> TrainingData:
    draw = np.random.default_rng(3)
    sequences = [list(draw.integers(0, 9, size=length)) for length in (1, 2, 5, 14, 3)]
    return data_of(sequences, 10, draw.normal(size=(10, 2, 4)).astype(np.float32) * [1, 2, 0.5, 2])


HISTORIES = np.array([[-1, -1, 3], [2, 2, 5], [-1, 0, 9]])


def test_recency_weights_add_up_for_repeated_items() -> None:
    weights = recency_weights(HISTORIES, 10, 0.5).toarray()
    assert weights[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert weights[1].tolist() == [0, 0, 0.75, 0, 0, 1, 0, 0, 0, 0]
    assert weights[2].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_popularity_counts_training_interactions() -> None:
    control = Popularity(data_of([[0, 1, 1], [1, 3]], 5))
    assert control.scores(HISTORIES[:1], None).tolist() == [[1, 3, 0, 1, 0]]


def test_transition_counts_by_hand() -> None:
    counts = transition_counts(data_of([[0, 1, 2], [1, 0]], 4)).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2  # at distance 1 in both sequences, in either direction
    expected[1, 2] = expected[2, 1] = 1
    expected[0, 2] = expected[2, 0] = 0.8
    np.testing.assert_allclose(counts, expected)


def test_transition_counts_equal_a_plain_loop(random_data: TrainingData) -> None:
    expected = np.zeros((10, 10))
    for begin, end in zip(random_data.offsets[:-1], random_data.offsets[1:], strict=True):
        sequence = random_data.items[begin:end]
        for i in range(len(sequence)):
            for j in range(len(sequence)):
                if 0 < abs(i - j) <= 10:
                    expected[sequence[i], sequence[j]] += 0.8 ** (abs(i - j) - 1)
    np.testing.assert_allclose(transition_counts(random_data).toarray(), expected)


@pytest.mark.parametrize("rows", ["counts", "shares"])
def test_transitions_sum_rows_over_the_history(random_data: TrainingData, rows: str) -> None:
    matrix = transition_counts(random_data).toarray()
    if rows == "shares":
        sums = matrix.sum(1, keepdims=True)
        matrix = np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
    scores = Transitions(random_data).scores(HISTORIES, TransitionsConfig(decay=0.9, rows=rows))
    np.testing.assert_allclose(scores[1], matrix[5] + 0.9 * matrix[2] + 0.81 * matrix[2], rtol=1e-6)


def test_geometries(random_data: TrainingData) -> None:
    """Lengths are one; standardised dimensions vary alike; whitened ones are uncorrelated, too."""
    assert random_data.states is not None
    states = random_data.states[:, 0].astype(np.float64)
    centred = states - states.mean(0)
    left, _, right = np.linalg.svd(centred, full_matrices=False)
    for geometry, values in {
        "centred": centred,
        "standardised": centred / states.std(0),
        # another way to whiten: the polar factor of the centred matrix is the same up to a factor
        "zca": left @ right,
    }.items():
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        np.testing.assert_allclose(TextVectors(random_data)[geometry], unit, atol=2e-3)


def test_text_knn_sums_cosines_over_the_history(random_data: TrainingData) -> None:
    unit = TextVectors(random_data)["zca"]
    scores = TextKnn(random_data).scores(HISTORIES, TextKnnConfig("zca", 0.5))
    expected = [0.5 * unit[0] @ unit[item] + unit[9] @ unit[item] for item in range(10)]
    np.testing.assert_allclose(scores[2], expected, rtol=1e-5, atol=1e-6)


def plain_blend(data: TrainingData, history: list[int], config: BlendConfig) -> np.ndarray:
    """The definition, item by item."""
    unit, counts = TextVectors(data)[config.geometry], transition_counts(data).toarray()
    total = np.zeros(data.n_items)
    for age, item in enumerate(reversed(history)):
        text = np.array([max(unit[item] @ unit[other], 0) ** config.power for other in range(data.n_items)])
        text[item] = 0
        row = counts[item]
        mixed = config.transitions * (row / row.sum() if row.sum() else row)
        mixed += (1 - config.transitions) * (text / text.sum() if text.sum() else text)
        total += config.decay**age * mixed
    return total


@pytest.mark.parametrize("kept", [True, False])
def test_blend_equals_a_plain_version(
    random_data: TrainingData, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both where the text matrix is kept and where its rows are computed for each batch."""
    if not kept:
        monkeypatch.setattr("methods.controls.blend.KEPT_BYTES", 0)
    control = Blend(random_data)
    for config in (BlendConfig("zca", 2.0, 0.35, 0.8), BlendConfig("centred", 1.0, 0.1, 0.9)):
        scores = control.scores(HISTORIES, config)
        for row, history in enumerate(([3], [2, 2, 5], [0, 9])):
            np.testing.assert_allclose(scores[row], plain_blend(random_data, history, config), rtol=1e-4)


def test_every_stated_trial_is_a_configuration() -> None:
    assert [len(control.trials()) for control in (Popularity, Transitions, TextKnn, Blend)] == [1, 14, 9, 45]
    for control in (Popularity, Transitions, TextKnn, Blend):
        assert len({control.Config(**trial) for trial in control.trials()}) == len(control.trials())


CONTROLS = (Popularity, Transitions, TextKnn, Blend)


@pytest.mark.parametrize("control", CONTROLS)
def test_built_in_controls_keep_the_contract(control: type[Control]) -> None:
    check_control(control)


class Broken(Popularity):
    """Breaks one rule a subclass."""


class OneShort(Broken):
    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        return super().scores(histories, config)[:, 1:]


class NotANumber(Broken):
    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        return super().scores(histories, config) * np.float32(np.nan)


class Counting(Broken):
    calls = 0

    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        Counting.calls += 1
        return super().scores(histories, config) + np.float32(Counting.calls)


class Neighbours(Broken):
    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        return super().scores(histories, config) + np.float32(histories.max())


class Padded(Broken):
    def scores(self, histories: np.ndarray, config: Any) -> np.ndarray:
        length = (histories < 0).sum(axis=1, keepdims=True).astype(np.float32)
        return super().scores(histories, config) + length


class Unknown(Broken):
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"decay": (1,)}


@pytest.mark.parametrize(
    ("control", "check"),
    [
        (OneShort, "shape"),
        (NotANumber, "finite"),
        (Counting, "deterministic"),
        (Neighbours, "reads_no_target"),
        (Padded, "padding"),
        (Unknown, "trials"),
    ],
)
def test_a_broken_control_fails_by_name(control: type[Control], check: str) -> None:
    results = check_control(control, on_failure="report", expected_failures={check: "broken"})
    assert {result.name: result.status for result in results}[check] == "failed as expected"
    (first, *_) = (result for result in results if result.status != "passed")
    assert first.name == check
    with pytest.raises(AssertionError, match=rf"^{control.__name__}: "):
        check_control(control)
