"""Which runs may stand in one table, and as which rows: decided here, once for all sections of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.config import SEARCHED, Settings
from benchmark.results.groups import Key, RunGroup, RunRow, mark, newest, oldest, slug
from benchmark.results.metrics import chance, of_ranks
from benchmark.results.record import RunRecord
from benchmark.results.schema import METRICS, Metrics
from benchmark.results.searches import tunings_of
from benchmark.results.statistics import SeedMean, estimate
from benchmark.results.store import StoredRun
from benchmark.results.tuning import NOT_TUNED, Searches, Tuning, label_of, searches
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

BOUNDS = ("chance", "ceiling")
LABELLED = ("encode",)
"""Settings that a label names where rows of a table differ in them, even if nobody set them by hand."""
LONGEST = 40
"""Characters of an override in a label; `notes` give the rest."""
Figures = Mapping[tuple[str, str], float]
"""Measure and split, as in `RunRow.means` -> figure of one run."""


def key_of(run: RunRecord) -> Key:
    """The table that a run belongs to."""
    where = run.environment
    return Key(
        run.dataset,
        str(run.data.get("key", "unknown")),
        run.llm,
        run.protocol,
        run.protocol_hash,
        where.device_name,
        where.world_size,
        where.precision,
    )


def groups(
    stored: Iterable[StoredRun], figures: pd.DataFrame, metrics: Sequence[str] = METRICS
) -> dict[str, RunGroup]:
    """Sort runs into tables that show `metrics`, by file name; `figures` is the long table of these runs.

    A run that reads no language model joins the tables of its data, protocol and hardware, whatever their
    language model; of several tables with one language model, those whose settings are most like its own. It
    makes a table of its own only where there is no other. Controls stand in every table of their data and
    language model, and make one of their own only where there is none. Trials that a search did not choose
    are left out: the record of the chosen configuration lists them. Raises `UserError` for two records of one
    configuration and seed in a table: they would narrow its interval without being a new seed.
    """
    runs = list(stored)
    found = searches(tunings_of(run.record for run in runs))
    lost, trained = found.lost, {key_of(run.record)[:3] for run in runs if not run.record.untrained}
    members: dict[Key, list[StoredRun]] = {}
    without_llm: list[StoredRun] = []
    controls: list[StoredRun] = []
    for run in runs:
        if run.record.config_hash in lost:
            continue
        if run.record.untrained and any(_is_control_of(run.record, *table) for table in trained):
            controls.append(run)
        elif run.record.llm is None:
            without_llm.append(run)
        else:
            members.setdefault(key_of(run.record), []).append(run)
    common = {key: _settings([run.record for run in same]) for key, same in members.items()}
    for run in without_llm:
        for key in _hosts(run.record, common) or [key_of(run.record)]:
            members.setdefault(key, []).append(run)
    maker = _TableMaker(found, _by_run(figures), tuple(metrics))
    tables = [
        maker.table(key, same, [run for run in controls if _is_control_of(run.record, *key[:3])])
        for key, same in members.items()
    ]
    return _named(_tell_apart(sorted(tables, key=_sorting)))


def _is_control_of(control: RunRecord, dataset: str, data_key: str, llm: str | None) -> bool:
    """Whether a control belongs to tables of this dataset and language model."""
    own = key_of(control)
    return (own.dataset, own.data_key) == (dataset, data_key) and own.llm in (None, llm)


def _hosts(control: RunRecord, common: Mapping[Key, Mapping[str, Any]]) -> list[Key]:
    """The tables, with the settings common to their rows, that a run without language model joins."""
    bare = key_of(control)._replace(protocol_hash="")
    apart: dict[str | None, dict[Key, int]] = {}
    for key, settings in common.items():
        if key._replace(llm=None, protocol_hash="") == bare:
            if _pool(control.settings) != _pool(settings):
                continue
            unlike = sum(_value(control, name) != value for name, value in settings.items())
            apart.setdefault(key.llm, {})[key] = unlike
    return [key for same in apart.values() for key in same if same[key] == min(same.values())]


def _pool(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """The candidates that a prediction is compared with in training."""
    kind = settings.get("candidates")
    return (kind, settings.get("samples") if kind == "sampled" else None)


def _value(run: RunRecord, name: str) -> Any:
    """A setting of a run; of a run older than the setting, what the setting leaves as it was."""
    return run.settings.get(name, getattr(Settings, name, None))


def _settings(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The settings on which all runs agree."""
    names = {name: None for run in runs for name in run.settings}
    values = {name: [_value(run, name) for run in runs] for name in names}
    return {name: same[0] for name, same in values.items() if all(value == same[0] for value in same)}


def _sorting(table: RunGroup) -> tuple[Any, ...]:
    """By name, and tables of one name by age, so that a new one does not renumber the old ones."""
    key, first = table.key, min(run.created for row in table.rows for run in row.runs)
    return (key.dataset, key.llm or "", key.protocol, first, tuple(map(str, key)))


def _tell_apart(tables: Sequence[RunGroup]) -> list[RunGroup]:
    """Name in each table the settings, and parts of its key, that its namesakes have otherwise."""
    facts = [_facts(table) for table in tables]
    named = []
    for table, mine in zip(tables, facts, strict=True):
        others = [other for of, other in zip(tables, facts, strict=True) if of.key.title == table.key.title]
        apart = [
            name
            for name in sorted(mine)
            if any(other.get(name, mine[name]) != mine[name] for other in others)
        ]
        named.append(replace(table, differs=tuple(f"{name}={mine[name]}" for name in apart)))
    return named


def _facts(table: RunGroup) -> dict[str, Any]:
    """The key of a table and the settings common to its rows; controls, which are guests, left out."""
    own = [run for row in table.rows for run in row.runs if run.llm == table.key.llm]
    return {**_settings(own), **table.key._asdict()}


def _named(tables: Iterable[RunGroup]) -> dict[str, RunGroup]:
    """A file name for each table: `<dataset>-<llm>-<protocol>`, and a number from the second of a name on."""
    names: dict[str, RunGroup] = {}
    taken: set[str] = set()  # in lower case: some file systems do not tell cases apart
    for table in tables:
        key = table.key
        first = name = "-".join(slug(part) for part in (key.dataset, key.llm or "none", key.protocol))
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.lower())
        names[name] = table
    return names


# --- The rows of a table ------------------------------------------------------------------------------------


def _by_run(figures: pd.DataFrame) -> Mapping[str, Figures]:
    """The figures of each run, by its name."""
    numbers = figures[figures.kind.isin(["quality", "lists", "cost", "tuned"])].fillna({"split": ""})
    by_run: dict[str, dict[tuple[str, str], float]] = {}
    columns = numbers[["record", "kind", "measure", "split", "value"]]
    for run, kind, measure, split, value in columns.itertuples(index=False):
        by_run.setdefault(run, {})[measure, "tuned" if kind == "tuned" else split] = value
    return by_run


@dataclass(frozen=True)
class _TableMaker:
    """Makes tables of runs that may stand in one."""

    found: Searches
    figures: Mapping[str, Figures]
    """Of each run, by its name."""
    metrics: tuple[str, ...]

    def table(self, key: Key, stored: Sequence[StoredRun], controls: Sequence[StoredRun]) -> RunGroup:
        """The table of these runs, with `controls` below."""
        runs = [run.record for run in stored]
        by_config: dict[str, list[StoredRun]] = {}
        for run in stored:
            by_config.setdefault(run.record.config_hash, []).append(run)
        for config, same in by_config.items():
            _check_seeds(key, config, [run.record for run in same])
        first = {config: same[0].record for config, same in by_config.items()}
        own = {config: _own(run, self.found.keys(config)) for config, run in first.items()}
        shared = sorted(set.intersection(*own.values()))
        named = [name for name in LABELLED if len({_value(run, name) for run in runs}) > 1]
        labels = {
            config: _label(run, own[config] - set(shared), named, self.choice(run))
            for config, run in first.items()
        }
        twice, last = Counter(labels.values()), newest(runs)
        rows = []
        for config in sorted(first, key=lambda name: (first[name].llm is None, labels[name], name)):
            label = labels[config] + (f" #{config[:8]}" if twice[labels[config]] > 1 else "")
            seeds = sorted(by_config[config], key=lambda run: run.record.seed)
            name = _label(first[config], own[config] - set(shared), named)
            rows.append(self.row(label, seeds, self.found.chosen.get(config), last, name))
        foot = [
            self.row(_label(run.record, set(run.record.overrides)), [run], run.record.tuning, last)
            for run in controls
        ]
        foot.sort(key=lambda row: row.label)
        bounds = tuple(_bound_rows(runs, self.metrics))
        return RunGroup(key, tuple(rows), bounds, tuple(shared), self.metrics, controls=tuple(foot))

    def choice(self, run: RunRecord) -> str:
        """What a label says of how the configuration was chosen; a control always chooses its settings."""
        if run.untrained:
            return ""
        own = self.found.chosen.get(run.config_hash) or (NOT_TUNED if run.protocol == SEARCHED else None)
        return label_of(own, run.dataset)

    def row(
        self, label: str, runs: Sequence[StoredRun], tuning: Tuning | None, last: int, name: str = ""
    ) -> RunRow:
        """The row of the runs of one configuration; `last` is the newest generation of the table."""
        older = oldest((run.record for run in runs), last) < last
        known = [self.figures.get(run.name, {}) for run in runs if run.record.status == "ok"]
        places = sorted({place for figures in known for place in figures})
        means = {
            place: mean
            for place in places
            if (mean := estimate(figures.get(place) for figures in known)) is not None
        }
        return RunRow(mark(label, older), tuple(runs), means, tuning, name)


def _check_seeds(key: Key, config: str, runs: Sequence[RunRecord]) -> None:
    """Raise `UserError` for two records of one configuration and seed."""
    seed, times = Counter(run.seed for run in runs).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{times} records of {runs[0].method} on {key.dataset} have the configuration {config} and the "
            f"seed {seed}; keep one of them."
        )


def _own(run: RunRecord, searched: Collection[str]) -> set[str]:
    """Overrides that the user gave, not a search."""
    return {pair for pair in run.overrides if pair.partition("=")[0] not in searched}


def _label(run: RunRecord, own: set[str], named: Sequence[str] = (), choice: str = "") -> str:
    """The method, what sets it apart in its table, how it was chosen, and where it came from if not from the
    project."""
    apart = {shortened(pair) for pair in own}
    apart |= {
        f"{name}={value}" for name in named if (value := _value(run, name)) != getattr(Settings, name, None)
    }
    details = "; ".join(part for part in (", ".join(sorted(apart)), choice) if part)
    label = f"{run.method} ({details})" if details else run.method
    if run.method_source.get("external"):
        made = (run.method_source.get("distribution"), run.method_source.get("version"))
        label += f" [external: {' '.join(str(part) for part in made if part) or 'unknown distribution'}]"
    return label


def shortened(pair: str) -> str:
    """An override as a label shows it: the text of a whole configuration would make a table unreadable."""
    return pair if len(pair) <= LONGEST else pair[: LONGEST - 3] + "..."


def bounds_of(data: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, dict[str, Metrics]]:
    """The expected figures of a random order and the best possible ones, as far as a record's data hold them:
    BOUNDS -> split -> metrics.

    A random order also has those of `metrics` that no record holds, for the test split: masked ones need what
    the users' histories leave of the catalogue, which is not recorded.
    """
    bounds = {name: dict(data.get(name) or {}) for name in BOUNDS}
    absent = [name for name in of_ranks(metrics) if name not in METRICS]
    items, splits = (data.get("fingerprint") or {}).get("items"), bounds["chance"]
    if splits and absent and items:
        splits["test"] = {**splits["test"], **chance(np.array([items]), absent)}
    return bounds


def _bound_rows(runs: Sequence[RunRecord], metrics: Sequence[str]) -> Iterator[RunRow]:
    """A row with the test metrics of each bound that a run knows."""
    for name in BOUNDS:
        bounds = (bounds_of(run.data, metrics)[name] for run in runs)
        if splits := next(filter(None, bounds), None):
            means = {
                (metric, split): SeedMean(value, None, 1, value, value)
                for split, values in splits.items()
                if split.startswith("test")
                for metric, value in values.items()
            }
            yield RunRow(name, means=means)
