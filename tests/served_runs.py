"""Small finished runs with kept weights, and their model folders, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_folders import BLINK, TEN, TWELVE, write_folder

from benchmark.results.record import RunRecord
from benchmark.run.run import run
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.serve.export import export

TEXTS = {**TEN, "j": TEN["a"], "b": "thing b with a much longer text than those of all other things"}
"""Two items of one text tie in every list."""


@dataclass(frozen=True)
class ServedRun:
    """A run and the folder that was exported from it."""

    resolved: ResolvedRun
    path: Path
    record: RunRecord
    folder: Path


def serve(root: Path, method: str, *overrides: str, llm: str = "random-tiny") -> ServedRun:
    """Train for two epochs with --keep-model, and export."""
    data = write_folder(root / "data", TWELVE, TEXTS)
    spec = RunSpec(str(data), llm, method, "fair", overrides=(*BLINK, "epochs=2", *overrides))
    path, record = run(spec, root / "results", keep_model=True)
    assert record.status == "ok", record.error
    return ServedRun(resolve_run(spec), path, record, export(path, root / "model"))
