"""Check that a command that was killed and started again does what an undisturbed command does."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studies.common.outcome import KEPT, differences, finished_records, identity, snapshot, written_again
from studies.kill_storm.attempt import Attempt, alive

TRACEBACK = "Traceback (most recent call last)"
TAIL = 15
"""Lines of a log that a deviation keeps."""
CHECKS = (
    "the last command ends with status 0",
    "each command ends in time",
    "no traceback",
    "a command whose child was killed ends by itself with status 0, 1 or 2",
    "children of a killed command end by themselves",
    "files, digests and figures are those of the undisturbed run",
    "finished records and stored files are not written again",
    "no epoch is trained again after its checkpoint stands",
    "the report and the bundle are, to the byte, what an undisturbed command makes of the same records",
)
"""What is asserted after each phase of a repetition; the last one where it makes a report or a bundle."""
(ENDS_WELL, IN_TIME, NO_TRACEBACK, CHILD, ORPHANS, EQUAL, NOT_AGAIN, EPOCHS, SAME_BYTES) = CHECKS


@dataclass(frozen=True)
class Undisturbed:
    """What one phase does without kills."""

    seconds: float
    span: float
    """CPU seconds of the command; where the phase is one of its stages, seconds of the stage."""
    operations: int
    """File operations of the command or of the stage."""
    files: dict[str, str]
    """`outcome.snapshot` after it."""
    saves: Counter[str]
    """How often each checkpoint was renamed to its name."""


@dataclass
class Judge:
    """Collects what deviates in one repetition."""

    folder: Path
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Files that must not be written again."""
    deviations: list[tuple[str, str, Path | None]] = field(default_factory=list)
    """Check, what deviates, log."""
    reported: set[str] = field(default_factory=set)
    """Paths that deviated after an earlier phase."""

    def after_attempt(self, attempt: Attempt) -> None:
        """Check after each command, killed or not."""
        if attempt.status is None:
            self.deviations.append((IN_TIME, f"still running after {attempt.seconds:.0f} s", attempt.log))
        if TRACEBACK in attempt.log.read_text(encoding="utf-8", errors="replace"):
            self.deviations.append((NO_TRACEBACK, attempt.log.name, attempt.log))
        if attempt.killed == "child" and attempt.status not in (0, 1, 2, None):
            self.deviations.append((CHILD, f"status {attempt.status}", attempt.log))
        if again := written_again(self.folder, self.kept):
            self.deviations.append((NOT_AGAIN, _some(again), attempt.log))
            self.kept = {name: known for name, known in self.kept.items() if name not in again}
        self.kept |= finished_records(self.folder)

    def after_phase(self, attempts: Sequence[Attempt], expected: Undisturbed, patience: float) -> None:
        """Check when the last of `attempts` has ended by itself."""
        last = attempts[-1]
        if last.status != 0:
            self.deviations.append((ENDS_WELL, f"status {last.status}", last.log))
        if left := alive([orphan for attempt in attempts for orphan in attempt.orphans], patience):
            self.deviations.append(
                (ORPHANS, ", ".join(" ".join(orphan.cmdline()[-4:]) for orphan in left), last.log)
            )
            for orphan in left:
                orphan.kill()
        files = snapshot(self.folder)
        for kind, names in differences(expected.files, files).items():
            if new := [name for name in names if name not in self.reported]:
                self.deviations.append((EQUAL, f"{kind}: {_some(new)}", last.log))
                self.reported.update(new)
        if again := saved_again(attempts, expected.saves):
            self.deviations.append((EPOCHS, _some(again), last.log))
        stored = (name for name in files if name.endswith(KEPT))
        self.kept |= {name: identity(self.folder / name) for name in stored}

    def after_making(self, made: Path, again: Path, log: Path) -> None:
        """Compare the folder `made` with `again`, which the undisturbed command makes of the same records."""
        if unlike := _unlike(made, again):
            self.deviations.append((SAME_BYTES, _some(unlike), log))
        shutil.rmtree(again)


def saves(attempts: Sequence[Attempt]) -> Counter[str]:
    """How often each `last.pt` was renamed to its name."""
    return Counter(
        operation.path
        for attempt in attempts
        for operation in attempt.operations
        if operation.event == "os.rename" and operation.path.endswith("/last.pt")
    )


def saved_again(attempts: Sequence[Attempt], expected: Mapping[str, int]) -> list[str]:
    """Checkpoints that were written more often than without kills."""
    doubt: Counter[str] = Counter()
    for attempt in attempts:
        for operation, count in attempt.uncertain().items():
            doubt[operation.path] += count
    return [
        f"{path}: {count} times, not {expected[path]}"
        for path, count in saves(attempts).items()
        if count - doubt[path] > expected[path]
    ]


def tail(log: Path | None) -> list[str]:
    """The last lines of a log."""
    if log is None or not log.exists():
        return []
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    return text.splitlines()[-TAIL:]


def _unlike(made: Path, again: Path) -> list[str]:
    """Files of `again` that `made` lacks or has otherwise; what it has beyond them is left over."""
    return sorted(
        path.name
        for path in again.iterdir()
        if not (made / path.name).exists() or (made / path.name).read_bytes() != path.read_bytes()
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
