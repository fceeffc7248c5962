"""The provenance of a figure of the report: the configuration of its runs, for `Section.records`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.results.record import RunRecord, Tuning, below_results
from benchmark.results.stored import StoredRun

SHOWN_ENVIRONMENT = (
    "device_name", "device", "world_size", "threads", "precision", "python", "platform", "git_commit",
    "git_dirty",
)  # fmt: skip


def configuration(stored: Sequence[StoredRun]) -> dict[str, Any]:
    """The configuration that runs, one a seed, have in common, the command to make them again, their files.

    JSON-able. Two keys mean something to the page: `command` is code, `files` are links below the results.
    """
    runs = [one.record for one in stored]
    run = runs[0]
    packages = run.environment.packages
    environment = {name: getattr(run.environment, name) for name in SHOWN_ENVIRONMENT}
    trained = [
        f"{one.epochs_run} epochs, the best {one.best_epoch}" if one.status == "ok" else one.status
        for one in runs
    ]
    return {
        "command": _command(runs),
        "files": [below_results(one.path) for one in stored],
        "dataset": run.dataset,
        "language model": run.llm or "none",
        "method": run.method,
        "protocol": run.protocol,
        "overrides": list(run.overrides),
        "seeds": {f"seed {one.seed}": status for one, status in zip(runs, trained, strict=True)},
        "tuning": _tuning(run.tuning),
        "hyper-parameters": dict(run.hyperparameters),
        "settings": dict(run.settings),
        "data": {"key": run.data.get("key"), **_plain(run.data.get("fingerprint") or {})},
        "language model, details": dict(run.llm_details),
        "environment": {**environment, "packages": ", ".join(f"{n} {v}" for n, v in packages.items())},
        **({"generation of the harness": run.generation} if run.generation else {}),
        "configuration hash": run.config_hash,
        "protocol hash": run.protocol_hash,
        "made": ", ".join(one.created for one in runs),
    }


def _tuning(found: Tuning | None) -> dict[str, Any]:
    """Where hyper-parameters come from; empty where from the protocol and the user alone."""
    if found is None:
        return {}
    told: dict[str, Any] = {
        "mode": found.mode,
        "chosen": list(found.chosen),
        "source": found.source,
        "searched": found.grid,
    }
    if found.trials:
        told |= {"trials": len(found.trials), "seed": found.seed, "seconds": round(found.train_seconds, 1)}
    return {name: value for name, value in told.items() if value}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is nested: counts that only a reader of the record needs."""
    return {name: value for name, value in values.items() if not isinstance(value, (dict, list))}


def _command(runs: Sequence[RunRecord]) -> str:
    run = runs[0]
    words = ["python", "-m", "benchmark", "bench", "--datasets", run.dataset]
    words += (run.data.get("recipe") or {}).get("given", [])
    words += ["--llms", run.llm] if run.llm else []
    words += ["--methods", run.method, "--protocols", run.protocol]
    words += ["--seeds", ",".join(str(one.seed) for one in runs)]
    if run.environment.world_size > 1:
        words += ["--processes", str(run.environment.world_size)]
    return shlex.join(words + (["--set", *run.overrides] if run.overrides else []))
