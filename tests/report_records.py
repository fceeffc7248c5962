"""Synthetic run records for the tests of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.results.figures import Results
from benchmark.results.groups import RunGroup
from benchmark.results.record import Certificate, Cost, Epoch, RunRecord, ranks_path
from benchmark.results.schema import METRICS, Environment, PeakMemory
from benchmark.results.store import StoredRun, place

GIB = 2**30
USERS = 1000
"""Test users of a record."""
COLD = 4
"""Those with a cold target, where there are any."""
ENVIRONMENT: dict[str, Any] = {
    "python": "3.11",
    "platform": "Linux",
    "packages": {},
    "device": "cpu",
    "device_name": "A CPU",
    "threads": 1,
    "world_size": 1,
    "precision": "no",
}


def metrics(recall: float) -> dict[str, float]:
    """Those of users a share of whom, `recall`, has rank 3, and as large a share rank 15."""
    return dict(zip(METRICS, (recall, min(recall * 2, 1.0), recall / 2, recall * 0.75), strict=True))


def ranks(recall: float) -> np.ndarray:
    """Ranks of USERS that have `metrics(recall)`."""
    hits = round(recall * USERS)
    return np.repeat([3, 15, 1000], [hits, hits, USERS - 2 * hits]).astype(np.int32)


def warm(whole: dict[str, float], cold: dict[str, float]) -> dict[str, float]:
    """Metrics of warm targets that with those of COLD cold ones make the whole."""
    return {name: (USERS * whole[name] - COLD * cold[name]) / (USERS - COLD) for name in METRICS}


def curve(best: float, epochs: int, peak: int, seconds: float) -> list[Epoch]:
    """Rises to `best` at epoch `peak` and sinks slowly after it."""
    points = []
    for epoch in range(1, epochs + 1):
        value = best * (1 - 0.7 ** (epoch + 1)) / (1 - 0.7 ** (peak + 1)) if epoch <= peak else best * 0.97
        points.append(
            Epoch(
                epoch=epoch,
                loss=6 / epoch,
                train_seconds=seconds,
                train_cpu_seconds=2 * seconds,
                eval_seconds=0.3,
                save_seconds=0.1,
                valid=metrics(value),
                valid_masked=metrics(value * 1.1),
            )
        )
    return points


def record(method: str = "ssna", recall: float = 0.1, seed: int = 0, **changes: Any) -> RunRecord:
    """A finished run; `changes` are fields of the record, or of its environment, or `memory` and `cold`."""
    seconds, memory = changes.pop("seconds", 2.0), changes.pop("memory", PeakMemory(host=GIB))
    cold = changes.pop("cold", None)
    environment = {**ENVIRONMENT, **{k: changes.pop(k) for k in list(changes) if k in ENVIRONMENT}}
    overrides = sorted(changes.pop("overrides", []))
    protocol, llm = changes.get("protocol", "paper"), changes.get("llm", "minilm")
    found = {"test": metrics(recall), "test_masked": metrics(recall * 1.1), "valid": metrics(recall)}
    found["valid_masked"] = metrics(recall * 1.1)
    if cold is not None:
        found |= {"test_warm": warm(found["test"], metrics(cold)), "test_cold": metrics(cold)}
    fields: dict[str, Any] = {
        "status": "ok",
        "dataset": "toy",
        "data": {"key": "k1", "fingerprint": {"users": 1200, "items": 300, "interactions": 9000}},
        "llm": llm,
        "llm_details": {},
        "method": method,
        "method_source": {"distribution": "adaptrec", "version": "0.1.0", "external": False},
        "protocol": protocol,
        "settings": {"candidates": "batch", "batch_size": 256},
        "overrides": overrides,
        "hyperparameters": {},
        "config_hash": "-".join([method, protocol, *overrides]),
        "protocol_hash": f"{protocol}-{llm}",
        "seed": seed,
        "epochs_run": 12,
        "best_epoch": 8,
        "stopped": "patience",
        "metrics": found,
        "cold_targets": 0 if cold is None else COLD,
        "curve": curve(recall, 12, 8, seconds),
        "cost": Cost(
            prepare_seconds=None if llm is None else 31.25,
            epoch_seconds=seconds,
            epoch_cpu_seconds=2 * seconds,
            train_seconds=12 * seconds,
            peak_memory={"train": memory},
            trainable_parameters=1_234_567,
        ),
        "environment": Environment(**environment),
        "created": "2026-01-01T00:00:00+00:00",
    }
    return RunRecord(**{**fields, **changes})


def tuned(method: str, recall: float, pool: float = 31.4, **changes: Any) -> RunRecord:
    """A finished run of a method that trains the language model: slower, alive, from a known start."""
    made = record(method, recall, **{"seconds": 60.0, "memory": PeakMemory(host=3 * GIB), **changes})
    made.initial = {"valid": metrics(0.02), "valid_masked": metrics(0.03)}
    made.liveness = Certificate(
        trainable_tensors=90,
        trainable_parameters=1_234_567,
        frozen_tensors=100,
        frozen_digest="f" * 64,
        reached=90,
        changed=90,
        ranks_moved=0.97,
    )
    made.cost.candidates, made.cost.encodings_per_epoch, made.cost.chunk_tokens = pool, 120_000, 4096
    return made


def failure(method: str, status: str = "failed", **changes: Any) -> RunRecord:
    """A run that came to nothing."""
    nothing = {
        "error": f"{method} broke\nbadly",
        "metrics": {},
        "curve": [],
        "cost": Cost(),
        "best_epoch": None,
        "epochs_run": 0,
    }
    return record(method, status=status, **{**nothing, **changes})


def study() -> list[RunRecord]:
    """Two protocols, several seeds, cold targets, failures, memory of both kinds and of none, a control, and
    methods that train the language model, under `paper` against other candidates than the rest."""
    data = {
        "key": "k1",
        "fingerprint": {"users": 1200, "items": 300, "interactions": 9000},
        "chance": {split: metrics(0.03) for split in ("test", "test_masked", "test_warm", "test_cold")},
        "ceiling": {split: metrics(0.6) for split in ("test", "test_warm", "test_cold")},
    }
    runs = []
    for protocol, lift in (("paper", 0.0), ("fair", 0.05)):
        common: dict[str, Any] = {"data": data, "protocol": protocol}
        for seed in range(3):
            runs.append(record("ssna", 0.3 + lift + 0.01 * seed, seed, cold=0.25, seconds=9.5, **common))
        runs.append(record("ssna-mean", 0.29 + lift, cold=0.24, seconds=8.8, memory=PeakMemory(), **common))
        runs.append(record("ssna", 0.305 + lift, cold=0.2, seconds=10.4, overrides=["ids=add"], **common))
        runs.append(record("tmlp", 0.21 + lift, cold=0.15, seconds=0.8, **common))
        runs.append(record("tmoe", 0.25 + lift, cold=0.2, seconds=2.2, **common))
        source = {"distribution": "their_pkg", "version": "2.1", "external": True}
        runs.append(record("pre_fix", 0.22 + lift, cold=0.1, seconds=140.0, method_source=source, **common))
        runs.append(record("id", 0.2 + lift, cold=0.03, seconds=0.7, llm=None, **common))
        pool = 31.4 if protocol == "paper" else 301.0
        runs.append(tuned("lora", 0.31 + lift, pool, cold=0.26, **common))
        slow: dict[str, Any] = {"overrides": ["encode=occurrences"], "seconds": 410.0}
        runs.append(tuned("lora", 0.308 + lift, pool, cold=0.25, **slow, **common))
        runs.append(tuned("full", 0.33 + lift, pool, cold=0.27, seconds=35.0, **common))
        runs.append(failure("adalora", error="no rank of AdaLoRA moved from 12", **common))
        runs.append(failure("peft", "oom", overrides=["rank=512"], **common))
        for run in runs:
            if run.status == "ok" and not run.liveness:
                run.cost.candidates = 251.7 if run.protocol == "paper" else 301.0
        runs.append(failure("tmoe", seed=1, **common))
    return runs


def few() -> list[RunRecord]:
    """A part of the study that is quick to draw: two protocols, several seeds, a control, a failure."""
    return [run for run in study() if run.method in {"ssna", "tmlp", "id", "adalora"} and not run.overrides]


def as_runs(records: Iterable[RunRecord], root: Path = Path("results")) -> list[StoredRun]:
    """The runs of records, as if they lay below `root`; their ranks do not."""
    return [StoredRun(root / place(record), record) for record in records]


def results_of(records: Iterable[RunRecord], root: Path = Path("results"), **more: Any) -> Results:
    """The results of records, as if they lay below `root`."""
    return Results(tuple(as_runs(records, root)), **more)


def grouped(records: Iterable[RunRecord], metrics: Sequence[str] = METRICS) -> list[RunGroup]:
    """The tables of these records."""
    return list(results_of(records, metrics=tuple(metrics)).groups.values())


def store(folder: Path, runs: list[RunRecord]) -> Path:
    """Write the records where a run would, with their ranks."""
    for run in runs:
        write(run, folder / place(run))
    return folder


def write_at(path: Path, **changes: Any) -> RunRecord:
    """Write a record that is the one that `path` names."""
    dataset, llm, method, name = path.parts[-4:]
    config_hash, _, seed = name.removesuffix(".json").rpartition("-s")
    named = {"dataset": dataset, "llm": None if llm == "none" else llm, "config_hash": config_hash}
    run = record(method, seed=int(seed), **{**named, **changes})
    write(run, path)
    return run


def write(run: RunRecord, path: Path) -> None:
    """Write a record, and where its run ended well its ranks."""
    run.write(path)
    if run.status == "ok":
        raw, masked = (ranks(run.metrics[split]["recall@10"]) for split in ("test", "test_masked"))
        columns = {"rank": raw, "tied": 1, "rank_masked": masked, "tied_masked": 1}
        pd.DataFrame({"user": range(USERS), **columns}).to_parquet(ranks_path(path))
