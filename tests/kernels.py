"""A process of Jupyter for a test; skipped where Jupyter is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from benchmark.process.startup import environment

jupyter = pytest.importorskip("jupyter_client", reason="wants jupyter_client")
pytest.importorskip("ipykernel", reason="wants ipykernel")

LIMIT = 300
"""Seconds until something counts as hung."""


class Kernel:
    """A process of Jupyter in `folder`, which imports the project as a child of it does."""

    def __init__(self, folder: Path) -> None:
        self.manager = jupyter.KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, **environment()})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT)
        self.process = psutil.Process(self.manager.provisioner.pid)

    def stop(self) -> None:
        """End it at once."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
