"""A prepared dataset as RecBole's atomic files, and its item vectors as UniSRec reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmark.data.prepare import Prepared

WINDOW = 50
"""Items of a history at most."""
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token"
VECTORS = "feat1CLS"
"""How UniSRec names the file of item vectors."""


def export(prepared: Prepared, folder: Path, name: str, vectors: Tensor | None) -> int:
    """Write `<folder>/<name>/<name>.{train,valid,test}.inter`, and `.feat1CLS` where there are `vectors`.

    Users and items have their indices as names. A line is one prediction: the user, the items before, the
    target. `vectors` `[I, D]` become rows of 32-bit floats in the order of the items. Returns the number of
    training lines.
    """
    path = folder / name
    path.mkdir(parents=True)
    training = list(training_lines(prepared))
    for part, lines in (
        ("train", training),
        ("valid", list(target_lines(prepared, prepared.valid_at))),
        ("test", list(target_lines(prepared, prepared.test_at))),
    ):
        with (path / f"{name}.{part}.inter").open("w", encoding="ascii") as file:
            file.write(f"{HEADER}\n")
            file.writelines(lines)
    if vectors is not None:
        (path / f"{name}.{VECTORS}").write_bytes(vectors.float().numpy().astype("<f4").tobytes())
    return len(training)


def training_lines(prepared: Prepared) -> Iterator[str]:
    """A line for each training item of a user but the first."""
    for user, end in enumerate(prepared.train_end.tolist()):
        for at in range(1, end):
            yield _line(prepared, user, at)


def target_lines(prepared: Prepared, targets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[str]:
    """A line for each user that has a target at `targets` and a history before it."""
    for user, at in enumerate(targets.tolist()):
        if at > 0:
            yield _line(prepared, user, at)


def _line(prepared: Prepared, user: int, at: int) -> str:
    start = int(prepared.offsets[user])
    history = prepared.items[start + max(0, at - WINDOW) : start + at].tolist()
    return f"{user}\t{' '.join(map(str, history))}\t{int(prepared.items[start + at])}\n"
