"""What a step executes, held against what was expected: a guard that a busy machine cannot mislead.

    adaptrec speed --guard tests/counted.json            # status 1 for a change for the worse
    adaptrec speed --guard tests/counted.json --write    # the figures as they are now are what is expected

The file names the cells; their figures are those of a CPU. They are exact, so one operator more fails. Under
other versions of torch and of what the methods are built on, a little more is let pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from benchmark.files import write_atomically
from benchmark.measure import environment
from benchmark.results.schema import Part, not_valid
from benchmark.run.build import build_trainer
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.speed.record import Counts
from benchmark.speed.steps import count_evaluation, count_training
from benchmark.speed.table import markdown
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

PACKAGES = ("torch", "transformers", "peft", "accelerate")
"""What decides which operators run."""
OTHER_VERSIONS = {"flops": 0.01, "flops_fp32": 0.01, "operators": 0.05, "host_copies": 0.0, "host_bytes": 0.0}
"""Figure -> share by which it may grow under other versions of `PACKAGES`."""


class Guarded(Part):
    """One cell, and what is expected of it."""

    dataset: str
    llm: str
    method: str
    protocol: str
    overrides: list[str] = Field(default_factory=list)
    steps: int = 10
    """Optimiser steps that are counted."""
    training: Counts | None = None
    """All these steps; null where nothing is expected yet."""
    evaluation: Counts | None = None
    """One validation pass."""
    not_counted: list[str] = Field(default_factory=list)
    """Operators whose floating-point operations are not known."""


class Expected(Part):
    """What is expected of each cell, and of which versions that is true."""

    cells: list[Guarded]
    packages: dict[str, str] = Field(default_factory=dict)


def guard(file: Path, write: bool = False) -> tuple[str, bool]:
    """Count the cells of `file`: -> a table beside what was expected, and whether nothing became worse.

    With `write`, what was found is what is expected from now on. Raises `UserError` for a file that is none.
    """
    expected = _read(file)
    found = Expected(cells=[_count(cell) for cell in expected.cells], packages=_packages())
    same = found.packages == expected.packages
    rows, good = [], True
    for old, new in zip(expected.cells, found.cells, strict=True):
        for name, then, now in _figures(old, new):
            verdict = _verdict(name.rpartition(" ")[2], then, now, same)
            good = good and not verdict.startswith("WORSE")
            rows.append(
                [f"{new.method}, {name}", "none" if then is None else f"{then:,}", f"{now:,}", verdict]
            )
        for name in sorted({*new.not_counted} - {*old.not_counted}):
            good = False
            rows.append([f"{new.method}, {name}", "", "", "WORSE: its floating-point operations are unknown"])
    told = [markdown(rows, ["counted", "expected", "now", ""])]
    if not same:
        versions = [f"{name} {version}" for name, version in expected.packages.items()]
        told.append(f"Expected of {', '.join(versions) or 'nothing yet'}: a small growth is let pass here.")
    if write:
        write_atomically(file, found.model_dump_json(indent=1) + "\n")
        told.append(f"Written to {file}: this is expected from now on.")
    elif not good:
        told.append("If it has to be so, say so with --write and commit the file.")
    return "\n\n".join(told), good or write


def _read(file: Path) -> Expected:
    try:
        return Expected.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"--guard {file} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise not_valid(file, "file of expected counts", error, "tests/counted.json is one.") from error


def _packages() -> dict[str, str]:
    import torch

    found = environment(torch.device("cpu"), "no", 1).packages
    # a build for a GPU runs the same operators on a CPU
    return {name: found[name].partition("+")[0] for name in PACKAGES if name in found}


def _count(cell: Guarded) -> Guarded:
    asked = RunSpec(cell.dataset, cell.llm, cell.method, cell.protocol, 0, tuple(cell.overrides))
    with TemporaryDirectory() as folder:
        trainer, _ = build_trainer(resolve_run(asked), Checkpoint(Path(folder)))
        # what is made once, by the first step, counts for none of them
        count_training(trainer, 1, epoch=1)
        training, evaluation = count_training(trainer, cell.steps, epoch=2), count_evaluation(trainer)
    return cell.model_copy(
        update={
            "training": training.total,
            "evaluation": evaluation.total,
            "not_counted": sorted({*training.not_counted, *evaluation.not_counted}),
        }
    )


def _figures(old: Guarded, new: Guarded) -> Iterator[tuple[str, int | None, int]]:
    """Name, what was expected (None: nothing yet) and what was found."""
    pairs = (
        (f"{new.steps} steps", old.training, new.training),
        ("evaluation", old.evaluation, new.evaluation),
    )
    for where, then, now in pairs:
        for name, value in (now or Counts()).model_dump().items():
            yield f"{where}: {name}", None if then is None else getattr(then, name), value


def _verdict(name: str, then: int | None, now: int, same_versions: bool) -> str:
    if then is None:
        return "new"
    if now <= then:
        return "better" if now < then else ""
    grown = f"{100 * (now / then - 1):.2g} % more" if then else "more"
    allowed = 0.0 if same_versions else OTHER_VERSIONS[name]
    return f"{grown}, let pass" if now <= then * (1 + allowed) else f"WORSE: {grown}"
