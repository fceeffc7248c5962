"""Conformance checks of a control, each with a name, for the tests of its author.

```python
from methods.control_checks import check_control

def test_my_control():
    check_control(MyControl)  # raises AssertionError at the first rule that it breaks
```

They score a few users of a small random catalogue and need no data, network or language model. Symbols of
shape comments are those of `methods.controls.base`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from methods.controls.base import Control, Floats, Ints, TrainingData
from methods.declarations import check_class, check_config, check_layers, check_value, require
from methods.plugins import one_line

ITEMS, USERS, LENGTH, WIDTH, LAYERS = 30, 12, 6, 16, 6


@dataclass(frozen=True)
class ControlUnderTest:
    """A control, and a small random catalogue with users to score."""

    cls: type[Control]
    seed: int = 0

    @cached_property
    def data(self) -> TrainingData:
        """Random training sequences, the same at each call."""
        draw = np.random.default_rng(self.seed)
        lengths = draw.integers(1, 9, size=40)
        layers = check_layers(self.cls, self.cls.Config(), LAYERS)
        states = draw.normal(size=(ITEMS, len(layers), WIDTH)).astype(np.float32)  # [I, A, D]
        return TrainingData(
            ITEMS,
            draw.integers(0, ITEMS, size=lengths.sum()),
            np.concatenate([[0], np.cumsum(lengths)]),
            states if self.cls.reads == "states" else None,
        )

    @cached_property
    def histories(self) -> Ints:
        """`[B, L]`, of all lengths from 1 to L."""
        draw = np.random.default_rng(self.seed + 1)
        histories = draw.integers(0, ITEMS, size=(USERS, LENGTH))  # [B, L]
        padding = np.arange(LENGTH) < LENGTH - 1 - (np.arange(USERS) % LENGTH)[:, None]  # [B, L]
        return np.where(padding, -1, histories)

    @cached_property
    def configs(self) -> list[Any]:
        """The configuration of each trial."""
        return [self.cls.Config(**trial) for trial in self.cls.trials()]

    @cached_property
    def control(self) -> Control:
        """The control on `data`."""
        return self.build()

    def build(self) -> Control:
        """A new one."""
        try:
            return self.cls(self.data)
        except Exception as error:
            raise AssertionError(f"{self.cls.__name__}: building it raised {one_line(error)}") from error

    def scores(self, histories: Ints, config: Any, control: Control | None = None) -> Floats:
        """Scores by `control`, or by the one that all checks share: `[B, L]` -> `[B, I]`."""
        try:
            return (control or self.control).scores(histories, config)
        except Exception as error:
            raise AssertionError(f"{self.cls.__name__}: scores() raised {one_line(error)}") from error

    def require_same(self, scores: Floats, expected: Floats, message: str) -> None:
        """Fail with `message` unless two computations of the same scores agree."""
        alike = np.shape(scores) == np.shape(expected) and np.allclose(scores, expected, rtol=1e-4, atol=1e-6)
        require(self.cls, alike, message)


def settings(test: ControlUnderTest) -> None:
    """`Config` is a frozen dataclass whose defaults fit their types and go into JSON."""
    check_config(test.cls, None)


def trials(test: ControlUnderTest) -> None:
    """Every stated trial is a valid configuration, and none comes twice."""
    stated = test.cls.trials()
    require(test.cls, len(stated) > 0, "trials() must state at least one trial; {} is the defaults")
    names = list(asdict(test.cls.Config()))
    for trial in stated:
        for name, value in trial.items():
            require(test.cls, name in names, f"trials(): there is no setting {name!r}; allowed: {names}")
            check_value(test.cls, name, value, "trials()")
    same = {repr(sorted(asdict(config).items())) for config in test.configs}
    require(test.cls, len(same) == len(stated), "trials() states a configuration twice")


def shape(test: ControlUnderTest) -> None:
    """Scores are `[B, I]` numbers, for one user too."""
    for users in (USERS, 1):
        for config in test.configs:
            scores = np.asarray(test.scores(test.histories[:users], config))
            message = f"scores() of {users} users must be [{users}, {ITEMS}], not {list(scores.shape)}"
            require(test.cls, scores.shape == (users, ITEMS), message)
            require(test.cls, scores.dtype.kind == "f", f"scores() must be floats, not {scores.dtype}")


def finite(test: ControlUnderTest) -> None:
    """No score is nan or infinite, in any trial."""
    for config in test.configs:
        sound = bool(np.isfinite(test.scores(test.histories, config)).all())
        require(test.cls, sound, f"scores() are not finite with {config}")


def deterministic(test: ControlUnderTest) -> None:
    """The same data and histories give the same scores, whatever was scored before."""
    first = [np.array(test.scores(test.histories, config)) for config in test.configs]
    again = test.build()
    for config, scores in reversed(list(zip(test.configs, first, strict=True))):
        repeated = test.scores(test.histories, config, again)
        test.require_same(repeated, scores, f"two computations with {config} differ")


def reads_no_target(test: ControlUnderTest) -> None:
    """A user's scores depend on this user's history alone, and histories and data stay as they are."""
    config = test.configs[0]
    histories, items = test.histories.copy(), test.data.items.copy()
    together = test.scores(histories, config)
    alone = np.concatenate([test.scores(histories[[user]], config) for user in range(USERS)])
    test.require_same(alone, together, "scores of a user differ where other users are scored with it")
    unchanged = np.array_equal(histories, test.histories) and np.array_equal(items, test.data.items)
    require(test.cls, unchanged, "scores() must not write into the histories or the training data")


def padding(test: ControlUnderTest) -> None:
    """More padding in front of a history changes nothing."""
    more = np.full((USERS, 3), -1)
    for config in test.configs:
        padded = test.scores(np.concatenate([more, test.histories], axis=1), config)
        test.require_same(padded, test.scores(test.histories, config), "scores depend on the padding (-1)")


CHECKS: dict[str, Callable[[ControlUnderTest], None]] = {
    check.__name__: check
    for check in (settings, trials, shape, finite, deterministic, reads_no_target, padding)
}


def check_control(cls: type[Control], *, seed: int = 0) -> None:
    """Run all checks. Raises `AssertionError`, which names the check, at the first rule that is broken."""
    check_class(cls)
    require(cls, issubclass(cls, Control), "it is no control: it must be a subclass of Control")
    test = ControlUnderTest(cls, seed)
    for name, check in CHECKS.items():
        try:
            check(test)
        except AssertionError as error:
            raise AssertionError(f"{error} (check {name})") from error
