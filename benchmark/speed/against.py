"""A measurement of speed beside an earlier one of the same thing: the ratio of each figure, pair by pair."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmark.speed.record import STEP_PARTS, SpeedRecord, Variant
from benchmark.speed.table import FIGURES, SHARES, markdown, number, subject
from methods.errors import UserError

ALIKE = {
    "data_key": "prepared data", "method": "method", "protocol": "protocol", "vary": "varied setting",
    "steps": "--steps", "warm_up": "--warm-up", "passes": "--passes", "epochs": "--epochs",
}  # fmt: skip
"""Field of a record in which two must agree -> what it is called."""


def check_alike(now: SpeedRecord, then: SpeedRecord, file: Path) -> None:
    """Raise `UserError` unless both measure the same: data, method, settings, and how much was timed.

    A setting that only one of them has is no difference: the other was made before there was a choice.
    """
    for name, kind in ALIKE.items():
        _agree(kind, getattr(now, name), getattr(then, name), file)
    models = [(one.llm, one.llm_details.get("digest")) for one in (now, then)]
    _agree("language model", models[0], models[1], file)
    pairs = _pairs(now, then)
    if not pairs:
        values = ", ".join(variant.value for variant in then.variants)
        raise UserError(f"--against {file}: it has {then.vary} = {values}; measure one of these too.")
    for new, old in pairs:
        for mine, theirs in ((new.settings, old.settings), (new.hyperparameters, old.hyperparameters)):
            for name in mine.keys() & theirs.keys():
                _agree(name, mine[name], theirs[name], file)


def _agree(kind: str, now: Any, then: Any, file: Path) -> None:
    if now != then:
        raise UserError(
            f"--against {file} measured something else: {kind} is {_said(then)} there and {_said(now)} here;"
            " measure both alike."
        )


def _said(value: Any) -> str:
    """A language model by its name, with the first digits of its weights' digest."""
    if isinstance(value, tuple):
        return f"{value[0]} ({str(value[1])[:12]})"
    return str(value)


def _pairs(now: SpeedRecord, then: SpeedRecord) -> list[tuple[Variant, Variant]]:
    old = {variant.value: variant for variant in then.variants}
    return [(variant, old[variant.value]) for variant in now.variants if variant.value in old]


def compare(now: SpeedRecord, then: SpeedRecord, file: Path) -> str:
    """The figures of both and their ratio, as Markdown. Raises `UserError` as `check_alike` does."""
    check_alike(now, then, file)
    told = [f"Against {file.name}: {subject(then)}"]
    if now.generation != then.generation:
        told.append(
            f"It is of generation {then.generation} of the harness and this one of {now.generation}: a part "
            "of each ratio may be that other work is done (docs/records.md)."
        )
    pairs = _pairs(now, then)
    for new, old in pairs:
        name = f"{now.vary}={new.value}" if now.vary else now.method
        lost = [one.error for one in (old, new) if one.status != "ok"]
        if lost:
            told.append(f"{name}: no ratio, one of the two did not end well: {'; '.join(map(str, lost))}")
            continue
        told.append(markdown(_rows(new, old), [name, "then", "now", "now / then"]))
    alone = {variant.value for variant in (*now.variants, *then.variants)} - {new.value for new, _ in pairs}
    if alone:
        told.append(f"Measured only once: {', '.join(sorted(alone))}.")
    return "\n\n".join(told)


def _rows(new: Variant, old: Variant) -> list[list[str]]:
    figures = {name: (figure(old), figure(new)) for name, figure in FIGURES.items()}
    if (old.fp32_rate is None) != (new.fp32_rate is None):  # shares of unlike rates
        figures = {name: pair for name, pair in figures.items() if name not in SHARES}
    for part in STEP_PARTS:
        if part in old.parts and part in new.parts:
            times = [1e3 * median(one.parts[part].seconds) for one in (old, new)]
            figures[f"{part}, ms"] = (times[0], times[1])
    return [
        [name, number(then), number(now), number(now / then)]
        for name, (then, now) in figures.items()
        if isinstance(then, float) and isinstance(now, float) and then
    ]
