"""Which differences between the rows of a table are more than chance among users: tests from stored ranks.

docs/statistics.md explains each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from benchmark.report.provenance import configuration
from benchmark.report.section import Block, Cell, Section
from benchmark.results.comparable import RunGroup, RunRow
from benchmark.results.measures import share
from benchmark.results.metrics import measure, of_ranks
from benchmark.results.record import METRICS
from benchmark.results.results import Results
from benchmark.results.statistics import bootstrap, holm, paired_t, randomisation, wilcoxon
from benchmark.results.stored import StoredRun, UserGains, user_gains

COMPARED = ("recall@10", "ndcg@10")
"""Metrics that are tested, raw, unless others are asked for."""
ALPHA = 0.05
ALL_PAIRS = 10
"""Rows up to which all pairs are compared; above, each with the reference alone."""
FLIPS = 10_000
SEEDS_TO_TEST = 5
"""Matched seeds from which a paired t-test over them is given: with fewer it cannot tell."""


@dataclass(frozen=True, eq=False)
class ComparedRow:
    """A row of a table and the gains of its users."""

    row: RunRow
    runs: tuple[StoredRun, ...]
    gains: UserGains

    @property
    def label(self) -> str:
        """Of the row."""
        return self.row.label

    @property
    def valid(self) -> float:
        """Mean validation Recall@10 over the seeds."""
        mean = self.row.mean("recall@10", "valid")
        return mean.mean if mean else 0.0


class Comparison(NamedTuple):
    """Two rows under one metric; the fields from `difference` on are columns of the CSV."""

    a: ComparedRow
    b: ComparedRow
    metric: str
    difference: float
    """Metric of `a` less that of `b`."""
    low: float
    high: float
    p_randomisation: float
    p_holm: float
    p_wilcoxon: float | None
    """None where the rows have unlike numbers of seeds: the mean of two draws and a single draw differ in
    shape though not in mean, and this test asks for symmetry."""
    p_over_seeds: float | None
    """Of the paired t-test over matched seeds; None for fewer than SEEDS_TO_TEST."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.p_holm >= ALPHA:
            return "no difference shown"
        return f"{(self.a if self.difference > 0 else self.b).label} better"


@dataclass(frozen=True)
class _TableTests:
    """The comparisons of one table."""

    stem: str
    group: RunGroup
    members: list[ComparedRow]
    comparisons: list[Comparison] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def reference(self) -> ComparedRow:
        """The member that is best on validation."""
        return reference(self.members)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that are tested: `COMPARED`, or the measures that were asked for."""
        return tested(self.group)


def reference(members: Sequence[ComparedRow]) -> ComparedRow:
    """The row that is best on validation, the first of equals."""
    return max(members, key=lambda member: member.valid)


def tested(group: RunGroup) -> tuple[str, ...]:
    """The measures of a table under which its rows are compared, user by user: those of ranks."""
    asked = of_ranks(group.metrics)
    return COMPARED if asked == METRICS else asked or COMPARED


def sections(results: Results) -> list[Section]:
    """A section for each table of two rows or more whose runs came to their end."""
    made = []
    for stem, group in results.groups.items():
        rows = [row for row in group.rows + group.controls if row.finished]
        if len(rows) > 1:
            made.append(_section(_table(stem, group, rows)))
    return made


def _table(stem: str, group: RunGroup, rows: Sequence[RunRow]) -> _TableTests:
    members: list[ComparedRow] = []
    faults: list[str] = []
    for row in rows:
        gains, problems = user_gains(row.finished, tested(group))
        faults += [f"{row.label}: {fault}" for fault in problems]
        if gains is not None and members and not np.array_equal(gains.user, members[0].gains.user):
            faults.append(f"{row.label}: its ranks are of other users than those of {members[0].label}.")
        elif gains is not None:
            used = tuple(run for run in row.finished if run.record.seed in gains.by_seed)
            members.append(ComparedRow(row, used, gains))
    comparisons = compare(members, tested(group)) if len(members) > 1 else []
    return _TableTests(stem, group, members, comparisons, faults)


def compare(members: Sequence[ComparedRow], metrics: Sequence[str]) -> list[Comparison]:
    """All pairs of up to ALL_PAIRS rows, of more each with the reference, under each of `metrics`.

    Holm's correction is over all of them together.
    """
    places = range(len(members))
    pairs = list(combinations(places, 2))
    if len(members) > ALL_PAIRS:
        best = members.index(reference(members))
        pairs = [(place, best) for place in places if place != best]
    values = np.concatenate([member.gains.mean for member in members], axis=1)  # [U, rows x metrics]
    width = len(metrics)
    tests = [(members[a], members[b], m) for m in range(width) for a, b in pairs]
    columns = [(a * width + m, b * width + m) for m in range(width) for a, b in pairs]
    p_values = randomisation(values, columns, flips_for(len(tests))).tolist()
    intervals = bootstrap(values, columns).tolist()
    comparisons = []
    for (a, b, m), (i, j), (low, high), p, corrected in zip(
        tests, columns, intervals, p_values, holm(p_values), strict=True
    ):
        difference = values[:, i] - values[:, j]
        alike = len(a.gains.by_seed) == len(b.gains.by_seed)
        comparisons.append(
            Comparison(
                a, b, metrics[m], float(difference.mean()), low, high, p, corrected,
                wilcoxon(difference) if alike else None, _over_seeds(a.gains, b.gains, m),
            )
        )  # fmt: skip
    return comparisons


def flips_for(family: int) -> int:
    """Enough sign flips that the least p they can give stays below ALPHA when Holm multiplies it."""
    return max(FLIPS, round(2 * family / ALPHA))


def _over_seeds(a: UserGains, b: UserGains, column: int) -> float | None:
    matched = sorted(a.by_seed.keys() & b.by_seed.keys())
    if len(matched) < SEEDS_TO_TEST:
        return None
    return paired_t([float(a.by_seed[seed][column] - b.by_seed[seed][column]) for seed in matched])[1]


def _section(table: _TableTests) -> Section:
    where = table.group.key.title
    blocks = [_against_reference(table, metric) for metric in table.metrics] if table.comparisons else []
    if table.comparisons and 2 < len(table.members) <= ALL_PAIRS:
        blocks += [_all_pairs(table, metric) for metric in table.metrics]
    return Section(
        f"{table.stem}-tests",
        f"Differences between methods: {where}",
        f"{_named(table.metrics)} over the full catalogue, history not masked, user by user. "
        f"{table.group.caption}",
        blocks,
        [*_notes(table), *table.faults],
        lines=[_line(table, comparison) for comparison in table.comparisons],
        records={member.row.configuration: configuration(member.runs) for member in table.members},
    )


def _named(metrics: Sequence[str]) -> str:
    if tuple(metrics) == COMPARED:
        return "Test Recall@10 and NDCG@10"
    return f"Test {', '.join(measure(metric).label for metric in metrics)}"


HEADS = ["difference", "95 % interval", "p", "Holm p", "Wilcoxon p"]


def _figures(test: Comparison, sign: int = 1) -> list[Cell]:
    """Cells of HEADS; `sign` -1 turns the comparison round."""
    low, high = sorted((sign * test.low, sign * test.high))
    texts = [signed(sign * test.difference), f"{signed(low)} to {signed(high)}"]
    return [
        Cell(text) for text in (*texts, *map(p_value, (test.p_randomisation, test.p_holm, test.p_wilcoxon)))
    ]


def _against_reference(table: _TableTests, metric: str) -> Block:
    best, column, rows = table.reference, table.metrics.index(metric), []
    for member in table.members:
        spread = member.gains.spread(column)
        head = [
            Cell(member.label),
            Cell(share(float(member.gains.mean[:, column].mean())), record=member.row.configuration),
            Cell("" if member.runs[0].record.untrained else str(len(member.runs))),
            Cell("n/a" if spread is None else share(spread)),
        ]
        if member is best:
            rows.append([*head, Cell("reference"), *[Cell("")] * len(HEADS)])
        for test in table.comparisons:
            if test.metric == metric and test.a is member and test.b is best:
                rows.append([*head, *_figures(test), Cell(test.verdict)])
            elif test.metric == metric and test.b is member and test.a is best:
                rows.append([*head, *_figures(test, -1), Cell(test.verdict)])
    heads = ["row", measure(metric).label, "seeds", "SD over seeds", *HEADS, "verdict"]
    title = f"{measure(metric).label}: each row against {best.label}, the best on validation"
    return Block(title, heads, rows)


def _all_pairs(table: _TableTests, metric: str) -> Block:
    rows = [
        [Cell(f"{test.a.label} - {test.b.label}"), *_figures(test), Cell(test.verdict)]
        for test in table.comparisons
        if test.metric == metric
    ]
    return Block(f"{measure(metric).label}: all pairs", ["pair", *HEADS, "verdict"], rows)


def _notes(table: _TableTests) -> list[str]:
    if not table.comparisons:
        return ["Fewer than two rows have ranks that can be compared."]
    users, family = len(table.members[0].gains.user), len(table.comparisons)
    together = "both" if len(table.metrics) == 2 else "all"
    notes = [
        "A user's gain is the mean over a row's seeds; then "
        f"n = {users:,} users, however many seeds. difference: mean over users; 95 % interval: percentile "
        "bootstrap over users.",
        f"p: two-sided paired randomisation test, {flips_for(family):,} sign flips. Holm p: corrected over "
        f"the {family} comparisons of this table, {together} metrics together; below {ALPHA:g} one is called "
        "better. Wilcoxon p: signed-rank test, users without a difference ranked and then dropped (Pratt), "
        "uncorrected; n/a between rows of unlike numbers of seeds, whose differences are skewed even where "
        "the means are equal.",
        "These tests are over users with the trained weights fixed; they do not cover how figures vary "
        f"between seeds. SD over seeds does; from {SEEDS_TO_TEST} matched seeds on, the CSV has a paired "
        "t-test over them.",
    ]
    if len(table.members) > ALL_PAIRS:
        notes.append(f"Of more than {ALL_PAIRS} rows, each is compared with the reference alone.")
    trained = [member for member in table.members if not member.runs[0].record.untrained]
    single = [member.label for member in trained if len(member.runs) == 1]
    if single:
        notes.append(f"One seed only, so that its spread is unknown: {', '.join(single)}.")
    return notes


def _line(table: _TableTests, test: Comparison) -> dict[str, Any]:
    line: dict[str, Any] = {**table.group.key._asdict(), "metric": test.metric}
    column = table.metrics.index(test.metric)
    for name, member in (("a", test.a), ("b", test.b)):
        line |= {
            name: member.label,
            f"{name}_config_hash": member.runs[0].record.config_hash,
            f"{name}_seeds": " ".join(str(seed) for seed in member.gains.by_seed),
            f"{name}_mean": float(member.gains.mean[:, column].mean()),
            f"{name}_seed_sd": member.gains.spread(column),
        }
    line["users"] = len(test.a.gains.user)
    line |= dict(list(test._asdict().items())[3:])
    return line | {"family": len(table.comparisons), "verdict": test.verdict}


def signed(value: float) -> str:
    """A difference of metrics to four digits, with its sign and without the zero before the point."""
    return f"{round(value, 4) + 0.0:+.4f}".replace("0.", ".", 1)


def p_value(value: float | None) -> str:
    """A p-value to four digits."""
    if value is None:
        return "n/a"
    return "<.0001" if value < 0.0001 else "1" if value >= 0.99995 else share(value)
