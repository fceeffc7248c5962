"""Run a command under a fault and again without it, and judge both."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.common.chain import PROGRAM, Chain, Phase, adaptrec
from studies.common.copies import Copy, import_all
from studies.common.outcome import differences, snapshot

LIMIT = 600
"""Seconds until a command counts as hung."""
AS_WITHOUT, ONE_LINE = "as without the fault", "one clear line"
Begin = Callable[[Sequence[str], Path, Path, Callable[[], None]], int]
"""Runs a command: its words, its folder, its log, what its process does first -> exit status."""


def nothing() -> None:
    """A process without a fault."""


@dataclass(frozen=True)
class Row:
    """One trial."""

    fault: str
    detail: str
    command: str
    outcome: str
    """`AS_WITHOUT`, `ONE_LINE`, or what happened instead."""
    lost: str
    """What the fault damaged, or the same command without the fault did not do; empty where nothing."""

    @property
    def well(self) -> bool:
        """Whether it ended as it should."""
        return self.outcome in (AS_WITHOUT, ONE_LINE) and not self.lost


class Worlds:
    """The folder before each phase of a chain and after it, and what an undisturbed run makes of it."""

    def __init__(self, work: Path, data: Path, names: Sequence[str]) -> None:
        self.work, self.chain = work, adaptrec(data, "id,tmoe")
        phases = {phase.name: phase for phase in self.chain.phases}
        self.phases = [phases[name] for name in names]
        self.after: dict[str, dict[str, str]] = {}
        """Phase -> its `snapshot`."""
        import_all({name: text for name, text in self.chain.environment.items() if "{" not in text})

    def fresh(self, phase: Phase, below: Path | None = None) -> Path:
        """A new copy of the folder before `phase`, in `below` or in the folder of all."""
        folder = (below or self.work) / "world"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self._before(phase), folder))

    def _before(self, phase: Phase) -> Path:
        """The folder before `phase`; all phases up to this one have run without faults."""
        folder = self.work / "undisturbed"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        for earlier in self.phases[len(self.after) : self.phases.index(phase) + 1]:
            shutil.copytree(folder, self.work / "before" / earlier.name)
            status, log = self.run(earlier, folder)
            if status:
                raise SystemExit(f"{earlier.name} fails without faults: {log.read_text()}")
            self.after[earlier.name] = snapshot(folder)
        return self.work / "before" / phase.name

    def run(
        self, phase: Phase, folder: Path, first: Callable[[], None] = nothing, begin: Begin | None = None
    ) -> tuple[int, Path]:
        """Run the command of `phase` in `folder`: -> its exit status, its log."""
        logs = self.work / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{len(list(logs.iterdir())):04d}-{phase.name}.log"
        return (begin or self.in_copy)(phase.words(folder), folder, log, first), log

    def in_copy(self, words: Sequence[str], folder: Path, log: Path, first: Callable[[], None]) -> int:
        """Run a command in a copy of this process."""
        return Copy(words[len(PROGRAM) :], folder, log, environment(self.chain, folder), first).wait()

    def in_process(self, more: Mapping[str, str]) -> Begin:
        """Runs a command in a process of its own, with more environment variables."""

        def begin(words: Sequence[str], folder: Path, log: Path, first: Callable[[], None]) -> int:
            with log.open("wb") as out:
                own = {**os.environ, **environment(self.chain, folder), **more}
                done = subprocess.run(
                    words, cwd=folder, env=own, stdout=out, stderr=subprocess.STDOUT, check=False,
                    timeout=LIMIT, preexec_fn=first,
                )  # fmt: skip
            return done.returncode

        return begin

    def judged(
        self, fault: str, detail: str, phase: Phase, folder: Path, first: Callable[[], None] = nothing,
        begin: Begin | None = None, lift: Callable[[], None] = nothing,
    ) -> Row:  # fmt: skip
        """Run `phase` in `folder` under the fault that `first` makes, and again after `lift`."""
        earlier = snapshot(folder)
        status, log = self.run(phase, folder, first, begin)
        now = snapshot(folder)
        outcome = outcome_of(status, log)
        if outcome == AS_WITHOUT and (unlike := _unlike(self.after[phase.name], now)):
            outcome = f"another result: {unlike}"
        damaged = [name for name, digest in earlier.items() if now.get(name) != digest]
        left = [name for name in now.keys() - earlier.keys() if name.endswith(".tmp")]
        lift()
        again, log = self.run(phase, folder)
        lost = [*(f"{name} is damaged" for name in damaged), *(f"{name} is left over" for name in left)]
        if again:
            lost.append(f"status {again} without the fault: {_last(log)}")
        elif unlike := _unlike(self.after[phase.name], snapshot(folder)):
            lost.append(f"without the fault {unlike}")
        return Row(fault, detail, phase.name, outcome, "; ".join(lost))


def environment(chain: Chain, folder: Path) -> dict[str, str]:
    """Of the commands that work in `folder`."""
    own = {name: value.replace("{folder}", str(folder)) for name, value in chain.environment.items()}
    return {"TMPDIR": str(folder / "tmp"), **own}


def outcome_of(status: int, log: Path) -> str:
    """How a command ended, by its exit status and its output."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if status == 0:
        return AS_WITHOUT
    errors = [line for line in lines if line.startswith("adaptrec: error: ")]
    if status == 2 and len(errors) == 1 and lines[-1] == errors[0] and "Traceback" not in "".join(lines):
        return ONE_LINE
    return f"status {status}: {_last(log)}"


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "no output"


def _unlike(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    return "; ".join(
        f"{kind}: {', '.join(names[:5])}" for kind, names in differences(expected, found).items()
    )
