"""What follows from a table: improvements, speedups, reductions; and whether what the paper states follows
from its own tables (section "Derived figures").

Definitions, found by trying which give what the paper prints (`s` the proposed method's figure, `b` a
baseline's, on a dataset; means are over datasets, unweighted):

- improvement, per cent: mean of 100 (s / b - 1). Gives all 60 figures of Table 5 to the digit; the ratio of
  the means gives 8 of them.
- speedup: mean of b / s. Gives 30.8 and 31.1; the ratio of the sums is 31.5 and 31.8.
- reduction and share, per cent: mean of 100 (1 - s / b), of 100 s / b.
- wins: datasets on which s is above every baseline.
- least improvement: the smallest improvement over a baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.report.paper_study import LABELS, Study
from benchmark.report.section import Block, Cell, Section
from benchmark.results.published import Claim, Published
from benchmark.results.schema import METRICS
from benchmark.results.statistics import paired_t
from methods.errors import unknown

if TYPE_CHECKING:
    from pandas import Series

    from benchmark.report.paper_study import Pairs

RATIOS: dict[str, Callable[[Series[float], Series[float]], Series[float]]] = {
    "improvement": lambda s, b: 100 * (s / b - 1),
    "speedup": lambda s, b: b / s,
    "reduction": lambda s, b: 100 * (1 - s / b),
    "share": lambda s, b: 100 * s / b,
}
"""Kind -> what is averaged over datasets; monotone in both arguments, in opposite directions."""
KINDS = (*RATIOS, "wins", "least_improvement")
HALF_UNIT = dict.fromkeys(METRICS, 5e-05) | {"epoch_seconds": 0.05, "gpu_memory_gb": 0.05}
"""Half a unit of the last digit that the paper prints: what rounding may have moved."""


@dataclass(frozen=True)
class Derived:
    """A figure that follows from a table, beside the printed one."""

    figure: str
    printed: str
    computed: float
    low: float
    high: float
    """What `computed` may be when every input was rounded by up to half a unit of its last digit."""
    where: str
    remark: str = ""

    @property
    def digits(self) -> int:
        """Decimals of the printed figure."""
        return len(self.printed.partition(".")[2])

    @property
    def verdict(self) -> str:
        """`agrees` to the printed digit; `within rounding` where the inputs' allows it; or `differs`."""
        if f"{self.computed:.{self.digits}f}" == self.printed:
            return "agrees"
        half = 0.5 * 10**-self.digits
        near = self.low <= float(self.printed) + half and self.high >= float(self.printed) - half
        return "within rounding" if near else "differs"


def fixed(value: float, digits: int = 1, sign: str = "") -> str:
    """A decimal number; zero has no sign."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def mean_ratio(kind: str, pairs: Pairs) -> float | None:
    """The mean over datasets of RATIOS[kind]; None without a dataset."""
    return float(RATIOS[kind](*pairs).mean()) if len(pairs[0]) else None


def p_value(pairs: Pairs) -> float | None:
    """Two-sided p of the paired t-test over datasets of the figures themselves; None under two datasets."""
    s, b = pairs
    return paired_t(list(s - b))[1] if len(s) > 1 else None


def _of_pairs(kind: str, pairs: Pairs, measure: str) -> tuple[float, float, float]:
    """The mean ratio; the least and the largest where each figure is half a unit of its last digit off."""
    s, b = pairs
    half = HALF_UNIT[measure]
    ends = [float(RATIOS[kind](s + x, b - x).mean()) for x in (half, -half)]
    return mean_ratio(kind, pairs) or 0.0, min(ends), max(ends)


def claims(paper: Published, studies: Mapping[str, Study]) -> list[Derived]:
    """The figures of the paper's text. Raises `UserError` for a kind in `tables.toml` without definition."""
    return [_claim(claim, studies[claim.llm], paper) for claim in paper.layout.claims]


def _claim(claim: Claim, study: Study, paper: Published) -> Derived:
    if claim.kind not in KINDS:
        raise unknown("kind of a claim in tables.toml:", claim.kind, KINDS)
    layout, remark = paper.layout, ""
    baselines = {name: study.pairs(name, claim.measure) for name in layout.tables["improvement"].methods}
    if claim.kind == "wins":
        won = set.intersection(*({*s.index[s > b]} for s, b in baselines.values()))
        what = f": datasets on which {layout.methods[layout.subject]} is best"
        numbers = (float(len(won)),) * 3
    elif claim.kind == "least_improvement":
        least = min(baselines, key=lambda name: mean_ratio("improvement", baselines[name]) or 0.0)
        what, remark = ": improvement over the nearest baseline, %", f"the nearest is {layout.methods[least]}"
        numbers = _of_pairs("improvement", baselines[least], claim.measure)
    else:
        on = "".join(f", {layout.datasets[name]}" for name in claim.datasets)
        unit = "" if claim.kind == "speedup" else ", %"
        what = f"{on}: {claim.kind} against {layout.methods[claim.baseline]}{unit}"
        numbers = _of_pairs(
            claim.kind, study.pairs(claim.baseline, claim.measure, claim.datasets), claim.measure
        )
    about = f"{layout.llms[claim.llm]}, {LABELS.get(claim.measure, claim.measure)}"
    return Derived(about + what, claim.printed, *numbers, claim.where, remark)


def table5(paper: Published, studies: Mapping[str, Study]) -> list[Derived]:
    """Every figure of Table 5, from Tables 2 to 4."""
    layout, derived = paper.layout, []
    for row in paper.rows:
        if row["kind"] == "improvement":
            llm, metric, baseline = row["llm"], row["measure"], row["method"]
            what = f"{layout.llms[llm]}, {LABELS[metric]}, over {layout.methods[baseline]}"
            numbers = _of_pairs("improvement", studies[llm].pairs(baseline, metric), metric)
            derived.append(Derived(what, f"{row['value']:.1f}", *numbers, "Table 5"))
    return derived


def _counts(paper: Published) -> dict[tuple[str, str], float]:
    """(count or average, dataset) -> Table 1."""
    return {(row["measure"], row["dataset"]): row["value"] for row in paper.rows if row["kind"] == "count"}


def table1(paper: Published) -> list[Derived]:
    """Interactions per user and per item, from the counts."""
    known, derived = _counts(paper), []
    for dataset, name in paper.layout.datasets.items():
        for per, of in (("interactions_per_user", "users"), ("interactions_per_item", "items")):
            value = known["interactions", dataset] / known[of, dataset]
            what, printed = f"{name}, {per.replace('_', ' ')}", f"{known[per, dataset]:.1f}"
            derived.append(Derived(what, printed, value, value, value, "Table 1"))
    return derived


def other_definitions(paper: Published, study: Study, claim: Claim) -> dict[str, float]:
    """A claimed mean improvement by other definitions than the one that gives Table 5, by name."""
    import numpy as np

    known, ratio = _counts(paper), RATIOS["improvement"]
    s, b = study.pairs(claim.baseline, claim.measure)
    ratios = ratio(s, b)
    means = {"mean of ratios": ratios.mean(), "ratio of means": 100 * (s.sum() / b.sum() - 1)}
    for name in ("users", "items", "interactions", "interactions_per_user", "interactions_per_item"):
        weights = [known[name, dataset] for dataset in ratios.index]
        means[f"by {name.replace('_', ' ')}"] = np.average(ratios, weights=weights)
    return means


HEADS = ["figure", "computed", "printed", "difference", "inputs' rounding allows", "verdict", "where, remark"]
NOTES = (
    "Means are over the five datasets, unweighted; s is the figure of the proposed method and b that of the "
    "baseline. Improvement: the mean of 100 (s / b - 1). Speedup: the mean of b / s. Reduction: "
    "100 (1 - s / b). Share: 100 s / b.",
    "The paper does not define these figures. We tried definitions: mean ratios reproduce all of Table 5 and "
    "both speedups to the digit; ratios of means reproduce 8 of the 60 figures of Table 5, and give speedups "
    "of 31.5 and 31.8.",
    "Agrees: equal as printed. Within rounding: not equal, but the inputs before rounding may give the "
    "printed figure. Differs: no inputs that round to the printed ones give it, so that the statement of the "
    "paper contradicts its table.",
)
CONFLICT = (
    "The last table shows other definitions for the improvements that differ under the definition of Table 5."
    " With weights by interactions per user, three of the four are as printed and the fourth is within the "
    "rounding of the inputs. The paper names no weights, and Table 5 uses none; we found these by trying. "
    "Table 8 may also have changed after the text was written."
)


def section(paper: Published, studies: Sequence[Study]) -> Section:
    """Every derived figure: computed, printed, and whether they agree."""
    known = {study.llm: study for study in studies}
    stated, improvements, per = claims(paper, known), table5(paper, known), table1(paper)
    blocks = [
        _block("Statements of the text", stated),
        _block("Table 5 from Tables 2, 3 and 4", improvements),
        _block("Averages of Table 1 from its counts", per),
    ]
    notes = list(NOTES)
    if others := _others(paper, known):
        blocks.append(others)
        notes.append(CONFLICT)
    figures = [*stated, *improvements, *per]
    counts = Counter(figure.verdict for figure in figures)
    caption = (
        f"What {paper.layout.source} states about its tables, recomputed from them. Of {len(figures)} "
        f"figures {counts['agrees']} agree, {counts['within rounding']} agree within rounding, "
        f"{counts['differs']} do not."
    )
    lines = [
        {
            "figure": figure.figure,
            "computed": figure.computed,
            "printed": figure.printed,
            "difference": figure.computed - float(figure.printed),
            "low": figure.low,
            "high": figure.high,
            "verdict": figure.verdict,
            "where": figure.where,
        }
        for figure in figures
    ]
    return Section("paper-derived", "Derived figures", caption, blocks, notes, (), lines)


def _block(title: str, figures: Sequence[Derived]) -> Block:
    rows = []
    for figure in figures:
        digits = figure.digits
        exact = figure.low == figure.high
        difference = round(figure.computed, digits) - float(figure.printed)
        texts = [
            figure.figure,
            f"{figure.computed:.{digits + 2 if digits else 0}f}",
            figure.printed,
            fixed(difference, digits, "+"),
            "-" if exact else f"{fixed(figure.low, digits + 1)} to {fixed(figure.high, digits + 1)}",
            figure.verdict,
            "; ".join(part for part in (figure.where, figure.remark) if part),
        ]
        rows.append([Cell(text) for text in texts])
    return Block(title, HEADS, rows)


def _others(paper: Published, studies: dict[str, Study]) -> Block | None:
    """The statements of improvement that differ, by other definitions of a mean."""
    differ = [
        (claim, figure)
        for claim, figure in zip(paper.layout.claims, claims(paper, studies), strict=True)
        if claim.kind == "improvement" and figure.verdict == "differs"
    ]
    if not differ:
        return None
    tried = [other_definitions(paper, studies[claim.llm], claim) for claim, _ in differ]
    rows = [
        [Cell(figure.figure), Cell(figure.printed), *(Cell(f"{value:.2f}") for value in values.values())]
        for (_, figure), values in zip(differ, tried, strict=True)
    ]
    return Block(
        "Other definitions of the mean improvement (by: weighted by)", ["figure", "printed", *tried[0]], rows
    )
