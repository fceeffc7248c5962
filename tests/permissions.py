"""Permissions that bind whoever runs the tests, root too, who in a container usually does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root read and write whatever the permissions say."""
_VERSION = 0x20080522


@contextmanager
def permissions_bind() -> Iterator[None]:
    """Permissions of files hold for this thread, and for those that it starts, until the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for higher numbers
    if libc.capget(header, sets):
        pytest.skip("this system has no capabilities")
    before = sets[0]
    try:
        sets[0] = before & ~_OVERRIDES
        libc.capset(header, sets)
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in `folder` or below can be written until the block ends."""
    places = [folder, *folder.rglob("*")]
    modes = {place: place.stat().st_mode for place in places}
    try:
        for place, mode in modes.items():
            place.chmod(mode & ~0o222)
        with permissions_bind():
            yield
    finally:
        for place, mode in modes.items():
            place.chmod(mode)
