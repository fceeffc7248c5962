"""Make the checks of a bundle, level after level, and say which level it reached.

A level is reached where all of its checks hold and the level below it is reached. Whatever goes wrong in a
check is a failure of that check, in one line: a bundle comes from a stranger, and nothing in it may end the
verifier in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results.measures import several
from benchmark.results.record import AGAIN
from benchmark.verify import arithmetic, form, scores, truth
from benchmark.verify.known import known
from benchmark.verify.opened import OpenBundle, opening
from benchmark.verify.truth import RunOnData
from methods.errors import UserError

if TYPE_CHECKING:
    from benchmark.data.prepare import Prepared

LEVELS = {"L1": "form", "L2": "arithmetic", "L3": "truth", "L4": "scores"}
"""Level -> what it is about."""


@dataclass(frozen=True)
class Finding:
    """How a check ended."""

    level: str
    name: str
    promise: str
    """What holds where it passed."""
    fault: str = ""
    """Why it failed; empty where it passed."""

    @property
    def line(self) -> str:
        """What a terminal shows."""
        return f"  {'FAILED' if self.fault else 'ok':6}  {self.name:12}  {self.fault or self.promise}"


@dataclass
class Verdict:
    """What the checks of a bundle found."""

    path: Path
    digest: str
    size: int
    runs: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def reached(self) -> str | None:
        """The highest level that was reached; None for none."""
        reached = None
        for level in LEVELS:
            own = [finding for finding in self.findings if finding.level == level]
            if not own or any(finding.fault for finding in own):
                break
            reached = level
        return reached

    @property
    def faults(self) -> list[str]:
        """All faults."""
        return [finding.fault for finding in self.findings if finding.fault]

    def reaches(self, level: str) -> bool:
        """Whether it reached this level or a higher one."""
        order = [*LEVELS]
        return self.reached is not None and order.index(self.reached) >= order.index(level)

    def lines(self) -> Iterator[str]:
        """What a terminal shows: each check, and the level."""
        yield f"{self.path.name}: SHA-256 {self.digest}"
        yield f"{self.size:,} bytes, {several(self.runs, 'run')}"
        for level, title in LEVELS.items():
            own = [finding for finding in self.findings if finding.level == level]
            if own:
                yield f"{level} {title}"
            yield from (finding.line for finding in own)
        yield f"level reached: {self.reached or 'none'}"


Check = Callable[..., Any]
MOST_FAULT = 500
"""Characters of a fault, which may repeat what a stranger wrote."""


def verify(path: Path, level: str, data: Sequence[Prepared] = (), store: Path | None = None) -> Verdict:
    """Check the bundle at `path` up to `level`, and no further than the first level that is not reached.

    `data` are those at hand, for L3 and L4; the records of the `store` say which data have a name. Raises
    `UserError` where there is no file at `path`.
    """
    with opening(path) as bundle:
        verdict = Verdict(path, bundle.digest, bundle.size)
        for name in [*LEVELS][: [*LEVELS].index(level) + 1]:
            for finding in _findings(bundle, name, data, store):
                verdict.findings.append(finding)
                if finding.fault and name == "L1":  # a check of the form needs those before it
                    break
            verdict.runs = len(bundle.runs)
            if not verdict.reaches(name):
                break
        return verdict


def _findings(
    bundle: OpenBundle, level: str, data: Sequence[Prepared], store: Path | None
) -> Iterator[Finding]:
    """The checks of a level, one after another."""
    if level == "L1":
        yield from (_finding(bundle, level, check, partial(check, bundle)) for check in form.CHECKS)
    elif level == "L2":
        yield from (_of_runs(bundle, level, each, bundle.runs) for each in arithmetic.CHECKS)
        yield from (_finding(bundle, level, all_, partial(all_, bundle.runs)) for all_ in arithmetic.ACROSS)
    elif level == "L3":
        pairs: list[RunOnData] = []
        find = partial(truth.at_hand, bundle.runs, data)
        yield _finding(bundle, level, truth.at_hand, lambda: pairs.extend(find()))
        if pairs:
            yield _finding(bundle, level, known, lambda: known(pairs, store))
            yield from (_of_runs(bundle, level, one, pairs) for one in truth.CHECKS)
    else:
        pairs = truth.at_hand(bundle.runs, data)
        yield from (_of_runs(bundle, level, one, pairs) for one in scores.CHECKS)


def _of_runs(bundle: OpenBundle, level: str, check: Check, runs: Sequence[Any]) -> Finding:
    """A check of each run, of which the first fault counts."""

    def make() -> str:
        return "; ".join(dict.fromkeys(filter(None, map(check, runs))))

    return _finding(bundle, level, check, make)


def _finding(bundle: OpenBundle, level: str, check: Check, make: Callable[[], str | None]) -> Finding:
    """How a check ended that `make` makes: what it could not see, it returns."""
    promise = (check.__doc__ or "").split("\n", 1)[0].rstrip(".")
    fault = ""
    try:
        if unseen := make():
            promise = f"{promise}; not checked: {unseen}"
    except UserError as error:
        fault = bundle.plain(error).removesuffix(AGAIN).rstrip(" .").replace("\n", " ") + "."
    except Exception as error:  # of libraries that read what a stranger wrote
        fault = f"it could not be checked: {type(error).__name__}: {bundle.plain(error)[:200]}.".replace(
            "\n", " "
        )
    return Finding(level, check.__name__, promise, fault[:MOST_FAULT])
