"""Kill the commands of a chain at random points of one seed, and judge the files that they leave."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from studies.common.chain import Chain, Phase
from studies.common.outcome import snapshot
from studies.kill_storm.attempt import Attempt, Kill, Operation, attempt, first_of, in_copy, in_process
from studies.kill_storm.judge import CHECKS, IN_TIME, SAME_BYTES, Judge, Undisturbed, saves, tail

KILLS = (6, 12)
"""Least and most kills of a phase in one repetition."""
TARGETS: tuple[Literal["tree", "child", "parent"], ...] = ("tree", "child", "parent")


class Storm:
    """The kills of one seed over one chain."""

    def __init__(self, chain: Chain, kills: int, seed: int, work: Path, log: Any = print) -> None:
        self.chain, self.seed, self.kills, self.work, self.log = chain, seed, kills, work, log
        share, more = divmod(kills, len(chain.phases))
        self.quota = {phase.name: share + (n < more) for n, phase in enumerate(chain.phases)}
        """Kills that are left, by phase."""
        self.reference: dict[str, Undisturbed] = {}
        self.rows: list[list[Any]] = []
        """repetition, phase, how, target, at, exit status: one for each kill of a finished repetition."""
        self.passed: Counter[str] = Counter()
        self.deviations: list[dict[str, Any]] = []
        self.repetitions = self.missed = 0
        self._begin = time.monotonic()

    def undisturbed(self) -> None:
        """Run the chain without kills, and keep what it leaves."""
        folder = self._fresh("reference")
        for phase in self.chain.phases:
            done = self._attempt(phase, folder, 600.0)
            if done.status != 0:
                raise SystemExit("\n".join([f"{phase.name} fails without kills:", *tail(done.log)]))
            stage = stage_of(phase, done.operations)
            span = stage[-1].time - stage[0].time if phase.begins else done.cpu_seconds
            known = Undisturbed(done.seconds, span, len(stage), snapshot(folder), saves([done]))
            self.reference[phase.name] = known
            took = f"{done.seconds:.1f} s" + (f", {span:.3f} s of them in the stage" if phase.begins else "")
            self.log(f"without kills, {phase.name}: {took}, {known.operations} file operations")
        shutil.rmtree(folder)

    def run(self, save: Callable[[], None] = lambda: None) -> None:
        """Repeat the chain until the kills are spent; `save` is called after each repetition."""
        if not self.reference:
            self.undisturbed()
        self._begin = time.monotonic()
        done_before = len(self.rows)
        while any(self.quota.values()):
            before = len(self.rows)
            self._repetition()
            self._progress(done_before)
            save()
            if len(self.rows) == before and self.missed > 10 * self.kills + 10:
                raise SystemExit("commands end before their kills: nothing to go on with")

    def _repetition(self) -> None:
        number = self.repetitions
        chance = random.Random(f"{self.seed}/{number}")
        plans = {phase.name: self.plan(phase, chance) for phase in self.chain.phases}
        folder = self._fresh(f"repetition-{number}")
        judge, whole, missed = Judge(folder), True, 0
        rows: list[list[Any]] = []
        deviations: list[dict[str, Any]] = []
        passed: Counter[str] = Counter()
        for phase in self.chain.phases:
            plan = plans[phase.name][: self.quota[phase.name]]
            attempts, used = self._phase(phase, folder, plan, judge)
            missed += len(plan) - used
            rows += [
                [number, _hit(phase, attempt), kill.how, attempt.killed, attempt.at, attempt.status]
                for kill, attempt in zip(plan, attempts, strict=False)
                if attempt.killed
            ]
            wrong = {check for check, *_ in judge.deviations}
            asked = [check for check in CHECKS if check != SAME_BYTES or phase.makes]
            passed.update(check for check in asked if check not in wrong)
            deviations += [self._deviation(number, phase, attempts, *found) for found in judge.deviations]
            judge.deviations.clear()
            if IN_TIME in wrong or attempts[-1].status != 0:
                whole = False
                break  # what follows has nothing to read
        self.rows += rows
        for row in rows:
            self._spend(row[1])
        self.deviations += deviations
        self.passed += passed
        self.missed += missed
        self.repetitions += 1
        if whole and not deviations:
            shutil.rmtree(folder)
            shutil.rmtree(self.work / f"{folder.name}-logs")

    def plan(self, phase: Phase, chance: random.Random) -> list[Kill]:
        """The kills of a phase in one repetition: each uniform over CPU time or file operations.

        In half of the cases the earlier ones come first: a command that goes on where it was killed has less
        to do, and would often end before a late kill.
        """
        known = self.reference[phase.name]
        draws = [
            (chance.random(), chance.random() < 0.5, chance.choice(TARGETS))
            for _ in range(chance.randint(*KILLS))
        ]
        if chance.random() < 0.5:
            draws.sort()
        return [
            Kill("moment", target, share * known.span)
            if timed
            else Kill("operation", target, 1 + int(share * known.operations))
            for share, timed, target in draws
        ]

    def _phase(
        self, phase: Phase, folder: Path, plan: Sequence[Kill], judge: Judge
    ) -> tuple[list[Attempt], int]:
        """Run one phase to its end under the kills of `plan`: all attempts, and how many kills came."""
        known, attempts, used = self.reference[phase.name], [], 0
        limit = self.chain.limit + 10 * known.seconds
        for kill in (*plan, None):
            done = self._attempt(phase, folder, limit, kill)
            attempts.append(done)
            judge.after_attempt(done)
            used += done.killed is not None
            if done.killed:
                self.log(f"{_hit(phase, done)}: {done.killed} killed at {done.at}, status {done.status}")
            if done.status is None or (done.killed is None and done.status == 0):
                break  # it hangs, or it ended before its kill
        judge.after_phase(attempts, known, self.chain.patience)
        if phase.makes and attempts[-1].status == 0:
            judge.after_making(*self._make_again(phase, folder, phase.makes, limit), attempts[-1].log)
        return attempts, used

    def _make_again(self, phase: Phase, folder: Path, name: str, limit: float) -> tuple[Path, Path]:
        """What killed commands have made, and what one without kills makes of the same records."""
        first = folder / name
        first.rename(moved := self.work / "made")
        self._attempt(phase, folder, limit)
        second = first.rename(self.work / "made-again")
        moved.rename(first)
        return first, second

    def _attempt(self, phase: Phase, folder: Path, limit: float, kill: Kill | None = None) -> Attempt:
        logs = self.work / f"{folder.name}-logs"
        log = logs / f"{len(list(logs.glob('*.log'))):03d}-{phase.name}.log"
        environment = {
            name: value.replace("{folder}", str(folder)) for name, value in self.chain.environment.items()
        }
        (folder / "tmp").mkdir(exist_ok=True)
        start = in_copy if self.chain.copies else in_process
        own = {"TMPDIR": str(folder / "tmp"), **environment}
        return attempt(phase.words(folder), folder, log, own, limit, kill, phase.begins, start)

    def _fresh(self, name: str) -> Path:
        for folder in (self.work / name, self.work / f"{name}-logs"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return self.work / name

    def _deviation(
        self, number: int, phase: Phase, attempts: Sequence[Attempt], check: str, what: str, log: Path | None
    ) -> dict[str, Any]:
        kills = [
            f"{attempt.killed} at {attempt.at} -> status {attempt.status}"
            for attempt in attempts
            if attempt.killed
        ]
        self.log(
            f"deviation in repetition {number}, {phase.name}: {check}: {what}; kills: {'; '.join(kills)}"
        )
        return {
            "repetition": number, "phase": phase.name, "check": check, "what": what, "kills": kills,
            "log": tail(log),
        }  # fmt: skip

    def _progress(self, before: int) -> None:
        spent = time.monotonic() - self._begin
        left = sum(self.quota.values())
        minutes = spent / max(1, len(self.rows) - before) * left / 60
        self.log(
            f"{len(self.rows)} of {self.kills} kills in {self.repetitions} repetitions, "
            f"{len(self.deviations)} deviations, about {minutes:.0f} min left"
        )

    def result(self) -> dict[str, Any]:
        """What is written as JSON."""
        count = Counter(row[1] for row in self.rows)
        return {
            "kills": {
                "asked": self.kills,
                "done": len(self.rows),
                "by_phase": dict(count),
                "by_phase_and_target": _counted(f"{row[1]}, {row[3]}" for row in self.rows),
                "by_moment_or_operation": _counted(row[2] for row in self.rows),
                "status_after_kill": _counted(f"{row[3]}: {row[5]}" for row in self.rows),
                "ended_before_the_kill": self.missed,
            },
            "repetitions": self.repetitions,
            "passed": {check: self.passed[check] for check in CHECKS},
            "deviations": self.deviations,
            "undisturbed": {
                name: {
                    "seconds": round(phase.seconds, 2),
                    "span": round(phase.span, 3),
                    "file_operations": phase.operations,
                }
                for name, phase in self.reference.items()
            },
            "rows": self.rows,
        }

    def go_on(self, earlier: Mapping[str, Any]) -> None:
        """Take up the finished repetitions of an earlier try."""
        self.rows, self.deviations = list(earlier["rows"]), list(earlier["deviations"])
        self.passed, self.repetitions = Counter(earlier["passed"]), earlier["repetitions"]
        self.missed = earlier["kills"]["ended_before_the_kill"]
        for row in self.rows:
            self._spend(row[1])

    def _spend(self, phase: str) -> None:
        self.quota[phase] = max(0, self.quota[phase] - 1)


def stage_of(phase: Phase, operations: Sequence[Operation]) -> Sequence[Operation]:
    """The operations from the first one of the stage that `phase` means to the first one after it."""
    if not phase.begins:
        return operations
    later = operations[first_of(operations, phase.begins) :]
    return later[: first_of(later, phase.ends) + 1] if phase.ends else later


def _hit(phase: Phase, killed: Attempt) -> str:
    """The phase that a kill has hit."""
    over = phase.ends and first_of(killed.operations, phase.ends) < len(killed.operations)
    return phase.then if over else phase.name


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
