"""The provenance of a figure of the report: the configuration of its runs, for `Section.records`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.config import SEARCHED
from benchmark.results.published import has_best_values
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
    runs = [each.record for each in stored]
    run = runs[0]
    packages = run.environment.packages
    environment = {name: getattr(run.environment, name) for name in SHOWN_ENVIRONMENT}
    trained = [
        "not trained"
        if each.untrained and each.status == "ok"
        else f"{each.epochs_run} epochs, the best {each.best_epoch}"
        if each.status == "ok"
        else each.status
        for each in runs
    ]
    return {
        "command": _command(runs),
        "files": [below_results(each.path) for each in stored],
        "dataset": run.dataset,
        "language model": run.llm or "none",
        "method": run.method,
        "protocol": run.protocol,
        "overrides": list(run.overrides),
        "seeds": {f"seed {each.seed}": status for each, status in zip(runs, trained, strict=True)},
        "tuning": _tuning(run.tuning),
        "hyper-parameters": dict(run.hyperparameters),
        "settings": dict(run.settings),
        "data": {"key": run.data.get("key"), **_plain(run.data.get("fingerprint") or {})},
        "language model, details": dict(run.llm_details),
        "environment": {**environment, "packages": ", ".join(f"{n} {v}" for n, v in packages.items())},
        **({"generation of the harness": run.generation} if run.generation else {}),
        "configuration hash": run.config_hash,
        "protocol hash": run.protocol_hash,
        "made": ", ".join(each.created for each in runs),
    }


def _tuning(search: Tuning | None) -> dict[str, Any]:
    """Where hyper-parameters come from; empty where from the protocol and the user alone."""
    if search is None:
        return {}
    summary: dict[str, Any] = {
        "mode": search.mode,
        "chosen": list(search.chosen),
        "source": search.source,
        "searched": search.grid,
    }
    if search.trials:
        summary |= {
            "trials": len(search.trials),
            "seed": search.seed,
            "seconds": round(search.train_seconds, 1),
        }
    return {name: value for name, value in summary.items() if value}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is nested: counts that only a reader of the record needs."""
    return {name: value for name, value in values.items() if not isinstance(value, (dict, list))}


def _command(runs: Sequence[RunRecord]) -> str:
    run = runs[0]
    words = ["python", "-m", "benchmark", "bench", "--datasets", run.dataset]
    words += (run.data.get("recipe") or {}).get("given", [])
    words += ["--llms", run.llm] if run.llm else []
    words += ["--methods", run.method, "--protocols", run.protocol]
    if run.protocol == SEARCHED or has_best_values(run.llm or "", run.dataset):  # bench would tune
        words += ["--tune", "none"]
    words += ["--seeds", ",".join(str(record.seed) for record in runs)]
    if run.environment.world_size > 1:
        words += ["--processes", str(run.environment.world_size)]
    return shlex.join(words + (["--set", *run.overrides] if run.overrides else []))
