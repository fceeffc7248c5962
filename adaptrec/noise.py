"""Warnings of libraries that concern no user."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    "The pynvml package is deprecated",  # of torch, about how it reads the memory of a GPU
    "IProgress not found",  # of tqdm in a notebook, about widgets that nothing here draws
)


@contextmanager
def without_noise() -> Iterator[None]:
    """Print no warning of NOISE."""
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield
