"""States of all item texts from a server, a request at a time, kept so that an interrupted pass goes on.

Symbols in shape comments: `I` items, `U` distinct texts, `M` texts of a request, `D` width of a vector.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.llm.cache import CacheEntry, ResumableFile, digest
from benchmark.llm.server import BATCH, Server
from benchmark.llm.server_probe import probe
from benchmark.process.progress import Progress
from methods.errors import UserError

SAMPLE = 4
"""Requests, at most, that are made to learn what all of them cost."""
log = logging.getLogger(__name__)


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Each text once, the longest first, so that those of a request are of one length: -> `U` texts, and the
    place `[I]` of each item's."""
    distinct = sorted(dict.fromkeys(texts), key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    return distinct, np.fromiter((place[text] for text in texts), np.int64, len(texts))


def encode_by_server(
    entry: CacheEntry, texts: Sequence[str], server: Server, width: int
) -> tuple[Path, NDArray[np.int64], dict[str, Any]]:
    """Vectors of `texts`: -> a file with `states` `[U, 1, D]`, the place `[I]` of each item in it, the cost.

    A pass that ended early is continued. Raises `UserError` where the server fails, or has another model in
    the end.
    """
    start, (distinct, rows) = time.perf_counter(), distinct_texts(texts)
    plan = digest({"key": entry.key, "batch": BATCH})
    spec = {"states": ((len(distinct), 1, width), torch.float32)}
    with closing(ResumableFile(entry.unfinished(plan), spec)) as file:
        earlier, done = file.seconds, min(file.batches * BATCH, len(distinct))
        if done:
            log.warning("resuming: %d of %d texts were encoded before", done, len(distinct))
        with Progress("encoding item texts", len(distinct), done) as progress:
            for begin in range(done, len(distinct), BATCH):
                batch = distinct[begin : begin + BATCH]
                try:
                    vectors = vectors_of(server, batch, width)  # [M, D]
                except (UserError, KeyboardInterrupt):
                    file.write_journal()
                    raise
                file.add(vectors)
                file.finish_batch()
                progress.advance(len(batch))
        file.write_journal()
    if probe(server, begun=True).digest != entry.key["probe"]:
        raise UserError(
            f"{server} has changed its model while texts were encoded; the same command begins anew."
        )
    cost = {
        "seconds": earlier + time.perf_counter() - start,
        "distinct_texts": len(distinct),
        "device": "server",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return file.path, rows, cost


def vectors_of(server: Server, texts: Sequence[str], width: int) -> Tensor:
    """`[M, D]` of `texts`. Raises `UserError` for vectors that are not `width` wide."""
    vectors = server.embed(texts)  # [M, D]
    if vectors.shape[1] != width:
        raise UserError(f"{server} gives vectors of {vectors.shape[1]} numbers after some of {width}.")
    return vectors


def seconds_by_server(texts: Sequence[str], server: Server) -> tuple[float, float]:
    """Seconds that the vectors of all `texts` will take, at least and at most, from a few requests."""
    distinct, _ = distinct_texts(texts)
    batches = [distinct[begin : begin + BATCH] for begin in range(0, len(distinct), BATCH)]
    taken = []
    for batch in batches[:: -(-len(batches) // SAMPLE)]:
        begin = time.perf_counter()
        server.embed(batch)
        taken.append(time.perf_counter() - begin)
    return min(taken) * len(batches), max(taken) * len(batches)
