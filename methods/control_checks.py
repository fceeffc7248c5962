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

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import numpy as np

from methods.controls.base import Control, Floats, Ints, TrainingData
from methods.declarations import check_layers, check_value, require
from methods.under_test import CheckResult, UnderTest, list_checks, run_checks

ITEMS, USERS, LENGTH, WIDTH, LAYERS = 30, 12, 6, 16, 6


class ControlUnderTest(UnderTest):
    """A control, and a small random catalogue with users to score."""

    cls: type[Control]

    @cached_property
    def data(self) -> TrainingData:
        """Random training sequences."""
        draw = np.random.default_rng(self.seed)
        lengths = draw.integers(1, 9, size=40)
        layers = check_layers(self.cls, self.config, LAYERS)
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
        trials = self.attempt("trials()", self.cls.trials)
        return self.attempt("Config of trials()", lambda: [self.cls.Config(**trial) for trial in trials])

    @cached_property
    def control(self) -> Control:
        """The control on `data`, which all checks share."""
        return self.build()

    def build(self) -> Control:
        """A new one."""
        return self.attempt("building it", lambda: self.cls(self.data))

    def scores(self, histories: Ints, config: Any, control: Control | None = None) -> Floats:
        """Scores by `control`, by default the shared one: `[B, L]` -> `[B, I]`."""
        own = control or self.control
        return self.attempt("scores()", lambda: own.scores(histories, config))

    def require_same(self, scores: Floats, expected: Floats, message: str) -> None:
        """Fail with `message` unless two computations of the same scores agree."""
        alike = np.shape(scores) == np.shape(expected) and np.allclose(scores, expected, rtol=1e-4, atol=1e-6)
        self.require(alike, message)


def settings(test: ControlUnderTest) -> None:
    """`Config` is a frozen dataclass whose defaults fit their types and go into JSON."""
    _ = test.config


def trials(test: ControlUnderTest) -> None:
    """Every stated trial is a valid configuration, and none comes twice."""
    stated = test.cls.trials()
    test.require(len(stated) > 0, "trials() must state at least one trial; {} is the defaults")
    names = list(asdict(test.cls.Config()))
    for trial in stated:
        for name, value in trial.items():
            test.require(name in names, f"trials(): there is no setting {name!r}; allowed: {names}")
            check_value(test.cls, name, value, "trials()")
    same = {repr(sorted(asdict(config).items())) for config in test.configs}
    test.require(len(same) == len(stated), "trials() states a configuration twice")


def shape(test: ControlUnderTest) -> None:
    """Scores are `[B, I]` numbers, for one user too."""
    for users in (USERS, 1):
        for config in test.configs:
            scores = np.asarray(test.scores(test.histories[:users], config))
            message = f"scores() of {users} users must be [{users}, {ITEMS}], not {list(scores.shape)}"
            test.require(scores.shape == (users, ITEMS), message)
            test.require(scores.dtype.kind == "f", f"scores() must be floats, not {scores.dtype}")


def finite(test: ControlUnderTest) -> None:
    """No score is nan or infinite, in any trial."""
    for config in test.configs:
        finite = bool(np.isfinite(test.scores(test.histories, config)).all())
        test.require(finite, f"scores() are not finite with {config}")


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
    test.require(unchanged, "scores() must not write into the histories or the training data")


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


def check_control(
    cls: type[Control],
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    on_failure: Literal["raise", "report"] = "raise",
) -> list[CheckResult]:
    """Run all checks and return how each ended; parameters and errors as in `methods.checks.check_method`."""
    test = ControlUnderTest(cls, None, seed)
    require(cls, issubclass(cls, Control), "it is no control: it must be a subclass of Control")
    return run_checks(list_checks(CHECKS, test, expected_failures or {}), on_failure)
