"""The contract of a control: a recommender without training, which scores items from a user's history.

A control reads the training interactions, the hidden states of the catalogue, and the history of the user
whom it scores. It has no parameters, so that no liveness certificate applies to it. Its few settings are
chosen on validation from a grid that the class states, and each of them counts as a trial.

Symbols in shape comments: `I` items of the catalogue, `U` users, `N` training interactions, `A` layers read,
`D` width of the language model, `B` users who are scored at once, `L` items of a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from methods.base import NoConfig

if TYPE_CHECKING:  # imported where a matrix is made, since most runs have none
    from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """All that a control may read when it is built. It never holds a validation or test target."""

    n_items: int
    """`I`."""
    items: Ints
    """`[N]` item indices of the training interactions, users one after another, each in time order."""
    offsets: Ints
    """`[U + 1]`: user u has `items[offsets[u]:offsets[u + 1]]`."""
    states: Floats | None = None
    """`[I, A, D]` hidden states of the frozen language model, for a control that reads states."""


class Control:
    """Base class of every control. Subclass it in one file; see CONTRIBUTING.md.

    Class attributes:
        reads: `"states"` if it needs the hidden states of the catalogue, and so a language model, else
            `"ids"`.
        Config: a frozen dataclass of settings, as for `methods.base.Method`.
        grid: setting -> values among which validation chooses; all combinations are tried.
        by_default: whether a grid that names no method includes it.
    """

    reads: ClassVar[Literal["states", "ids"]] = "ids"
    Config: ClassVar[type[Any]] = NoConfig
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    by_default: ClassVar[bool] = True

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    @classmethod
    def trials(cls) -> list[dict[str, Any]]:
        """The settings that are tried, in order; of two that validate alike the first is taken."""
        return [dict(zip(cls.grid, values, strict=True)) for values in product(*cls.grid.values())]

    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        """Layers of the language model that it reads, in the order of axis `A`; `n_layers` is the top one.

        `config` holds the settings that the user fixed and the defaults of the others: every trial reads the
        same layers. Raises `UserError` where the language model has too few.
        """
        return (n_layers,)

    def scores(self, histories: Ints, config: Any) -> Floats:
        """Score all items for each user: `[B, L]` -> `[B, I]`, larger is better.

        A history is in time order, the most recent item last, and is padded with -1 in front. `config` is an
        instance of `Config`. Called with several configurations, one after another: keep here what does not
        depend on them.
        """
        raise NotImplementedError


def recency_weights(histories: Ints, n_items: int, decay: float) -> sparse.csr_array:
    """`decay ** age` of each item of each history, the most recent one of age 0: `[B, L]` -> `[B, I]`.

    Weights of an item that occurs several times add up.
    """
    from scipy import sparse

    user, place = np.nonzero(histories >= 0)
    age = histories.shape[1] - 1 - place
    weights = sparse.coo_array(
        (np.power(decay, age), (user, histories[user, place])), shape=(len(histories), n_items)
    )
    return weights.tocsr()  # sums duplicates
