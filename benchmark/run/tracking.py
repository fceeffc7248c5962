"""Report a run to trackers of experiments, by Accelerate's classes: `--track tensorboard,wandb,mlflow`.

The record is the result; a tracker shows its course where a team looks. A tracker that fails is named once on
the log and left out from there on: it never fails a run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.escape import fenced
from benchmark.results.record import Epoch, RunRecord
from benchmark.run.spec import ResolvedRun
from methods.errors import UserError, unknown

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Tracker -> the package that it needs."""
PROJECT = "adaptrec"
FOLDER = "tracking"
"""Below the results: where trackers write that are not sent elsewhere by variables of their own."""


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers, each once. Raises `UserError` for an unknown one, and where its package is missing."""
    for name in names:
        if name not in PACKAGES:
            raise unknown("tracker", name, PACKAGES)
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"--track {name} needs the package {PACKAGES[name]}, which is not installed; "
                f"`pip install {PACKAGES[name]}` does it."
            )
    return tuple(dict.fromkeys(names))


class Tracking:
    """The trackers of one run; in other processes than the main one it has none."""

    def __init__(
        self, names: Sequence[str], resolved: ResolvedRun, results: Path, log: Callable[[str], None]
    ) -> None:
        self._log = log
        self._trackers: dict[str, Any] = {}
        path = resolved.record_path(results)
        self.group = f"{path.parts[-4]}-{resolved.spec.protocol}"
        """What the runs of a grid share: data and protocol."""
        self.name = f"{resolved.spec.method}-{path.stem}"
        for name in names:
            self._try(name, partial(self._begin, name, resolved, results / FOLDER / name))

    def _begin(self, name: str, resolved: ResolvedRun, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tracker = {"tensorboard": self._tensorboard, "wandb": self._wandb, "mlflow": self._mlflow}[name](
            folder
        )
        tracker.start()
        spec = resolved.spec
        values = {
            "dataset": resolved.prepared.name,
            "llm": spec.llm,
            "method": spec.method,
            "seed": spec.seed,
        }
        values |= {
            "protocol": spec.protocol,
            "config_hash": resolved.config_hash,
            **resolved.applied_settings,
        }
        tracker.store_init_configuration(
            {
                key: value if isinstance(value, int | float | str | bool) else str(value)
                for key, value in values.items()
            }
        )
        self._trackers[name] = tracker

    def _tensorboard(self, folder: Path) -> Any:
        from accelerate.tracking import TensorBoardTracker

        return TensorBoardTracker(self.name, folder / self.group)

    def _wandb(self, folder: Path) -> Any:
        from accelerate.tracking import WandBTracker

        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        return WandBTracker(
            PROJECT, name=self.name, id=self.name, group=self.group, dir=str(folder), resume="allow"
        )

    def _mlflow(self, folder: Path) -> Any:
        import mlflow
        from accelerate.tracking import MLflowTracker

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        return MLflowTracker(self.group, str(folder.resolve() / "artifacts"), run_name=self.name)

    def epoch(self, epoch: Epoch) -> None:
        """Report an epoch."""
        values = {
            "loss": epoch.loss,
            "train_seconds": epoch.train_seconds,
            "eval_seconds": epoch.eval_seconds,
        }
        values |= _metrics({"valid": epoch.valid, "valid_masked": epoch.valid_masked})
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, values, step=epoch.epoch))

    def end(self, record: RunRecord | None, path: Path) -> None:
        """Report the metrics of a finished run, attach its record, and close the trackers."""
        for name, tracker in list(self._trackers.items()):
            if record is not None and path.exists():
                self._try(name, partial(_attach, name, tracker, record, path))
            self._try(name, tracker.finish)
        self._trackers.clear()

    def _try(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # a tracker may fail in any way; the run goes on
            self._trackers.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._log(f"warning: the tracker {name} fails and is left out: {reason}")


def _attach(name: str, tracker: Any, record: RunRecord, path: Path) -> None:
    values = _metrics({split: record.metrics[split] for split in record.metrics if split.startswith("test")})
    if values:
        tracker.log(values, step=record.epochs_run)
    if name == "tensorboard":
        tracker.writer.add_text("record", fenced(path.read_text(encoding="utf-8"), "json"))
    elif name == "wandb":
        tracker.run.save(str(path), base_path=str(path.parent), policy="now")
    else:
        tracker.log_artifact(str(path))


def _metrics(splits: dict[str, dict[str, float]]) -> dict[str, float]:
    """`valid_masked/recall_at_10`: MLflow allows no `@` in a name."""
    return {
        f"{split}/{name.replace('@', '_at_')}": value
        for split, values in splits.items()
        for name, value in values.items()
    }
