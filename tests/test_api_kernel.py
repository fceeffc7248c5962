"""`adaptrec` where users call it: in a kernel that is interrupted, and in a plain script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from data_folders import BLINK
from kernels import LIMIT, Kernel

from benchmark.process.startup import environment


class Cells(Kernel):
    """A kernel whose cells a test begins and waits for."""

    def begin(self, code: str) -> str:
        return str(self.client.execute(code))

    def end(self, cell: str) -> tuple[str, str]:
        """What a cell printed, and the name of the error that ended it."""
        printed, error = "", ""
        while True:
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error = content["ename"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, error


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Cells]:
    kernel = Cells(tmp_path)
    yield kernel
    kernel.stop()


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cell_that_is_interrupted_leaves_nothing_and_the_next_goes_on(
    kernel: Cells, folder: Path, tmp_path: Path
) -> None:
    settings = ", ".join(f"{key}={value!r}" for key, value in (pair.split("=") for pair in BLINK))
    settings += ", epochs=100_000, patience=0"
    call = f"adaptrec.bench({str(folder)!r}, methods='id', protocols='paper', {settings})"
    endless = kernel.begin(f"import adaptrec\n{call}")
    wait_for(lambda: list(tmp_path.rglob("last.pt")))
    assert any("benchmark" in child.cmdline() for child in kernel.process.children())
    kernel.manager.interrupt_kernel()
    printed, error = kernel.end(endless)
    assert error == "KeyboardInterrupt" and "stopping 1 run; its checkpoint stays" in printed
    assert [child.cmdline() for child in kernel.process.children()] == []
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".claim", ".lock", ".status")]

    again = kernel.begin(call)
    wait_for(lambda: any("going on after epoch" in log.read_text() for log in tmp_path.rglob("*.log")))
    kernel.manager.interrupt_kernel()
    printed, error = kernel.end(again)
    assert error == "KeyboardInterrupt"
    assert re.search(
        r"\[1/1\] small none id paper seed 0 .* goes on; its log: results/small/none/id/", printed
    )
    assert "FutureWarning" not in printed


def test_the_script_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    script = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "compare.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "compare.py"], cwd=tmp_path, env={**os.environ, **environment()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" begins; its log: ") == 2, "the script itself is not run again"
    assert re.search(r"^chance ", done.stdout, re.MULTILINE)
    assert re.search(r"^probe \(epochs=2, width=32\) +(0\.\d+ *){4}$", done.stdout, re.MULTILINE)
    assert re.search(r"^2 +\d\.\d+ +0\.\d+$", done.stdout, re.MULTILINE)
    assert len(list((tmp_path / "results").rglob("*-s0.json"))) == 2
