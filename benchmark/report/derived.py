"""What follows from a table: improvements, speedups, reductions; and whether the paper's follow from its own.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.report.measured import LABELS, Study
from benchmark.report.stats import paired_t
from benchmark.results.published import IMPROVEMENT, Claim, Layout, Published
from benchmark.results.record import METRICS
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


def pairs(
    study: Study, subject: str, baseline: str, measure: str, datasets: Sequence[str] = ()
) -> list[tuple[float, float]]:
    """(s, b) of every dataset, or of `datasets`, on which both are known."""
    found = []
    for dataset in datasets or study.datasets:
        s, b = study.get(dataset, subject, measure), study.get(dataset, baseline, measure)
        if s is not None and b is not None and s.value > 0 and b.value > 0:
            found.append((s.value, b.value))
    return found


def mean_ratio(kind: str, found: Sequence[tuple[float, float]]) -> float | None:
    """The mean over datasets of RATIOS[kind]; None without a dataset."""
    return fmean(RATIOS[kind](s, b) for s, b in found) if found else None


def p_value(found: Sequence[tuple[float, float]]) -> float | None:
    """Two-sided p of the paired t-test over datasets of the figures themselves; None under two datasets."""
    return paired_t([s - b for s, b in found])[1] if len(found) > 1 else None


def bounds(kind: str, found: Sequence[tuple[float, float]], half: float) -> tuple[float, float]:
    """Least and largest mean ratio when each figure is up to `half` off."""
    ends = [fmean(RATIOS[kind](s + x, b - x) for s, b in found) for x in (half, -half)]
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
    found = [
        (value, name)
        for name in layout.tables["improvement"].methods
        if (value := mean_ratio("improvement", pairs(study, layout.subject, name, measure))) is not None
    ]
    return min(found)


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
        found = pairs(study, layout.subject, name, claim.measure)
        low, high = bounds("improvement", found, HALF_UNIT[claim.measure])
        what = f"{about}: improvement over the nearest baseline, %"
        return Derived(what, least, low, high, claim.printed, claim.where, f"the nearest is {names[name]}")
    found = pairs(study, layout.subject, claim.baseline, claim.measure, claim.datasets)
    low, high = bounds(claim.kind, found, HALF_UNIT[claim.measure])
    on = "".join(f", {layout.datasets[name]}" for name in claim.datasets)
    unit = "" if claim.kind == "speedup" else ", %"
    what = f"{about}{on}: {claim.kind} against {names[claim.baseline]}{unit}"
    return Derived(what, mean_ratio(claim.kind, found) or 0.0, low, high, claim.printed, claim.where)


def table5(paper: Published, studies: Mapping[str, Study]) -> list[Derived]:
    """Every figure of Table 5, from Tables 2 to 4."""
    layout, found = paper.layout, []
    for figure in paper.figures:
        if figure.measure.startswith(IMPROVEMENT) and figure.llm:
            metric = figure.measure.removeprefix(IMPROVEMENT)
            both = pairs(studies[figure.llm], layout.subject, figure.method, metric)
            low, high = bounds("improvement", both, HALF_UNIT[metric])
            what = f"{layout.llms[figure.llm]}, {LABELS[metric]}, over {layout.methods[figure.method]}"
            value = mean_ratio("improvement", both) or 0.0
            found.append(Derived(what, value, low, high, f"{figure.value:.1f}", "Table 5"))
    return found


def table1(paper: Published) -> list[Derived]:
    """Interactions per user and per item, from the counts."""
    known = {(one.dataset, one.measure): one.value for one in paper.figures}
    found = []
    for dataset, name in paper.layout.datasets.items():
        for per, of in (("interactions_per_user", "users"), ("interactions_per_item", "items")):
            value = known[dataset, "interactions"] / known[dataset, of]
            what = f"{name}, {per.replace('_', ' ')}"
            found.append(Derived(what, value, value, value, f"{known[dataset, per]:.1f}", "Table 1"))
    return found


def other_definitions(paper: Published, study: Study, claim: Claim) -> dict[str, float]:
    """A claimed mean improvement by other definitions than the one that gives Table 5, by name."""
    layout = paper.layout
    known = {(one.dataset, one.measure): one.value for one in paper.figures}
    both = dict(zip(study.datasets, pairs(study, layout.subject, claim.baseline, claim.measure), strict=True))
    each = {dataset: RATIOS["improvement"](s, b) for dataset, (s, b) in both.items()}
    found = {
        "mean of ratios": fmean(each.values()),
        "ratio of means": RATIOS["improvement"](
            sum(s for s, _ in both.values()), sum(b for _, b in both.values())
        ),
    }
    for measure in ("users", "items", "interactions", "interactions_per_user", "interactions_per_item"):
        total = sum(known[dataset, measure] for dataset in each)
        found[f"by {measure.replace('_', ' ')}"] = (
            sum(known[dataset, measure] * value for dataset, value in each.items()) / total
        )
    return found
