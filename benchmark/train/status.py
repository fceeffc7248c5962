"""How far a run is: typed, as one JSON line for programs and as one line for people.

A run prints the line for people on stderr, which a grid keeps as the run's log and never interprets. A
program that starts a run and wants to follow it gives it the name of a file in the environment variable
`ADAPTREC_STATUS`. The main process of the run appends one JSON line to this file after each epoch; the
program calls `StatusFile.read` now and then, and removes the file when the run has ended. A file reaches
through torchrun, which closes every inherited descriptor but the standard ones, and may be read at any time.
How a run ended is its exit status and its record; see `benchmark/process/exit_status.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.results.metrics import measure

VARIABLE = "ADAPTREC_STATUS"
"""Environment variable: the file to which a run appends its status."""


class RunStatus(BaseModel):
    """The state of a run after an epoch. Times are in seconds."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["epoch"] = "epoch"
    epoch: int
    """Finished epochs."""
    epochs: int
    """Epochs at most."""
    loss: float
    """Mean training loss of the last epoch."""
    metric: str = "recall@10"
    """The validation metric that selects the epoch."""
    valid: float
    """Its value after the last epoch, the user's history not masked."""
    valid_masked: float
    """The same with the user's history masked."""
    best_epoch: int
    train_seconds: float
    """Training time of the last epoch."""
    eval_seconds: float
    """Validation time of the last epoch."""
    seconds_left: tuple[float, float]
    """If no epoch is better than the best one so far, and if all epochs are run."""

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, line: str) -> RunStatus | None:
        """The status on a line; None for a line of another version of this program."""
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            return None

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"epoch {self.epoch:3d}/{self.epochs}  loss {self.loss:.4f}  "
            f"valid {measure(self.metric).label} {self.valid:.4f} (masked {self.valid_masked:.4f})  "
            f"best epoch {self.best_epoch}  "
            f"train {self.train_seconds:.2f} s, eval {self.eval_seconds:.2f} s, "
            f"left {time_range(*self.seconds_left)}"
        )


def publish(status: RunStatus) -> None:
    """Append `status` to the file that the environment names, if it names one.

    Call it in the main process. A file that cannot be written is no reason to end a run.
    """
    if path := os.environ.get(VARIABLE):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(status.to_json() + "\n")
        except OSError:
            return


class StatusFile:
    """The file that one run appends its status to, seen from the program that started the run."""

    def __init__(self, path: Path) -> None:
        """Start with an empty file at `path`, or with none where it cannot be written."""
        self.path, self._position = path, 0
        self.remove()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that the run needs."""
        return {VARIABLE: str(self.path.absolute())}

    def read(self) -> list[RunStatus]:
        """Every status that was appended since the last call."""
        try:
            with self.path.open("rb") as file:
                if self.path.stat().st_size < self._position:
                    self._position = 0  # the run began again, with a file of its own
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]  # the run may be writing the next line
        self._position += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return [status for line in lines if (status := RunStatus.from_json(line))]

    def remove(self) -> None:
        """Delete the file."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `7.5 h` or `3.2 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def time_range(least: float, most: float) -> str:
    """`2 min to 42 min`, or one duration where both read alike."""
    low, high = duration(least), duration(most)
    return high if low == high else f"{low} to {high}"
