"""Preparation with this project and with pandas, each timed in a fresh process."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmark.data.database import MEMORY_VARIABLE
from benchmark.data.prepare import prepare
from benchmark.data.recipe import Recipe
from studies import FOLDER, command_line
from studies.prepare_speed.generate import make

CORE, RECENT = 5, 50


def ours(folder: Path, cache: Path) -> dict[str, Any]:
    """Prepare with this project; counts, digest and the time of each step."""
    recipe = Recipe(
        name="made", source=folder, format="csv", core=CORE, recent=RECENT, duplicate_reviews="drop"
    )
    steps: list[tuple[str, float, float]] = []

    def begin(step: str) -> None:
        steps.append((step, time.perf_counter(), time.process_time()))

    prepared = prepare(recipe, cache, begin)
    begin("end")
    facts = prepared.fingerprint
    return {
        "counts": {name: facts[name] for name in ("users", "items", "interactions")},
        "sha256": facts["sha256"],
        "dropped": facts["dropped"],
        "steps": {
            step: {"seconds": round(after - wall, 2), "cpu_seconds": round(cpu_after - cpu, 2)}
            for (step, wall, cpu), (_, after, cpu_after) in pairwise(steps)
        },
    }


def with_pandas(folder: Path, cache: Path) -> dict[str, Any]:
    """The same with pandas."""
    from studies.prepare_speed.plain_pandas import prepare_with_pandas

    return prepare_with_pandas(folder, cache, CORE, RECENT)


VERSIONS = {"ours": ours, "pandas": with_pandas}


def measure(name: str, folder: Path, rows: int, memory: float | None) -> dict[str, Any]:
    """Run one version in a fresh process of at most `memory` gigabytes; its result, time and peak."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, str(FOLDER), "prepare_speed", "--child", name, str(folder), cache]
        environment = {**os.environ, **({MEMORY_VARIABLE: str(memory)} if memory else {})}
        began = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
            usage = _watched(child, memory)
            assert child.stdout is not None
            written = child.stdout.read()
        seconds = time.perf_counter() - began
        if child.returncode or (memory and usage.ru_maxrss * 1024 > memory * 1e9):
            why = f"exit status {child.returncode}, peak {usage.ru_maxrss * 1024 / 1e9:.2f} GB"
            return {"rows": rows, "status": f"failed: {why}", "seconds": round(seconds, 1)}
        size = sum(path.stat().st_size for path in Path(cache).rglob("*.arrow"))
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "rows": rows,
        "status": "ok",
        "limit_gb": memory,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_second": round(rows / seconds),
        "rows_per_cpu_second": round(rows / cpu),
        "peak_rss_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "prepared_gb": round(size / 1e9, 2),
        **json.loads(written),
    }


def _watched(child: subprocess.Popen[bytes], memory: float | None) -> resource.struct_rusage:
    """What the process used, when it has ended; it is killed if its memory exceeds `memory` gigabytes."""
    pages = Path(f"/proc/{child.pid}/statm")
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if memory and int(pages.read_text().split()[1]) * resource.getpagesize() > memory * 1e9:
            child.kill()
        time.sleep(0.02)


def run(rows: int, pandas_rows: int, memory: float, parent: Path | None) -> dict[str, Any]:
    """Everything: the large set with this project, the small one with both."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="prepare-speed.") as folder:
        results: dict[str, Any] = {}
        for name, version_of, count, limit in _plan(rows, pandas_rows, memory):
            made = make(Path(folder) / str(count), count)
            _say(f"{name}: {count:,} rows")
            results[name] = measure(version_of, made, count, limit)
            _say(json.dumps(results[name]))
    left, right = results["ours, small"], results["pandas, small"]
    same = all(left.get(key) == right.get(key) for key in ("counts", "sha256"))
    ratios = {
        key: round(right[key] / left[key], 2)
        for key in ("seconds", "cpu_seconds", "peak_rss_gb")
        if right["status"] == left["status"] == "ok"
    }
    words = ["--rows", str(rows), "--pandas-rows", str(pandas_rows), "--memory", f"{memory:g}"]
    return {
        "schema_version": 1,
        "command": command_line("prepare_speed", words),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "core": CORE,
        "recent": RECENT,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("duckdb", "pyarrow", "numpy", "pandas")},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "results": results,
        "same_result": same,
        "pandas_over_ours": ratios,
    }


def _plan(rows: int, pandas_rows: int, memory: float) -> Iterator[tuple[str, str, int, float | None]]:
    yield "ours, small", "ours", pandas_rows, memory
    yield "pandas, small", "pandas", pandas_rows, None
    yield "ours", "ours", rows, memory


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
