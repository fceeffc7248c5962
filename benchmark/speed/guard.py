"""Compare what a step executes with what was expected, independently of the machine's load.

    adaptrec speed --guard tests/counted.json            # status 1 where a count has grown
    adaptrec speed --guard tests/counted.json --write    # expect the present counts from now on

The file lists the runs; their counts are those of a CPU. They are exact, so that one more operator fails.
With other versions of torch and of the packages that methods use, a small growth is allowed.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import Field

from benchmark.files import write_atomically
from benchmark.measure import environment
from benchmark.results.schema import Part
from benchmark.run.build import build_trainer
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.speed.measure import count_evaluation, count_training
from benchmark.speed.record import Counts, read_json
from benchmark.speed.tables import markdown
from benchmark.train.checkpoint import Checkpoint

PACKAGES = ("torch", "transformers", "peft", "accelerate")
"""Packages whose version decides which operators run."""
OTHER_VERSIONS = {"flops": 0.01, "flops_fp32": 0.01, "operators": 0.05, "host_copies": 0.0, "host_bytes": 0.0}
"""Count -> share by which it may grow with other versions of `PACKAGES`."""


class CountedRun(Part):
    """A run and its expected counts."""

    dataset: str
    llm: str
    method: str
    protocol: str
    overrides: list[str] = Field(default_factory=list)
    steps: int = 10
    """Optimiser steps that are counted."""
    training: Counts | None = None
    """Of all these steps; null where nothing is expected yet."""
    evaluation: Counts | None = None
    """Of one validation pass."""
    not_counted: list[str] = Field(default_factory=list)
    """Operators whose floating-point operations are not known."""


class ExpectedCounts(Part):
    """The expected counts of each run, and the versions that they were counted with."""

    runs: list[CountedRun]
    packages: dict[str, str] = Field(default_factory=dict)


def guard(file: Path, write: bool = False) -> tuple[str, bool]:
    """Count the runs of `file`: -> a table of counts and expected counts, and whether none has grown.

    With `write`, the counts become the expected ones. Raises `UserError` where `file` cannot be read.
    """
    expected = read_json(file, ExpectedCounts, "file of expected counts", "tests/counted.json is one.")
    counted = ExpectedCounts(runs=[_count(run) for run in expected.runs], packages=_packages())
    same_versions = counted.packages == expected.packages
    pairs = zip(expected.runs, counted.runs, strict=True)
    rows = [row for old, new in pairs for row in _rows(old, new, same_versions)]
    good = not any(row[-1].startswith("WORSE") for row in rows)
    paragraphs = [markdown(rows, ["counted", "expected", "now", ""])]
    if not same_versions:
        versions = ", ".join(f"{name} {version}" for name, version in expected.packages.items())
        paragraphs.append(f"Expected with {versions or 'no version yet'}: a small growth is allowed here.")
    if write:
        write_atomically(file, counted.model_dump_json(indent=1) + "\n")
        paragraphs.append(f"Written to {file}: these counts are expected from now on.")
    elif not good:
        paragraphs.append("If the growth is intended, run this again with --write and commit the file.")
    return "\n\n".join(paragraphs), good or write


def _packages() -> dict[str, str]:
    versions = environment(torch.device("cpu"), "no", 1).packages
    # a build for a GPU runs the same operators on a CPU
    return {name: versions[name].partition("+")[0] for name in PACKAGES if name in versions}


def _count(run: CountedRun) -> CountedRun:
    spec = RunSpec(run.dataset, run.llm, run.method, run.protocol, 0, tuple(run.overrides))
    with TemporaryDirectory() as folder:
        trainer, _ = build_trainer(resolve_run(spec), Checkpoint(Path(folder)))
        count_training(trainer, 1, epoch=1)  # the first step also does what is done only once
        training, evaluation = count_training(trainer, run.steps, epoch=2), count_evaluation(trainer)
    return run.model_copy(
        update={
            "training": training.total,
            "evaluation": evaluation.total,
            "not_counted": sorted({*training.not_counted, *evaluation.not_counted}),
        }
    )


def _rows(old: CountedRun, new: CountedRun, same_versions: bool) -> list[list[str]]:
    """A row for each count: name, expected, now, verdict."""
    rows = []
    for phase, title in (("training", f"{new.steps} steps"), ("evaluation", "evaluation")):
        expected = getattr(old, phase)
        for name, now in getattr(new, phase):
            then = None if expected is None else getattr(expected, name)
            verdict = _verdict(then, now, 0.0 if same_versions else OTHER_VERSIONS[name])
            known = "none" if then is None else f"{then:,}"
            rows.append([f"{new.method}, {title}: {name}", known, f"{now:,}", verdict])
    for name in sorted({*new.not_counted} - {*old.not_counted}):
        rows.append([f"{new.method}, {name}", "", "", "WORSE: its floating-point operations are unknown"])
    return rows


def _verdict(then: int | None, now: int, allowed_growth: float) -> str:
    if then is None:
        return "new"
    if now <= then:
        return "better" if now < then else ""
    growth = f"{100 * (now / then - 1):.2g} % more" if then else "more"
    return f"{growth}, allowed" if now <= then * (1 + allowed_growth) else f"WORSE: {growth}"
