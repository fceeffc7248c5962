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
from statistics import fmean

from benchmark.report.paper_study import LABELS, Study
from benchmark.report.section import Block, Cell, Section
from benchmark.results.published import Claim, Layout, Published
from benchmark.results.record import METRICS
from benchmark.results.statistics import paired_t
from methods.errors import unknown

Ratio = Callable[[float, float], float]
RATIOS: dict[str, Ratio] = {
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

    what: str
    computed: float
    low: float
    high: float
    """What `computed` may be when every input was rounded by up to half a unit of its last digit."""
    printed: str
    where: str
    remark: str = ""

    @property
    def digits(self) -> int:
        """Decimals of the printed figure."""
        return len(self.printed.partition(".")[2])

    @property
    def difference(self) -> float:
        """Computed, rounded as printed, minus printed."""
        return round(self.computed, self.digits) - float(self.printed)

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


def pairs(
    study: Study, subject: str, baseline: str, measure: str, datasets: Sequence[str] = ()
) -> list[tuple[float, float]]:
    """(s, b) of every dataset, or of `datasets`, on which both are known."""
    values = []
    for dataset in datasets or study.datasets:
        s, b = study.get(dataset, subject, measure), study.get(dataset, baseline, measure)
        if s is not None and b is not None and s.value > 0 and b.value > 0:
            values.append((s.value, b.value))
    return values


def mean_ratio(kind: str, values: Sequence[tuple[float, float]]) -> float | None:
    """The mean over datasets of RATIOS[kind]; None without a dataset."""
    return fmean(RATIOS[kind](s, b) for s, b in values) if values else None


def p_value(values: Sequence[tuple[float, float]]) -> float | None:
    """Two-sided p of the paired t-test over datasets of the figures themselves; None under two datasets."""
    return paired_t([s - b for s, b in values])[1] if len(values) > 1 else None


def bounds(kind: str, values: Sequence[tuple[float, float]], half: float) -> tuple[float, float]:
    """Least and largest mean ratio when each figure is up to `half` off."""
    ends = [fmean(RATIOS[kind](s + x, b - x) for s, b in values) for x in (half, -half)]
    return min(ends), max(ends)


def wins(study: Study, layout: Layout, measure: str) -> int:
    """Datasets on which the proposed method is above every baseline of Tables 2 to 4."""
    count = 0
    for dataset in study.datasets:
        s = study.get(dataset, layout.subject, measure)
        others = [study.get(dataset, name, measure) for name in layout.tables["improvement"].methods]
        known = [other.value for other in others if other]
        count += s is not None and bool(known) and s.value > max(known)
    return count


def least_improvement(study: Study, layout: Layout, measure: str) -> tuple[float, str]:
    """The smallest mean improvement over a baseline, and the baseline's name."""
    improvements = [
        (value, name)
        for name in layout.tables["improvement"].methods
        if (value := mean_ratio("improvement", pairs(study, layout.subject, name, measure))) is not None
    ]
    return min(improvements)


def claims(paper: Published, studies: Mapping[str, Study]) -> list[Derived]:
    """The figures of the paper's text. Raises `UserError` for a kind in `tables.toml` without definition."""
    return [_claim(claim, studies[claim.llm], paper.layout) for claim in paper.layout.claims]


def _claim(claim: Claim, study: Study, layout: Layout) -> Derived:
    if claim.kind not in KINDS:
        raise unknown("kind of a claim in tables.toml:", claim.kind, KINDS)
    names = layout.methods
    about = f"{layout.llms[claim.llm]}, {LABELS.get(claim.measure, claim.measure)}"
    if claim.kind == "wins":
        count = wins(study, layout, claim.measure)
        what = f"{about}: datasets on which {names[layout.subject]} is best"
        return Derived(what, count, count, count, claim.printed, claim.where)
    if claim.kind == "least_improvement":
        least, name = least_improvement(study, layout, claim.measure)
        both = pairs(study, layout.subject, name, claim.measure)
        low, high = bounds("improvement", both, HALF_UNIT[claim.measure])
        what = f"{about}: improvement over the nearest baseline, %"
        return Derived(what, least, low, high, claim.printed, claim.where, f"the nearest is {names[name]}")
    both = pairs(study, layout.subject, claim.baseline, claim.measure, claim.datasets)
    low, high = bounds(claim.kind, both, HALF_UNIT[claim.measure])
    on = "".join(f", {layout.datasets[name]}" for name in claim.datasets)
    unit = "" if claim.kind == "speedup" else ", %"
    what = f"{about}{on}: {claim.kind} against {names[claim.baseline]}{unit}"
    return Derived(what, mean_ratio(claim.kind, both) or 0.0, low, high, claim.printed, claim.where)


def table5(paper: Published, studies: Mapping[str, Study]) -> list[Derived]:
    """Every figure of Table 5, from Tables 2 to 4."""
    layout, derived = paper.layout, []
    for row in paper.rows:
        if row["kind"] == "improvement":
            llm, metric, baseline = row["llm"], row["measure"], row["method"]
            both = pairs(studies[llm], layout.subject, baseline, metric)
            low, high = bounds("improvement", both, HALF_UNIT[metric])
            what = f"{layout.llms[llm]}, {LABELS[metric]}, over {layout.methods[baseline]}"
            value = mean_ratio("improvement", both) or 0.0
            derived.append(Derived(what, value, low, high, f"{row['value']:.1f}", "Table 5"))
    return derived


def _counts(paper: Published) -> dict[tuple[str, str], float]:
    """(dataset, count or average) -> Table 1."""
    return {
        (row["dataset"], row["measure"]): float(row["value"]) for row in paper.rows if row["kind"] == "count"
    }


def table1(paper: Published) -> list[Derived]:
    """Interactions per user and per item, from the counts."""
    known, derived = _counts(paper), []
    for dataset, name in paper.layout.datasets.items():
        for per, of in (("interactions_per_user", "users"), ("interactions_per_item", "items")):
            value = known[dataset, "interactions"] / known[dataset, of]
            what = f"{name}, {per.replace('_', ' ')}"
            derived.append(Derived(what, value, value, value, f"{known[dataset, per]:.1f}", "Table 1"))
    return derived


def other_definitions(paper: Published, study: Study, claim: Claim) -> dict[str, float]:
    """A claimed mean improvement by other definitions than the one that gives Table 5, by name."""
    known, ratio = _counts(paper), RATIOS["improvement"]
    both = dict(
        zip(
            study.datasets,
            pairs(study, paper.layout.subject, claim.baseline, claim.measure),
            strict=True,
        )
    )
    each = {dataset: ratio(s, b) for dataset, (s, b) in both.items()}
    means = {
        "mean of ratios": fmean(each.values()),
        "ratio of means": ratio(sum(s for s, _ in both.values()), sum(b for _, b in both.values())),
    }
    for name in ("users", "items", "interactions", "interactions_per_user", "interactions_per_item"):
        weights = [known[dataset, name] for dataset in each]
        means[f"by {name.replace('_', ' ')}"] = fmean(each.values(), weights)
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
    every = [*stated, *improvements, *per]
    counts = Counter(figure.verdict for figure in every)
    caption = (
        f"What {paper.layout.source} states about its tables, recomputed from them. Of {len(every)} figures "
        f"{counts['agrees']} agree, {counts['within rounding']} agree within rounding, {counts['differs']} "
        "do not."
    )
    lines = [
        {
            "figure": figure.what,
            "computed": figure.computed,
            "printed": figure.printed,
            "difference": figure.computed - float(figure.printed),
            "low": figure.low,
            "high": figure.high,
            "verdict": figure.verdict,
            "where": figure.where,
        }
        for figure in every
    ]
    return Section("paper-derived", "Derived figures", caption, blocks, notes, (), lines)


def _block(title: str, figures: Sequence[Derived]) -> Block:
    rows = []
    for figure in figures:
        digits = figure.digits
        exact = figure.low == figure.high
        allowed = "-" if exact else f"{fixed(figure.low, digits + 1)} to {fixed(figure.high, digits + 1)}"
        texts = [
            figure.what,
            f"{figure.computed:.{digits + 2 if digits else 0}f}",
            figure.printed,
            fixed(figure.difference, digits, "+"),
            allowed,
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
        [Cell(figure.what), Cell(figure.printed), *(Cell(f"{value:.2f}") for value in values.values())]
        for (_, figure), values in zip(differ, tried, strict=True)
    ]
    return Block(
        "Other definitions of the mean improvement (by: weighted by)", ["figure", "printed", *tried[0]], rows
    )
