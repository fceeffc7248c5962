"""Read the progress line that a run prints after each epoch. To be removed: see `status`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmark.train.status import duration, time_range

__all__ = ["EpochLine", "duration", "parse_line", "time_range"]


@dataclass(frozen=True)
class EpochLine:
    """How far a run is, and how long it may still take."""

    epoch: int
    """Epochs that are over."""
    epochs: int
    """Epochs at most."""
    loss: float
    valid: float
    """Validation Recall@10, the history not masked."""
    masked: float
    """The same, the history masked."""
    best_epoch: int
    train_seconds: float
    eval_seconds: float
    least: float
    """Seconds left if no epoch is better than the best one so far."""
    most: float
    """Seconds left if all epochs are run."""

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}/{self.epochs}  loss {self.loss:.4f}  "
            f"valid R@10 {self.valid:.4f} (masked {self.masked:.4f})  best epoch {self.best_epoch}  "
            f"train {self.train_seconds:.2f} s, eval {self.eval_seconds:.2f} s, "
            f"left {time_range(self.least, self.most)}"
        )


LINE = re.compile(
    r"epoch +(\d+)/(\d+)  loss (\S+)  valid R@10 (\S+) \(masked (\S+)\)  best epoch (\d+)  "
    r"train (\S+) s, eval (\S+) s, left (?:(.+) to )?(.+)"
)


def parse_line(line: str) -> EpochLine | None:
    """What `line` says, where it is one; times are as coarse as it says them."""
    if not (match := LINE.fullmatch(line.strip())):
        return None
    epoch, epochs, loss, valid, masked, best, train, evaluation, least, most = match.groups()
    return EpochLine(
        int(epoch), int(epochs), float(loss), float(valid), float(masked), int(best), float(train),
        float(evaluation), _seconds(least or most), _seconds(most),
    )  # fmt: skip


def _seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
