"""The answer of each dataset: one sentence, the rows by total cost, and a picture of quality against cost."""

from __future__ import annotations

from typing import Any

from benchmark.report.differences import signed
from benchmark.report.plots import draw_answer
from benchmark.report.rendering import text
from benchmark.report.section import Block, Cell, Plot, Section, configuration
from benchmark.results.advice import QUALITY, Advice, Choice, Clock, advise, main_tables, search_elsewhere
from benchmark.results.compared import shown
from benchmark.results.figures import Results
from benchmark.results.groups import slug
from benchmark.results.measures import MEASURES, count

PEAK = MEASURES["peak_memory_bytes", ""]
ENERGY = MEASURES["watt_hours_to_best", ""]
HOUR = 3600.0


def advices(results: Results) -> list[Advice]:
    """What to take on each dataset, by the table to read first; of tables with two rows or more to choose."""
    found = [advise(group) for group in main_tables(results.groups.values())]
    return [advice for advice in found if advice and len(advice.choices) > 1]


def sections(results: Results) -> list[Section]:
    """A section for each dataset with a trained row."""
    return [section(advice) for advice in advices(results)]


def section(advice: Advice) -> Section:
    """The sentence, the choices and the picture of one dataset."""
    key = advice.group.key
    stems = [stem for stem in (key.dataset, key.llm, "answer") if stem]
    return Section(
        "-".join(map(slug, stems)),
        f"The answer: {key.title}",
        advice.sentence,
        [choices_block(advice)],
        notes(advice),
        [Plot("cost", f"Quality against total cost: {key.title}", draw_answer(advice))],
        _lines(advice),
        {choice.row.configuration: configuration(choice.row.finished) for choice in advice.choices},
        plots_first=True,
    )


def choices_block(advice: Advice, hourly: float | None = None) -> Block:
    """The rows from the cheapest to the dearest; with the price at an `hourly` rate where one is given."""
    on_cpu, energy = advice.clock.on_cpu, _has_energy(advice)
    unit = "CPU s" if on_cpu else "s"
    heads = [
        "row",
        f"masked {QUALITY.label}",
        "less the best",
        f"total, {unit}",
        "prep. s",
        f"search, {unit}",
    ]
    heads += [f"training, {unit}", *(["total, wall s"] if on_cpu else []), "peak GiB"]
    heads += [*(["training, Wh"] if energy else []), "front"]
    heads += [] if hourly is None else [f"price at {hourly:g} an hour"]
    rows = [_cells(advice, choice, energy, hourly) for choice in advice.choices]
    return Block("From the cheapest row to the dearest", heads, rows)


def _cells(advice: Advice, choice: Choice, energy: bool, hourly: float | None) -> list[Cell]:
    """Cells of `choices_block`; `energy` says whether it has that column."""
    wall = wall_seconds(advice, choice)
    if choice.best is None:
        difference = "best"
    else:
        verdict = "shown" if shown(choice.best) else "not shown"
        difference = f"{signed(choice.best.difference)}, {verdict}"
    seconds = [choice.cost, *choice.parts, *([wall] if advice.clock.on_cpu else [])]
    texts = [choice.figure, difference, *map(count, seconds), PEAK.cell(choice.row)]
    texts += [ENERGY.cell(choice.row)] if energy else []
    texts += ["yes" if choice.on_front else ""]
    texts += [] if hourly is None else [f"{wall / HOUR * hourly:,.4f}"]
    return [Cell(choice.label, record=choice.row.configuration), *map(Cell, texts)]


def _has_energy(advice: Advice) -> bool:
    return any(ENERGY.mean(choice.row) for choice in advice.choices)


def wall_seconds(advice: Advice, choice: Choice) -> float:
    """Its total cost in wall seconds, which a rented machine is paid by."""
    return Clock(on_cpu=False).parts(choice.row, advice.group.rows).total


def advised(advice: Advice, budget: float | None = None, hourly: float | None = None) -> str:
    """The sentence, what fits into a `budget` of seconds, and the table, for a terminal."""
    caption = advice.sentence if budget is None else f"{advice.sentence} {_within(advice, budget)}"
    return text(caption, [choices_block(advice, hourly)], notes(advice))


def _within(advice: Advice, budget: float) -> str:
    unit, choice = advice.clock.unit, advice.within(budget)
    if choice is None:
        cheapest = advice.choices[0]
        return (
            f"No row costs {count(budget)} {unit} or less; the cheapest, {cheapest.name}, costs "
            f"{count(cheapest.cost)}."
        )
    return (
        f"Within {count(budget)} {unit}, {choice.name} is best: masked {QUALITY.label} {choice.figure} "
        f"for {count(choice.cost)}."
    )


def notes(advice: Advice) -> list[str]:
    """What the figures mean."""
    counted = (
        "Training and search count in CPU seconds, which other programs hardly disturb; preparation in wall "
        "seconds. "
        if advice.clock.on_cpu
        else ""
    )
    lines = [
        "Total: preparation from an empty cache, the search for hyper-parameters, and training up to the "
        "chosen epoch, mean over seeds. Epochs after it, validation and the test pass are not in it. A "
        f"control costs the scoring of validation under all its trials. {counted}",
        "Front: no other row is as good and as cheap, and better or cheaper. Shown: a corrected p below .05 "
        "(see the differences between methods).",
    ]
    if _has_energy(advice):
        lines.append(
            "Energy: of GPUs (NVML) and processor packages (RAPL) in training up to the chosen epoch, with "
            "whatever else ran on them."
        )
    given = [c.row for c in advice.choices if c.row.tuning and c.row.tuning.mode == "given"]
    if unknown := [row.label for row in given if not search_elsewhere(row, advice.group.rows)]:
        lines.append(f"The search that chose their values is not in the cost of: {', '.join(unknown)}.")
    return [line.strip() for line in lines]


def _lines(advice: Advice) -> list[dict[str, Any]]:
    return [
        {
            **advice.group.key._asdict(),
            "row": choice.label,
            "test_masked_recall@10": choice.quality,
            "half_width": choice.half_width,
            "difference_from_best": choice.best and choice.best.difference,
            "p_corrected": choice.best and choice.best.p_corrected,
            "clock": advice.clock.unit,
            "total": choice.cost,
            **choice.parts._asdict(),
            "watt_hours": (energy := ENERGY.mean(choice.row)) and energy.mean,
            "wall_seconds": wall_seconds(advice, choice),
            "on_front": choice.on_front,
            "seeds": len(choice.row.ok),
        }
        for choice in advice.choices
    ]
