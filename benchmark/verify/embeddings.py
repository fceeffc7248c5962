"""The embeddings of a run for its bundle, from the model that it kept, so that a dot product is a score."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.filters import target_positions
from benchmark.data.prepare import Prepared
from benchmark.files import temporary_folder
from benchmark.results.store import StoredRun
from benchmark.verify.format import items_path, states_path

CHUNK = 1024
"""Users whose states are computed at once."""


def embeddings_of(run: StoredRun, data: Prepared) -> dict[Path, bytes]:
    """Path beside the record -> content: embeddings of items `[I, d]`, states of users at targets `[T, d]`.

    Raises `UserError` for a run without a kept model, and for a mixture.
    """
    from benchmark.serve.export import export
    from benchmark.serve.model import load_model

    with temporary_folder(Path(tempfile.gettempdir()), "adaptrec-embeddings") as folder:
        model = load_model(export(run.path, folder / "model"), "cpu")
    items = data.items.astype(np.int64)
    user, position = target_positions(np.where(data.test_at > 0, data.test_at, -1), data.test_end)
    begin = data.offsets[user]
    histories = [items[one : one + length] for one, length in zip(begin, position, strict=True)]
    states = [
        model.vectors_by_number(histories[start : start + CHUNK]).numpy()
        for start in range(0, len(histories), CHUNK)
    ]
    return {
        items_path(run.path): _npy(model.item_vectors().numpy()),
        states_path(run.path): _npy(np.concatenate(states)),
    }


def _npy(values: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return file.getvalue()
