"""How fast a dataset is prepared, in how much memory, and against a plain pandas version.

    python -m benchmark.prepare_speed --rows 50000000 --pandas-rows 5000000 --memory 6 --json FILE

Makes long-tailed interactions and a catalogue in CSV files, then prepares them (exact repeats, join with the
items, iterative 5-core, sort, most recent 50, leave-one-out), each time in a fresh process. Ours is killed as
soon as its resident set exceeds `--memory`: limits of the kernel on address space (RLIMIT_AS, RLIMIT_DATA)
count what an allocator has given back but keeps reserved, and control groups need rights that few have. The
peak is the largest resident set that the kernel saw (`wait4`), mapped files included: no moment between two
looks is missed, and a run that exceeded the limit has failed. Both versions are checked to give the same
counts and the same digest of the content.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.data.prepare import prepare
from benchmark.data.recipe import Recipe
from benchmark.data.scratch import MEMORY_VARIABLE
from benchmark.files import write_json

Ints = npt.NDArray[np.int64]
CORE, RECENT = 5, 50
_CHUNK = 1 << 20
_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
_WORDS = (
    "classic", "portable", "stainless", "steel", "adjustable", "wireless", "cotton", "kitchen", "garden",
    "travel", "set", "large", "small", "black", "replacement", "cover", "case", "organizer", "holder",
    "light", "cable", "brush", "paper", "storage", "outdoor", "water", "filter", "pro", "kit",
)  # fmt: skip


def make_interactions(path: Path, rows: int, seed: int = 0) -> None:
    """Write `user_id,item_id,rating,timestamp`, in no order.

    A user for 3.4 and an item for 17 interactions, as in Amazon's book reviews. The activity of users is
    lognormal, the popularity of items falls with the power 2/3 of their rank; 1 row in 100 repeats the one
    before, 1 in 50 repeats its user and item at another time.
    """
    rng = np.random.default_rng(seed)
    users, items = max(rows * 5 // 17, 10), max(rows // 17, 10)
    ends = np.cumsum(rng.lognormal(0, 1.4, users))
    with path.open("wb") as file:
        file.write(b"user_id,item_id,rating,timestamp\n")
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            # sorted draws walk through `ends` in order, which is many times as fast; then they are dealt out
            user = np.searchsorted(ends, np.sort(rng.random(count)) * ends[-1])[rng.permutation(count)]
            item = (items * rng.random(count) ** 3).astype(np.int64)
            moment = rng.integers(1_000_000_000, 1_600_000_000, count)
            chance = rng.random(count)
            for again, columns in (
                (chance < 0.01, (user, item, moment)),
                ((chance >= 0.01) & (chance < 0.03), (user, item)),
            ):
                at = np.flatnonzero(again[1:]) + 1
                for column in columns:
                    column[at] = column[at - 1]
            lines: list[npt.NDArray[np.uint8] | bytes] = [
                _code(user, 13, b"A"), b",", _code(item, 8, b"B0"), b",", _digit(rng.integers(1, 6, count)),
                b".0,", _decimal(moment, 10), b"\n",
            ]  # fmt: skip
            file.write(_side_by_side(lines, count))


def make_items(path: Path, rows: int, seed: int = 0) -> None:
    """Write `item_id,title` of every item that may occur; 1 in 100 has no title."""
    rng = np.random.default_rng([seed, 1])
    items = max(rows // 17, 10)
    with path.open("w", encoding="utf-8") as file:
        file.write("item_id,title\n")
        for start in range(0, items, _CHUNK // 8):
            number = np.arange(start, min(start + _CHUNK // 8, items))
            names = _side_by_side([_code(number, 8, b"B0"), b"\n"], len(number)).decode().split()
            words = rng.integers(0, len(_WORDS), (len(number), 8)).tolist()
            bare = rng.random(len(number)) < 0.01
            for index, name in enumerate(names):
                title = "" if bare[index] else " ".join([_WORDS[word] for word in words[index]])
                file.write(f"{name},{title}{'' if bare[index] else f' {number[index]}'}\n")


def _code(number: Ints, width: int, head: bytes) -> npt.NDArray[np.uint8]:
    """`[n, len(head) + width]` characters: a number in base 36, scattered so that neighbours look unlike."""
    mixed = number * 2_654_435_761 % 36 ** min(width, 12)
    columns = np.empty((len(number), width), np.uint8)
    for column in reversed(range(width)):
        columns[:, column] = _DIGITS[mixed % 36]
        mixed //= 36
    heads = np.broadcast_to(np.frombuffer(head, np.uint8), (len(number), len(head)))
    return np.concatenate([heads, columns], axis=1)


def _decimal(number: Ints, width: int) -> npt.NDArray[np.uint8]:
    return (number[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)


def _digit(number: Ints) -> npt.NDArray[np.uint8]:
    return _decimal(number, 1)


def _side_by_side(parts: Sequence[npt.NDArray[np.uint8] | bytes], count: int) -> bytes:
    """Lines of equal length from columns `[count, width]` and constants."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1).tobytes()


def make(folder: Path, rows: int) -> Path:
    """A folder with both files, made unless it is there."""
    if not (folder / "items.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_interactions(folder / "interactions.csv", rows)
        make_items(folder / "items.csv", rows)
    return folder


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
    from benchmark.plain_pandas import prepare_with_pandas

    return prepare_with_pandas(folder, cache, CORE, RECENT)


VERSIONS = {"ours": ours, "pandas": with_pandas}


def measure(name: str, folder: Path, rows: int, memory: float | None) -> dict[str, Any]:
    """Run one version in a fresh process of at most `memory` gigabytes; its result, time and peak."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, "-m", "benchmark.prepare_speed", "--child", name, str(folder), cache]
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
    return {
        "schema_version": 1,
        "command": f"python -m benchmark.prepare_speed --rows {rows} --pandas-rows {pandas_rows} "
        f"--memory {memory:g}",
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the preparation of a large dataset.")
    parser.add_argument("--rows", type=int, default=50_000_000, help="interactions of the large set")
    parser.add_argument("--pandas-rows", type=int, default=5_000_000, help="of the set for both versions")
    parser.add_argument("--memory", type=float, default=6, help="gigabytes that our version may take")
    parser.add_argument("--folder", type=Path, help="where to make a temporary folder, some 200 bytes a row")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, cache = options.child
        print(json.dumps(VERSIONS[name](Path(folder), Path(cache))))
        return
    record = run(options.rows, options.pandas_rows, options.memory, options.folder)
    if options.json:
        write_json(options.json, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
