"""Measure time and memory of phases, and describe the machine. What cannot be measured is None."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist

from benchmark.results.schema import Environment, PeakMemory

PACKAGES = (
    "adaptrec", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "pyarrow",
)  # fmt: skip
POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the energy counters of processors."""


class Stopwatch:
    """Wall seconds, CPU seconds and energy of phases.

    The device is synchronised at both ends. Wall time is the slowest process's; CPU time, which another
    program on the machine hardly disturbs, is summed over threads and processes. Energy is that of whole
    devices, whatever else runs on them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.joules: dict[str, dict[str, float]] = {}
        """Phase -> `gpu` and `cpu`, as far as they can be measured -> joules."""
        self._counters = energy_counters(device)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under `name`; the last block of a name stands in `seconds`."""
        self._synchronise()
        energy = [counter.read() for counter in self._counters]
        begin, cpu = time.perf_counter(), time.process_time()
        yield
        self._synchronise()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        self.joules[name] = self._used(energy)
        self.seconds[name] = over_processes(wall, self.device, slowest=True)
        self.cpu_seconds[name] = over_processes(cpu, self.device, slowest=False)

    def _used(self, before: Sequence[float]) -> dict[str, float]:
        """Joules by kind since `before`: GPUs of all processes; the processors, which they share, once."""
        used = dict[str, float]()
        for counter, first in zip(self._counters, before, strict=True):
            used[counter.kind] = used.get(counter.kind, 0.0) + counter.since(first)
        if not (dist.is_available() and dist.is_initialized()):
            return used
        everyone: list[dict[str, float]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, used)
        measured = set.intersection(*(set(own) for own in everyone))  # what a machine lacks has no sum
        return {
            kind: (sum if kind == "gpu" else max)(own[kind] for own in everyone) for kind in sorted(measured)
        }

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class EnergyCounter:
    """What a device has used since some moment."""

    kind: Literal["gpu", "cpu"]
    read: Callable[[], float]
    """Joules."""
    wraps: float = 0.0
    """Joules at which the counter starts again from 0; 0 where it does not."""

    def since(self, before: float) -> float:
        """Joules since it stood at `before`; it may have started again once."""
        used = self.read() - before
        return used + self.wraps if used < 0 else used


def energy_counters(device: torch.device, powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """The counters of the GPU by NVML, and of the processor packages by RAPL; what cannot be read has none.

    Many systems let only root read RAPL, and virtual machines have none.
    """
    counters = [counter for folder in sorted(powercap.glob("intel-rapl:*")) if (counter := _package(folder))]
    if device.type == "cuda" and (handle := _nvml_handle(device)) is not None:
        import pynvml

        def read() -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # millijoules

        with contextlib.suppress(Exception):  # NVML fails in many ways: GPUs before Volta have no counter
            read()
            counters.append(EnergyCounter("gpu", read))
    return counters


def _package(folder: Path) -> EnergyCounter | None:
    """The counter of a processor package; None of other domains (`intel-rapl:0:0` is a part of a package)."""
    if folder.name.count(":") != 1:
        return None

    def read() -> float:
        return int((folder / "energy_uj").read_text()) / 1e6  # microjoules

    try:
        read()
        return EnergyCounter("cpu", read, int((folder / "max_energy_range_uj").read_text()) / 1e6)
    except (OSError, ValueError):
        return None


def over_processes(value: float, device: torch.device, *, slowest: bool) -> float:
    """The largest `value` over all processes, or the sum."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    holder = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(holder, op=dist.ReduceOp.MAX if slowest else dist.ReduceOp.SUM)
    return float(holder)


class MemoryGauge:
    """Peak memory of phases, each the largest over its occurrences and over the processes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, PeakMemory] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch the block; its peaks are merged into `peaks[name]`."""
        _reset_host_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            yield
        finally:  # what ran out of memory has a peak too
            now = PeakMemory(host=_host_peak())
            if self.device.type == "cuda":
                now.allocated = torch.cuda.max_memory_allocated(self.device)
                now.reserved = torch.cuda.max_memory_reserved(self.device)
                now.process = _nvml_process_memory(self.device)
            self.peaks[name] = _largest([self.peaks.get(name, now), now])

    def over_processes(self) -> dict[str, PeakMemory]:
        """Peaks of each phase, the largest over the processes."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.peaks
        everyone: list[dict[str, PeakMemory]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, self.peaks)
        return {name: _largest([peaks[name] for peaks in everyone if name in peaks]) for name in self.peaks}


def _largest(peaks: Sequence[PeakMemory]) -> PeakMemory:
    """The largest of each kind of memory, null where none was measured."""
    kinds = {name: [getattr(peak, name) for peak in peaks] for name in PeakMemory.model_fields}
    return PeakMemory(
        **{name: max((v for v in values if v is not None), default=None) for name, values in kinds.items()}
    )


def _reset_host_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew


def _host_peak() -> int | None:
    """Peak resident bytes since the last reset; null where the system has no such counter."""
    kibibytes = _field("/proc/self/status", "VmHWM")
    return int(kibibytes.split()[0]) * 1024 if kibibytes else None


def _field(file: str, name: str) -> str | None:
    """The value of the first line `name: value` of a file of Linux; None where there is none."""
    with contextlib.suppress(OSError):
        if match := re.search(rf"^{name}\s*:\s*(.+)", Path(file).read_text(), re.MULTILINE):
            return match[1].strip()
    return None


def _nvml_handle(device: torch.device) -> Any:
    """What NVML knows the GPU by; None where there is no NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception:  # NVML fails in many ways, all of which mean: not measurable here
        return None


def _nvml_process_memory(device: torch.device) -> int | None:
    """GPU bytes of this process by NVML; null where the driver hides processes (containers, MIG)."""
    try:
        import pynvml

        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(_nvml_handle(device)):
            if process.pid == os.getpid():
                return process.usedGpuMemory and int(process.usedGpuMemory)
    except Exception:  # as above
        return None
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the device or the host ran out of memory."""
    from accelerate.utils.memory import should_reduce_batch_size

    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, Exception) and should_reduce_batch_size(error))


def one_line(error: BaseException, limit: int) -> str:
    """The message of `error` on one line of at most `limit` characters; its type if it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def environment(device: torch.device, precision: str, world_size: int) -> Environment:
    """The machine and the code that made a run."""
    commit, dirty = _git_state()
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: number for name in PACKAGES if (number := _version(name))},
        device=device.type,
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        world_size=world_size,
        precision=precision,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        git_commit=commit,
        git_dirty=dirty,
    )


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with the cores that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"{processor}, {usable_cores()} cores"


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(psutil.Process, "cpu_affinity"):
        return len(psutil.Process().cpu_affinity() or ())
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the project's checkout and whether tracked files differ from it; nulls outside one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def pick_device() -> torch.device:
    """The GPU of this process if it has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively, so that mixed precision pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe()) and sys.platform == "linux"
