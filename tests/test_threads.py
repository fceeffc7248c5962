"""How threads wait is said before torch loads, and never over the user's head."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmark.process.startup import SPINS, wait_briefly

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({}, ("PASSIVE", SPINS)),
        ({"OMP_WAIT_POLICY": "active"}, ("active", None)),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
    ],
)
def test_threads_wait_as_the_user_set(
    message: dict[str, str], found: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in message.items():
        monkeypatch.setenv(name, value)

    wait_briefly()
    assert tuple(os.environ.get(name) for name in NAMES) == found


@pytest.mark.parametrize("module", ["benchmark.__main__", "studies.__main__"])
def test_commands_set_it_before_torch_loads(module: str) -> None:
    code = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', 0); os.environ.pop('GOMP_SPINCOUNT', 0);"
        "import builtins; real = builtins.__import__\n"
        "def watched(name, *rest):\n"
        "    if name == 'torch': assert 'GOMP_SPINCOUNT' in os.environ, 'too late'\n"
        "    return real(name, *rest)\n"
        f"builtins.__import__ = watched; import {module}; print(os.environ['GOMP_SPINCOUNT'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == SPINS, done.stderr
