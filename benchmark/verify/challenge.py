"""L5, challenge: the same configuration on planted data whose seed was drawn after the bundle.

The seed of the new data follows from the bundle's digest and a beacon: random bits that were drawn in public
after the digest was published. A row that was tuned on the test targets of its planted set, or whose ranks
were invented, falls back there; an honest one keeps its share of the best possible figure, up to luck.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.catalogue import entries, find
from benchmark.data.planted import parameters
from benchmark.data.prepare import Prepared
from benchmark.data.recipe import NO_OPTIONS
from benchmark.files import path_component, write_atomically
from benchmark.llm.catalogue import short_names
from benchmark.results.metrics import measure
from benchmark.results.record import NO_LLM
from benchmark.results.store import StoredRun, read_result
from benchmark.run.run import run as execute
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.verify import form
from benchmark.verify.format import shown
from benchmark.verify.guard import Request, verify_guarded
from benchmark.verify.opened import BundledRun, opening
from benchmark.verify.truth import CHECKS, LUCK, RunOnData, at_hand, prepared_data
from methods.errors import UserError

BEACON = re.compile(r"(?:[0-9a-f]{2}){16,64}")
MEASURES = ("recall@10", "ndcg@10")
EPOCHS_FACTOR = 3
"""A challenge trains at most so many times the epochs that the bundle's run took."""
CONFIG = "config"
"""The hyper-parameter whose value is JSON or the path of a file."""


class TimeOverError(BaseException):
    """The time of the challenge is over. It is no `Exception`, so that no handler on the way takes it for a
    fault of the run."""


@dataclass(frozen=True)
class ShareOfBest:
    """A figure as a share of the best possible one on its data."""

    figure: float
    best: float
    error: float
    """Standard error of the figure over users."""

    @property
    def share(self) -> float:
        """The figure, divided by the best possible one."""
        return self.figure / self.best

    def __str__(self) -> str:
        return f"{self.figure:.4f} of {self.best:.4f} ({self.share:.1%})"


@dataclass(frozen=True)
class ChallengedFigure:
    """A metric of a run in the bundle, and of the same configuration on the new data."""

    measure: str
    own: ShareOfBest
    new: ShareOfBest

    @property
    def spread(self) -> float:
        """Standard deviation of the difference of the shares that is expected of an honest run: both sets of
        users are drawn. Training again moves the figure too; with few epochs by about as much again."""
        return math.hypot(self.own.error / self.own.best, self.new.error / self.new.best)

    @property
    def detectable(self) -> float:
        """The least difference of the shares that does not pass for luck."""
        return LUCK * self.spread

    @property
    def agrees(self) -> bool:
        """Whether the bundle's share is not above that on the new data by more than luck."""
        return self.own.share - self.new.share <= self.detectable

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DOES NOT AGREE"
        return (
            f"{self.measure}: bundle {self.own}, challenge {self.new}; difference "
            f"{self.new.share - self.own.share:+.1%}, expected spread {self.spread:.1%}: {verdict}; the "
            f"challenge detects no difference below {self.detectable * self.own.best:.4f} "
            f"({self.detectable:.1%} of the best possible figure)"
        )


def planted_seed(digest: str, beacon: str) -> int:
    """The seed of the new data: the first 63 bits of a SHA-256 over the bundle's digest and the beacon."""
    text = f"adaptrec challenge 1\n{digest}\n{beacon}\n"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_beacon(text: str) -> str:
    """The beacon in lower case. Raises `UserError` unless it is 16 to 64 bytes in hexadecimal digits."""
    beacon = text.lower()
    if not BEACON.fullmatch(beacon):
        raise UserError(
            f"--beacon {shown(text)} is not 16 to 64 bytes in hexadecimal digits; give random bits that were "
            "drawn in public after the digest of the bundle was published."
        )
    return beacon


def challenge(
    path: Path, beacon: str, out: Path, seconds: int, llms: Collection[str] = ()
) -> Iterator[tuple[str, bool]]:
    """Challenge each run of the bundle that is on planted data: -> lines, and whether what each says is well.

    Data and records of the challenge lie below `out`; all of it may take `seconds`. `llms` are names of
    language models that a run may have though they are no short names. Raises `UserError` where the bundle
    does not reach level L2, one of its planted runs not level L3, it has no planted run, or a configuration
    cannot be run here.
    """
    beacon, deadline = check_beacon(beacon), time.monotonic() + seconds
    verdict = verify_guarded(Request(path, "L2", seconds))
    if not verdict.reaches("L2"):
        raise UserError(f"{path} does not reach level L2: {verdict.faults[0]}")
    seed = planted_seed(verdict.digest, beacon)
    yield f"bundle {verdict.digest}", True
    yield f"beacon {beacon}", True
    yield f"seed of the planted data: {seed}", True
    with opening(path) as bundle:
        if bundle.digest != verdict.digest:
            raise UserError(f"{path} was changed while it was verified; verify it again.")
        for check in form.CHECKS:
            check(bundle)
        planted = [run for run in bundle.runs if _is_planted(run.record.dataset)]
        if not planted:
            raise UserError(
                f"{path} has no run on planted data with a ceiling, which a challenge repeats; bundle "
                "one of the same configuration on tiny as well."
            )
        reached = 0
        for on in _true(planted, llms, deadline):
            well = True
            for line, agrees in _challenge_run(on, seed, out, deadline):
                yield line, agrees
                well = well and agrees
            reached += well
            yield f"{on.run.name}: level L5 {'reached' if well else 'not reached'}", well
        for run in bundle.runs:
            if not _is_planted(run.record.dataset):
                yield f"{run.name}: not challenged: its data are no planted set with a ceiling", False
        every = len(bundle.runs)
        tally = "" if reached == every else f": {reached} of {every} runs reached it"
        yield f"level L5 {'not ' if tally else ''}reached{tally}", not tally


def _is_planted(name: str) -> bool:
    """Whether a recipe here plants the dataset of this name and computes the best possible figure.

    What the bundle says of its data is the submitter's word.
    """
    entry = entries().get(name)
    if entry is None or entry.content().get("format") != "synthetic":
        return False  # files of other data need not be here
    return parameters(find(name)).ceiling


def _true(planted: list[BundledRun], llms: Collection[str], deadline: float) -> list[RunOnData]:
    """The planted runs with their data, after the checks of level L3."""
    for run in planted:
        _check_words(run, llms)
    try:
        with stopping(deadline):
            names = dict.fromkeys(run.record.dataset for run in planted)
            pairs = at_hand(planted, prepared_data([*names], NO_OPTIONS))
            for on in pairs:
                for check in CHECKS:
                    check(on)
            return pairs
    except TimeOverError:
        raise UserError("--seconds were over before a run was challenged; give more.") from None


def _check_words(run: BundledRun, llms: Collection[str]) -> None:
    """Raise `UserError` where the words of the record would make the challenge open a file, or ask a
    server, that its maker chose."""
    llm = run.record.llm or NO_LLM
    if llm not in {NO_LLM, *short_names(), *llms}:
        raise run.fail(
            f"its language model {shown(llm)} is no short name that `adaptrec list llms` shows, and may mean "
            "a folder, a repository or a server of its maker's choice; repeat the name by --llm to allow it."
        )
    for name, _, value in (pair.partition("=") for pair in run.record.overrides):
        if name == CONFIG and not value.startswith("{"):
            raise run.fail(
                f"it overrides {CONFIG} with {shown(value)}, a file on this machine, which a challenge does "
                "not read; it takes JSON that starts with '{'."
            )


@contextmanager
def stopping(deadline: float) -> Iterator[None]:
    """Raise `TimeOverError` in the block once `time.monotonic()` passes `deadline`."""

    def stop(*_: object) -> None:
        raise TimeOverError

    before = signal.signal(signal.SIGALRM, stop)
    try:  # a timer of 0 would never go off
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-6))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _challenge_run(on: RunOnData, seed: int, out: Path, deadline: float) -> Iterator[tuple[str, bool]]:
    """Repeat one run on new data, and compare."""
    run, record = on.run, on.run.record
    folder = write_recipe(record.dataset, seed, out)
    overrides = tuple(record.overrides)
    spec = RunSpec(str(folder), record.llm or NO_LLM, record.method, record.protocol, record.seed, overrides)
    try:
        with stopping(deadline):
            resolved = resolve_run(spec)
        _check_same(run, resolved)
        yield f"{run.name}: the same configuration on {resolved.prepared.name}", True
        if record.made_by_other(resolved.code):
            yield "  the code of the method here is not that of the record", True
        if (bounded := _bounded(resolved, record.epochs_run)) != spec:
            yield (
                f"  it trains {bounded.overrides[-1]} at most, {EPOCHS_FACTOR} times what the run took",
                True,
            )
        with stopping(deadline):
            new_path, new = execute(bounded, out / "results")
    except TimeOverError:
        yield f"{run.name}: stopped, since --seconds are over; with more, it goes on", False
        return
    if new.status != "ok":
        yield f"  it ended as {new.status}: {shown(new.error)}", False
        return
    for one in compare(run.stored, on.data, read_result(new_path), resolved.prepared):
        yield f"  {one}", one.agrees


def _bounded(resolved: ResolvedRun, epochs_run: int) -> RunSpec:
    """The run with few more epochs than `epochs_run`: a forged record may allow a million and show four.

    With schedule=cosine the number of epochs shapes the learning rate, and time alone is the bound.
    """
    spec, most = resolved.spec, EPOCHS_FACTOR * epochs_run
    settings = resolved.settings
    if resolved.control or settings.epochs <= most or settings.schedule == "cosine":
        return spec
    others = (pair for pair in spec.overrides if pair.partition("=")[0] != "epochs")
    return replace(spec, overrides=(*others, f"epochs={most}"))


def _check_same(run: BundledRun, resolved: ResolvedRun) -> None:
    """Raise `UserError` where the words of the record give another configuration here."""
    here: dict[str, Any] = resolved.applied_settings
    stated = run.record.settings
    if not resolved.control:  # of a control, validation chooses the others
        here = here | asdict(resolved.config)
        stated = stated | run.record.hyperparameters
    for name, value in stated.items():
        if name in here and _plain(here[name]) != value:
            raise run.fail(
                f"its {name} is {shown(value)}, and the same options give {shown(here[name])} here."
            )


def _plain(value: Any) -> Any:
    """As JSON reads it."""
    return [*value] if isinstance(value, tuple) else value


def write_recipe(name: str, seed: int, out: Path) -> Path:
    """Write the recipe of the planted set `name` with another seed, in a folder of its own: -> the folder."""
    raw = entries()[name].content()
    raw["synthetic"] = {**raw.get("synthetic", {}), "seed": seed}
    folder = out / "data" / path_component(f"{name}-{seed:016x}")
    write_atomically(folder / "recipe.toml", "\n".join(_toml(raw)) + "\n")
    return folder


def _toml(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Lines of TOML of a recipe: numbers, texts, and tables of them."""
    if path:
        yield f"[{'.'.join(path)}]"
    inner = {}
    for key, value in table.items():
        if isinstance(value, dict):
            inner[key] = value
        else:  # the basic strings of TOML are those of JSON
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in inner.items():
        yield from _toml(value, (*path, key))


def compare(own: StoredRun, own_data: Prepared, new: StoredRun, new_data: Prepared) -> list[ChallengedFigure]:
    """Both runs, by each measure."""
    return [
        ChallengedFigure(name, _share(own, own_data, name), _share(new, new_data, name)) for name in MEASURES
    ]


def _share(run: StoredRun, data: Prepared, name: str) -> ShareOfBest:
    assert data.ceiling is not None
    gains = measure(name).gains(run.ranks.masked)  # [T]
    per_user = run.ranks.user_means(gains[:, None])[:, 0]  # [T, 1] -> [U]
    error = float(per_user.std(ddof=1) / np.sqrt(len(per_user)))
    return ShareOfBest(float(per_user.mean()), data.ceiling["test"][name], error)
