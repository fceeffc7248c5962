"""Which row of a table to take: its quality beside its total cost, the front of both, and one sentence.

The total cost is what a user spends to have the trained model: preparation (the language model's one pass
from an empty cache), the search for hyper-parameters, and training up to the chosen epoch. Epochs after that
one, validation and the test pass are not counted. On a CPU training counts in CPU seconds, which other
programs hardly disturb. The cost of a control is the scoring of validation under all of its trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from benchmark.config import SEARCHED
from benchmark.results.compared import shown
from benchmark.results.groups import HEADLINE, RunGroup, RunRow
from benchmark.results.measures import quality, share
from benchmark.results.statistics import PairTest
from benchmark.results.tuning import Trial, Tuning

SPLIT, METRIC = "test_masked", HEADLINE[0]
QUALITY = quality(SPLIT, METRIC)


class Parts(NamedTuple):
    """Seconds that a row costs before its model can be used."""

    preparation: float
    """Wall seconds, also where the other parts are CPU seconds."""
    search: float
    """Training of all trials save the one that is a run of the row; of a control scoring validation under all
    of its trials."""
    training: float
    """Up to and including the chosen epoch, mean over seeds."""

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self)


@dataclass(frozen=True)
class Clock:
    """How seconds are counted, the same for all rows of a table."""

    on_cpu: bool
    """CPU seconds, over all threads and processes, in place of wall seconds."""

    @property
    def unit(self) -> str:
        """The unit, as a sentence has it."""
        return "CPU seconds" if self.on_cpu else "seconds"

    def parts(self, row: RunRow, others: Iterable[RunRow] = ()) -> Parts:
        """What a finished row costs; `others` may have the search that found its values."""
        own = self.search(row)
        if row.untrained:
            own = own or _mean(row, "eval_seconds")
        elsewhere = search_elsewhere(row, others)
        borrowed = sum(map(self._training, elsewhere.trials)) if elsewhere else 0.0
        best = "cpu_seconds_to_best" if self.on_cpu else "seconds_to_best"
        return Parts(_mean(row, "prepare_seconds"), own + borrowed, _mean(row, best))

    def search(self, row: RunRow) -> float:
        """Training seconds of the trials, save those that are among the runs of the row."""
        if row.tuning is None:
            return 0.0
        own, seed = {(run.config_hash, run.seed) for run in row.ok}, row.tuning.seed
        trials = row.tuning.trials
        return sum(
            self._training(trial) for trial in trials if row.untrained or (trial.config_hash, seed) not in own
        )

    def _training(self, trial: Trial) -> float:
        return trial.train_cpu_seconds if self.on_cpu else trial.train_seconds


def search_elsewhere(row: RunRow, others: Iterable[RunRow]) -> Tuning | None:
    """The search of another row of the same method whose values the row was given; None where none is."""
    if row.tuning is None or row.tuning.mode != "given":
        return None
    values = set(row.runs[0].overrides)
    found = (
        other.tuning
        for other in others
        if other.tuning and other.tuning.mode == "search" and other.runs[0].method == row.runs[0].method
    )
    return next((search for search in found if search.chosen and values >= set(search.chosen)), None)


def _mean(row: RunRow, measure: str) -> float:
    mean = row.mean(measure)
    return mean.mean if mean else 0.0


def clock_of(rows: Iterable[RunRow]) -> Clock:
    """CPU seconds where every trained run was made on a CPU and has them."""
    runs = [run for row in rows for run in row.ok if not row.untrained]
    return Clock(
        all(run.environment.device == "cpu" and run.cost.epoch_cpu_seconds is not None for run in runs)
    )


@dataclass(frozen=True)
class Choice:
    """A row that can be taken."""

    row: RunRow
    name: str
    """The label without how its values were chosen, where no other row reads alike."""
    quality: float
    half_width: float | None
    """Of the interval over users and seeds."""
    parts: Parts
    best: PairTest | None
    """Its quality less that of the best row; None of the best row itself."""
    on_front: bool
    """Whether no other row is as good and as cheap, and better or cheaper."""

    @property
    def label(self) -> str:
        """That of the row."""
        return self.row.label

    @property
    def cost(self) -> float:
        """Total seconds."""
        return self.parts.total

    @property
    def figure(self) -> str:
        """Quality with its interval."""
        spread = "" if self.half_width is None else f" ± {share(self.half_width)}"
        return f"{share(self.quality)}{spread}"


@dataclass(frozen=True)
class Advice:
    """The rows of one table that have ranks of the same users, from the cheapest to the dearest."""

    group: RunGroup
    clock: Clock
    choices: tuple[Choice, ...]

    @cached_property
    def trained(self) -> tuple[Choice, ...]:
        """Those that are no controls."""
        return tuple(choice for choice in self.choices if not choice.row.untrained)

    @property
    def controls(self) -> tuple[Choice, ...]:
        """Those that need no training."""
        return tuple(choice for choice in self.choices if choice.row.untrained)

    def within(self, budget: float) -> Choice | None:
        """The best row that costs `budget` seconds at most; None where every one costs more."""
        return _best([choice for choice in self.choices if choice.cost <= budget])

    def test(self, a: Choice, b: Choice) -> PairTest:
        """The difference of two rows, `a` less `b`."""
        return self.group.compared.test(a.label, b.label, SPLIT, METRIC)

    @property
    def sentence(self) -> str:
        """The answer for a reader who reads nothing else."""
        ceiling = next((row for row in self.group.bounds if row.label == "ceiling"), None)
        most = ceiling.mean(METRIC, SPLIT) if ceiling else None
        possible = f" At most {share(most.mean)} is possible on these data." if most else ""
        return self._compared + possible

    @property
    def _compared(self) -> str:
        trained, control = _best(self.trained), _best(self.controls)
        name = f"{self.group.key.title}: "
        if trained is None:
            assert control is not None
            return f"{name}no row was trained; the best control, {control.name}, reaches {_named(control)}."
        if control is None:
            return f"{name}{_lead(trained)}{self._cheaper(trained)}."
        test = self.test(trained, control)
        if shown(test) and test.difference > 0:
            return (
                f"{name}{_lead(trained)}{self._cheaper(trained)}; the best control without training, "
                f"{control.name}, reaches {control.figure}."
            )
        relation = "stays below" if shown(test) else "is not shown to differ from"
        return (
            f"{name}{trained.name}, the best trained row ({_named(trained)}), {relation} the control "
            f"{control.name}, which needs no training ({control.figure}){self._cheaper(trained)}."
        )

    def _cheaper(self, best: Choice) -> str:
        """The cheapest trained row that is not shown to differ from the best trained one."""
        level = [
            choice for choice in self.trained if choice is not best and not shown(self.test(choice, best))
        ]
        cheapest = min(level, key=lambda choice: choice.cost, default=best)
        if cheapest.cost >= best.cost:
            return "" if level else "; every other trained row is below it" if len(self.trained) > 1 else ""
        return f"; {cheapest.name} is within the error of {best.name} at {_ratio(cheapest, best)} of its cost"


def _lead(best: Choice) -> str:
    return f"{best.name} is best by {_named(best)}"


def _named(choice: Choice) -> str:
    return f"masked {QUALITY.label} {choice.figure}"


def _ratio(cheap: Choice, dear: Choice) -> str:
    """A share of a cost: `1/40`, or per cent where it is more than a half."""
    times = dear.cost / cheap.cost if cheap.cost else float("inf")
    return f"1/{times:.0f}" if times >= 2 else f"{100 / times:.0f} %"


def _best(choices: Iterable[Choice]) -> Choice | None:
    """The one of highest quality; of equals the cheapest."""
    return max(choices, key=lambda choice: (choice.quality, -choice.cost), default=None)


def advise(group: RunGroup) -> Advice | None:
    """The rows of a table to choose from; None where no finished row has ranks."""
    rows = [row for row in group.run_rows if row.label in group.compared.gains]
    if not rows:
        return None
    clock = clock_of(rows)
    known = {
        row.label: (
            float(group.compared.gains[row.label].values(SPLIT, METRIC).mean()),
            clock.parts(row, group.rows),
        )
        for row in rows
    }
    best, alike = max(known, key=lambda label: known[label][0]), Counter(row.name for row in rows)
    ahead = _front([(parts.total, value) for value, parts in known.values()])
    choices = [
        Choice(
            row,
            row.name if alike[row.name] == 1 else row.label,
            value,
            group.compared.half_width(row.label, SPLIT, METRIC),
            parts,
            None if row.label == best else group.compared.test(row.label, best, SPLIT, METRIC),
            on_front,
        )
        for row, (value, parts), on_front in zip(rows, known.values(), ahead, strict=True)
    ]
    return Advice(group, clock, tuple(sorted(choices, key=lambda choice: (choice.cost, choice.label))))


def _front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each of (cost, quality) is beaten by no other."""
    losses = [(cost, -value) for cost, value in points]
    return [not any(beats(other, own) for other in losses) for own in losses]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is as low as `other` in everything, and lower in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def main_tables(groups: Iterable[RunGroup]) -> list[RunGroup]:
    """Of each dataset the table to read first.

    Protocol `tuned` goes before others, since equal settings are not equal conditions, where two rows at
    least read a language model; else the table with most finished rows, of equals the first.
    """
    chosen: dict[tuple[str, str], tuple[tuple[bool, int], RunGroup]] = {}
    for group in groups:
        readers = [row for row in group.rows if row.ok and row.runs[0].llm and not row.untrained]
        finished = sum(bool(row.ok) and not row.untrained for row in group.rows)
        weight = (group.key.protocol == SEARCHED and len(readers) > 1, finished)
        key = (group.key.dataset, group.key.data_key)
        if finished and (key not in chosen or weight > chosen[key][0]):
            chosen[key] = (weight, group)
    return [group for _, group in chosen.values()]
