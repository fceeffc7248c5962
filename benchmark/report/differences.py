"""Which differences between the rows of a table are more than chance among users: tests from stored ranks.

docs/statistics.md explains each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

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


@dataclass(frozen=True)
class ComparedRow:
    """A row of a table and what its users got."""

    row: RunRow
    runs: tuple[StoredRun, ...]
    gains: UserGains

    @property
    def valid(self) -> float:
        """Mean validation Recall@10 over the seeds."""
        return float(
            np.mean([run.record.metrics.get("valid", {}).get("recall@10", 0.0) for run in self.runs])
        )


@dataclass(frozen=True)
class Comparison:
    """One pair of rows under one metric; `a` and `b` are places among the compared rows."""

    a: int
    b: int
    metric: str
    difference: float
    """Metric of `a` less that of `b`."""
    low: float
    high: float
    p: float
    """Of the randomisation test."""
    holm: float
    wilcoxon: float | None
    """None where the rows have unlike numbers of seeds: the mean of two draws and a single draw differ in
    shape though not in mean, and this test asks for symmetry."""
    p_seeds: float | None
    """Of the paired t-test over matched seeds; None for fewer than SEEDS_TO_TEST."""

    def verdict(self, members: Sequence[ComparedRow]) -> str:
        """In words."""
        if self.holm >= ALPHA:
            return "no difference shown"
        return f"{members[self.a if self.difference > 0 else self.b].row.label} better"


@dataclass(frozen=True)
class _TableTests:
    """The comparisons of one table."""

    stem: str
    group: RunGroup
    members: list[ComparedRow]
    reference: int
    """Place of the member that is best on validation."""
    comparisons: list[Comparison]
    faults: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is tested: `COMPARED`, or the measures that were asked for."""
        return tested(self.group)


def tested(group: RunGroup) -> tuple[str, ...]:
    """The measures of a table under which its rows are compared, user by user: those of ranks."""
    asked = of_ranks(group.metrics)
    return COMPARED if asked == METRICS else asked or COMPARED


def sections(results: Results) -> list[Section]:
    """A section for each table of two rows or more whose runs came to their end."""
    made = []
    for stem, group in results.groups.items():
        rows = [row for row in group.rows if row.finished]
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
            faults.append(f"{row.label}: its ranks are of other users than those of {members[0].row.label}.")
        elif gains is not None:
            used = tuple(run for run in row.finished if run.record.seed in gains.by_seed)
            members.append(ComparedRow(row, used, gains))
    if len(members) < 2:
        return _TableTests(stem, group, members, 0, [], faults)
    reference = max(range(len(members)), key=lambda place: members[place].valid)
    return _TableTests(stem, group, members, reference, compare(members, reference, tested(group)), faults)


def compare(members: Sequence[ComparedRow], reference: int, metrics: Sequence[str]) -> list[Comparison]:
    """All pairs of up to ALL_PAIRS rows, of more each with the `reference`, under each of `metrics`.

    Holm's correction is over all of them together.
    """
    if len(members) <= ALL_PAIRS:
        pairs = list(combinations(range(len(members)), 2))
    else:
        pairs = [(place, reference) for place in range(len(members)) if place != reference]
    values = np.concatenate([member.gains.mean for member in members], axis=1)  # [U, sides x metrics]
    width = len(metrics)
    tests = [(a, b, m) for m in range(width) for a, b in pairs]
    columns = [(a * width + m, b * width + m) for a, b, m in tests]
    p_values = randomisation(values, columns, flips_for(len(tests)))
    intervals, adjusted = bootstrap(values, columns), holm([float(p) for p in p_values])
    comparisons = []
    for place, ((a, b, m), (i, j)) in enumerate(zip(tests, columns, strict=True)):
        difference = values[:, i] - values[:, j]
        alike = len(members[a].gains.by_seed) == len(members[b].gains.by_seed)
        comparisons.append(
            Comparison(
                a, b, metrics[m], float(difference.mean()),
                float(intervals[place, 0]), float(intervals[place, 1]),
                float(p_values[place]), adjusted[place], wilcoxon(difference) if alike else None,
                _over_seeds(members[a].gains, members[b].gains, m),
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
        records={member.runs[0].configuration: configuration(member.runs) for member in table.members},
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
    return [Cell(text) for text in (*texts, *map(p_value, (test.p, test.holm, test.wilcoxon)))]


def _against_reference(table: _TableTests, metric: str) -> Block:
    members, best = table.members, table.reference
    pairs = {
        test.a + test.b - best: test
        for test in table.comparisons
        if test.metric == metric and best in (test.a, test.b)
    }
    column = table.metrics.index(metric)
    rows = []
    for place, member in enumerate(members):
        spread = member.gains.spread(column)
        head = [
            Cell(member.row.label),
            Cell(share(float(member.gains.mean[:, column].mean())), record=member.runs[0].configuration),
            Cell(str(len(member.runs))),
            Cell("n/a" if spread is None else share(spread)),
        ]
        if place == best:
            rows.append([*head, Cell("reference"), *[Cell("")] * len(HEADS)])
            continue
        test = pairs[place]
        rows.append(
            [
                *head,
                *_figures(test, 1 if test.a == place else -1),
                Cell(test.verdict(members)),
            ]
        )
    heads = ["row", measure(metric).label, "seeds", "SD over seeds", *HEADS, "verdict"]
    title = f"{measure(metric).label}: each row against {members[best].row.label}, the best on validation"
    return Block(title, heads, rows)


def _all_pairs(table: _TableTests, metric: str) -> Block:
    rows = []
    for test in table.comparisons:
        if test.metric == metric:
            a, b = table.members[test.a].row.label, table.members[test.b].row.label
            rows.append([Cell(f"{a} - {b}"), *_figures(test), Cell(test.verdict(table.members))])
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
    single = [member.row.label for member in table.members if len(member.runs) == 1]
    if single:
        notes.append(f"One seed only, so that its spread is unknown: {', '.join(single)}.")
    return notes


def _line(table: _TableTests, test: Comparison) -> dict[str, Any]:
    line: dict[str, Any] = {**table.group.key._asdict(), "metric": test.metric}
    column = table.metrics.index(test.metric)
    for name, place in (("a", test.a), ("b", test.b)):
        member = table.members[place]
        line |= {
            name: member.row.label,
            f"{name}_config_hash": member.runs[0].record.config_hash,
            f"{name}_seeds": " ".join(str(seed) for seed in member.gains.by_seed),
            f"{name}_mean": float(member.gains.mean[:, column].mean()),
            f"{name}_seed_sd": member.gains.spread(column),
        }
    return line | {
        "users": len(table.members[0].gains.user),
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p_randomisation": test.p,
        "p_holm": test.holm,
        "p_wilcoxon": test.wilcoxon,
        "p_over_seeds": test.p_seeds,
        "family": len(table.comparisons),
        "verdict": test.verdict(table.members),
    }


def signed(value: float) -> str:
    """A difference of metrics to four digits, with its sign and without the zero before the point."""
    return f"{round(value, 4) + 0.0:+.4f}".replace("0.", ".", 1)


def p_value(value: float | None) -> str:
    """A p-value to four digits."""
    if value is None:
        return "n/a"
    return "<.0001" if value < 0.0001 else "1" if value >= 0.99995 else share(value)
