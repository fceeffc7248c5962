"""Items whose texts are equal or nearly equal.

Near-equal texts are found by MinHash over character n-grams, in bands (Broder 1997, "On the resemblance and
containment of documents"), and each candidate is verified by its exact Jaccard similarity. Time and memory
grow with the length of the catalogue, not with its square.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from benchmark.data.pipeline import UNKNOWN_ITEM

SIMILARITY = 0.8
"""Least Jaccard similarity of the sets of n-grams of two near-equal texts."""
N_GRAM = 5
"""Characters of an n-gram."""
BANDS, BAND_HASHES = 20, 6
"""A pair is a candidate where all hashes of a band agree: .998 of the pairs of similarity .8, .27 at .5."""
NEIGHBOURS = 50
"""Texts of a bucket that a text is compared with, so that a bucket of many costs no square."""
CHUNK = 1 << 16
"""Candidates that are verified at once."""

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Classes = list[list[int]]


def normalised(text: str) -> str:
    """The words of a text in lower case, separated by one space; other characters are left out."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def duplicate_classes(texts: Sequence[str]) -> tuple[Classes, Classes]:
    """Classes of two items or more, largest first: those of equal texts after normalisation, and those of
    equal or near-equal texts. Items without text are in none.

    A class is what a chain of near-equal pairs connects.
    """
    equal: dict[str, list[int]] = {}
    for item, text in enumerate(texts):
        if text != UNKNOWN_ITEM and (words := normalised(text)):
            equal.setdefault(words, []).append(item)
    pairs = near_pairs(list(equal))  # [P, 2]
    graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(len(equal), len(equal)))
    near: dict[int, list[int]] = {}
    for items, label in zip(equal.values(), connected_components(graph, directed=False)[1], strict=True):
        near.setdefault(int(label), []).extend(items)
    return _several(equal.values()), _several(near.values())


def _several(classes: Any) -> Classes:
    """The classes of two items or more, each ascending, the largest first."""
    return sorted((sorted(items) for items in classes if len(items) > 1), key=lambda c: (-len(c), c))


def near_pairs(texts: Sequence[str]) -> Ints:
    """Pairs of different texts whose sets of n-grams have a Jaccard similarity of at least SIMILARITY:
    `[P, 2]` indices, the smaller one first."""
    if len(texts) < 2:
        return np.zeros((0, 2), np.int64)
    sets = [_n_grams(text) for text in texts]
    sizes = np.array(list(map(len, sets)))  # [n]
    offsets = np.concatenate([[0], np.cumsum(sizes)])  # [n+1]
    hashes = np.concatenate(sets)  # [G]
    candidates = _candidates(hashes, offsets)  # [C, 2]
    names, columns = np.unique(hashes, return_inverse=True)
    holds = sparse.csr_array((np.ones(len(columns)), columns, offsets), shape=(len(texts), len(names)))
    kept = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(candidates), CHUNK):
        first, second = candidates[start : start + CHUNK].T
        common = holds[first].multiply(holds[second]).sum(axis=1)  # [c]
        similar = common >= SIMILARITY * (sizes[first] + sizes[second] - common)
        kept.append(candidates[start : start + CHUNK][similar])
    return np.concatenate(kept)


def _n_grams(text: str) -> Hashes:
    """Hashes of the distinct n-grams of a text, ascending; a shorter text is one n-gram."""
    codes = np.frombuffer(text.ljust(N_GRAM).encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(codes) - N_GRAM + 1, np.uint64)
    for place in range(N_GRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + len(hashes)]  # modulo 2**64
    distinct: Hashes = np.unique(hashes)
    return distinct


def _candidates(hashes: Hashes, offsets: Ints) -> Ints:
    """Pairs of texts that agree in all minima of a band: `[C, 2]`.

    The n-grams of text t are `hashes[offsets[t]:offsets[t + 1]]`.
    """
    rng = np.random.default_rng(0)
    factors, terms, mix = (
        rng.integers(0, 2**64, (BANDS, BAND_HASHES), np.uint64) | np.uint64(1) for _ in range(3)
    )
    n = len(offsets) - 1
    codes = [np.zeros(0, np.int64)]
    for band in range(BANDS):
        key = np.zeros(n, np.uint64)  # [n] one number for the minima of a band
        for factor, term, odd in zip(factors[band], terms[band], mix[band], strict=True):
            drawn = (hashes * factor + term) >> np.uint64(32)  # [G] multiply-shift
            key += np.minimum.reduceat(drawn, offsets[:-1]) * odd
        order = np.argsort(key, kind="stable")
        for distance in range(1, min(NEIGHBOURS, n - 1) + 1):
            same = key[order[distance:]] == key[order[:-distance]]
            if not same.any():
                break
            pair = np.sort(np.stack([order[:-distance][same], order[distance:][same]]), axis=0)  # [2, p]
            codes.append(pair[0] * n + pair[1])
    pairs = np.unique(np.concatenate(codes))  # [C] pair as one number
    return np.stack(np.divmod(pairs, n), axis=1)
