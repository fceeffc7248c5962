"""Which runs may stand in one table, and as which rows: decided here, once for all sections of a report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.config import SEARCHED, Settings
from benchmark.results.compared import ComparedRows, compared
from benchmark.results.generations import mark, newest, note, oldest
from benchmark.results.metrics import chance, of_ranks
from benchmark.results.record import METRICS, Metrics, RunRecord, Tuning
from benchmark.results.schema import Fingerprint
from benchmark.results.searches import NOT_TUNED, Searches, label_of, searches
from benchmark.results.statistics import SeedMean, estimate
from benchmark.results.stored import StoredRun
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

BOUNDS = ("chance", "ceiling")
HEADLINE = ("recall@10", "ndcg@10")
"""Metrics by which rows are compared unless others are asked for, with the history masked."""
LABELLED = ("encode",)
"""Settings that a label names where rows of a table differ in them, even if nobody set them by hand."""

LONGEST = 40
"""Characters of an override in a label; `notes` give the rest."""


class Key(NamedTuple):
    """What all rows of a table share."""

    dataset: str
    data_key: str
    llm: str | None
    protocol: str
    protocol_hash: str
    device_name: str
    world_size: int
    precision: str

    @property
    def title(self) -> str:
        """Dataset, language model and protocol, as headings name them."""
        return f"{self.dataset}, {self.llm or 'no language model'}, protocol {self.protocol}"


@dataclass(frozen=True)
class RunRow:
    """The runs of one configuration, one a seed; or a bound (`chance`, `ceiling`), which has no runs."""

    label: str
    stored: tuple[StoredRun, ...] = ()
    means: Mapping[tuple[str, str], SeedMean] = field(default_factory=dict)
    """(measure, split) -> mean over the finished seeds; the split is empty where the long table has none, and
    `tuned` of hyper-parameters that a search chose."""
    tuning: Tuning | None = None
    """How the configuration was chosen, where it was."""

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """The records of the runs."""
        return tuple(run.record for run in self.stored)

    @property
    def finished(self) -> tuple[StoredRun, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.stored if run.record.status == "ok")

    @property
    def ok(self) -> tuple[RunRecord, ...]:
        """Their records."""
        return tuple(run.record for run in self.finished)

    @property
    def configuration(self) -> str:
        """The name of the configuration of its runs; see `StoredRun`."""
        return self.stored[0].configuration

    @property
    def status(self) -> str:
        """`ok` where one run at least is; else the statuses that occur."""
        return "ok" if self.ok or not self.runs else ", ".join(sorted({run.status for run in self.runs}))

    def mean(self, measure: str, split: str = "") -> SeedMean | None:
        """A measure over the finished seeds, or of the bound; None where nothing was measured."""
        return self.means.get((measure, split))


@dataclass(frozen=True)
class RunGroup:
    """One table."""

    key: Key
    rows: tuple[RunRow, ...]
    bounds: tuple[RunRow, ...]
    """`chance`, `ceiling`."""
    shared: tuple[str, ...]
    """Overrides that every row has."""
    metrics: tuple[str, ...] = METRICS
    """The measures that it shows, raw and masked."""
    differs: tuple[str, ...] = ()
    """What sets it apart, as `key=value`, from other tables of its dataset, language model and protocol."""
    controls: tuple[RunRow, ...] = ()
    """Controls of the data and language model, which stand in each of their tables; a table without trained
    rows has them among `rows`."""

    @property
    def foot(self) -> tuple[RunRow, ...]:
        """The rows below the trained ones: controls, then bounds."""
        return self.controls + self.bounds

    @property
    def tested(self) -> tuple[str, ...]:
        """The rank metrics under which differences of rows are printed."""
        asked = of_ranks(self.metrics)
        return HEADLINE if asked == METRICS else asked or HEADLINE

    @cached_property
    def compared(self) -> ComparedRows:
        """Its finished rows, controls included, user by user under all rank metrics of its CSV file."""
        runs = {row.label: row.finished for row in self.rows + self.controls if row.finished}
        return compared(runs, tuple(dict.fromkeys((*METRICS, *of_ranks(self.metrics)))))

    @property
    def hardware(self) -> str:
        """Device, processes and precision."""
        key = self.key
        processes = f"{key.world_size} process{'es' if key.world_size > 1 else ''}"
        return f"{key.device_name}, {processes}, mixed precision: {key.precision}"

    @property
    def time(self) -> str:
        """How interactions and test targets lie in time, as its records know it; empty where none does."""
        for row in self.rows + self.controls:
            for run in row.runs:
                if lines := Fingerprint.model_validate(run.data.get("fingerprint") or {}).time_lines():
                    return "; ".join(lines)
        return ""

    @property
    def missed(self) -> str:
        """The counts that the recipe expects and the data do not have; empty where there are none."""
        datas = [run.data for row in self.rows for run in row.runs]
        counts = _first(data.get("fingerprint") for data in datas)
        expected = _first((data.get("recipe") or {}).get("expected") for data in datas)
        other = [f"{count:,} {name}" for name, count in expected.items() if counts.get(name) != count]
        return f"not the {', '.join(other)} that its recipe expects" if other else ""

    @property
    def caption(self) -> str:
        """Everything that a reader must know to tell this table from the others."""
        key, runs = self.key, [run for row in self.rows for run in row.runs]
        counts = _first(run.data.get("fingerprint") for run in runs)
        sizes = [f"{counts[name]:,} {name}" for name in ("users", "items", "interactions") if name in counts]
        if users := counts.get("test_users"):
            sizes.append(f"{counts['test_targets']:,} test targets of {users:,} users")
        missed = f", {self.missed}" if self.missed else ""
        parts = [
            f"Dataset {key.dataset} ({', '.join([*sizes, f'data key {key.data_key}'])}){missed}",
            f"language model {key.llm or 'none'}",
            f"protocol {key.protocol} (hash {key.protocol_hash})",
            f"on {self.hardware}",
        ]
        if self.shared:
            parts.append(f"every row with {', '.join(self.shared)}")
        if self.differs:
            parts.append(f"differs from other tables of this name by {', '.join(self.differs)}")
        if cold := max((run.cold_targets for run in runs), default=0):
            parts.append(f"{cold:,} test targets are cold (never seen in training)")
        parts += note(run.generation for run in runs if run.status == "ok")
        return "; ".join(parts) + "."


def names_of(tables: Iterable[RunGroup]) -> dict[str, RunGroup]:
    """A file name for each table: `<dataset>-<llm>-<protocol>`, and a number from the second of a name on."""
    names: dict[str, RunGroup] = {}
    taken: set[str] = set()  # in lower case: some file systems do not tell cases apart
    for group in tables:
        key = group.key
        first = name = "-".join(slug(part) for part in (key.dataset, key.llm or "none", key.protocol))
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.lower())
        names[name] = group
    return names


def slug(name: str) -> str:
    """A text as part of a file name; of a path its last folder."""
    last = Path(name).name if Path(name).is_absolute() else name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.") or "unnamed"


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
) -> list[RunGroup]:
    """Sort runs into tables that show `metrics`; `figures` is the long table of these runs.

    A run that reads no language model joins the tables of its data, protocol and hardware, whatever their
    language model; of several tables with one language model, those whose settings are most like its own. It
    makes a table of its own only where there is no other. Controls stand in every table of their data and
    language model, and make one of their own only where there is none. Trials that a search did not choose
    are left out: the record of the chosen configuration lists them. Raises `UserError` for two records of one
    configuration and seed in a table: they would narrow its interval without being a new seed.
    """
    members: dict[Key, list[StoredRun]] = {}
    without_llm: list[StoredRun] = []
    controls: list[StoredRun] = []
    runs = list(stored)
    trained = {tuple(key_of(run.record))[:3] for run in runs if not run.record.untrained}
    chosen_by = searches(run.record for run in runs)
    lost = chosen_by.lost
    for run in runs:
        if run.record.config_hash in lost:
            continue
        if run.record.untrained and any(_is_control_of(run.record, table) for table in trained):
            controls.append(run)
        elif run.record.llm is None:
            without_llm.append(run)
        else:
            members.setdefault(key_of(run.record), []).append(run)
    common = {key: _settings([run.record for run in same]) for key, same in members.items()}
    for run in without_llm:
        for key in _hosts(run.record, common) or [key_of(run.record)]:
            members.setdefault(key, []).append(run)
    tables = []
    for key, same in members.items():
        guests = [run for run in controls if _is_control_of(run.record, key)]
        tables.append(_group(key, same, guests, chosen_by, tuple(metrics)))
    tables.sort(key=lambda group: _sorting(group.key, group))
    return _tell_apart(_with_means(tables, figures))


def _with_means(tables: Sequence[RunGroup], figures: pd.DataFrame) -> list[RunGroup]:
    """The tables, whose rows have the means over their seeds."""
    import pandas as pd

    numbers = figures[figures.kind.isin(["quality", "lists", "cost", "tuned"])].fillna({"split": ""})
    numbers = numbers.assign(split=numbers.split.mask(numbers.kind == "tuned", "tuned"))
    rows = [
        (number, row.label, run.name)
        for number, group in enumerate(tables)
        for row in group.rows + group.controls
        for run in row.finished
    ]
    members = pd.DataFrame(rows, columns=["table", "row", "record"]).astype({"record": "string"})
    seeds = members.merge(numbers, on="record").groupby(["table", "row", "measure", "split"]).value.agg(list)
    means: dict[tuple[int, str], dict[tuple[str, str], SeedMean]] = {}
    for number, label, measure, split, values in seeds.reset_index().itertuples(index=False):
        if mean := estimate(values):
            means.setdefault((number, label), {})[measure, split] = mean

    def with_means(number: int, rows: Iterable[RunRow]) -> tuple[RunRow, ...]:
        return tuple(replace(row, means=means.get((number, row.label), {})) for row in rows)

    return [
        replace(group, rows=with_means(number, group.rows), controls=with_means(number, group.controls))
        for number, group in enumerate(tables)
    ]


def _is_control_of(control: RunRecord, table: Sequence[Any]) -> bool:
    """Whether a control belongs to tables whose key begins with this dataset, data key and language model."""
    dataset, data_key, llm = table[:3]
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


def _sorting(key: Key, group: RunGroup) -> tuple[Any, ...]:
    """By name, and tables of one name by age, so that a new one does not renumber the old ones."""
    oldest = min(run.created for row in group.rows for run in row.runs)
    return (key.dataset, key.llm or "", key.protocol, oldest, tuple(map(str, key)))


def _group(
    key: Key,
    stored: list[StoredRun],
    controls: list[StoredRun],
    chosen_by: Searches,
    metrics: tuple[str, ...],
) -> RunGroup:
    runs = [run.record for run in stored]
    by_config: dict[str, list[StoredRun]] = {}
    for run in stored:
        by_config.setdefault(run.record.config_hash, []).append(run)
    for config, same in by_config.items():
        seed, times = Counter(run.record.seed for run in same).most_common(1)[0]
        if times > 1:
            raise UserError(
                f"{times} records of {same[0].record.method} on {key.dataset} have the configuration "
                f"{config} and the seed {seed}; keep one of them."
            )
    first = {config: same[0].record for config, same in by_config.items()}
    own = {config: _own(run, chosen_by.keys(config)) for config, run in first.items()}
    shared = sorted(set.intersection(*own.values()))
    named = [name for name in LABELLED if len({_value(run, name) for run in runs}) > 1]
    labels = {
        config: _label(run, own[config] - set(shared), named, chosen_by.chosen.get(config))
        for config, run in first.items()
    }
    twice, last = Counter(labels.values()), newest(runs)
    rows = []
    for config in sorted(first, key=lambda name: (first[name].llm is None, labels[name], name)):
        label = labels[config] + (f" #{config[:8]}" if twice[labels[config]] > 1 else "")
        seeds = tuple(sorted(by_config[config], key=lambda run: run.record.seed))
        label = mark(label, oldest((run.record for run in seeds), last) < last)
        rows.append(RunRow(label, seeds, tuning=chosen_by.chosen.get(config)))
    limits = {name: _first(bounds_of(run.data, metrics)[name] for run in runs) for name in BOUNDS}
    bounds = tuple(RunRow(name, means=_means_of(limit)) for name, limit in limits.items() if limit)
    foot = _control_rows(controls, last)
    return RunGroup(key, tuple(rows), bounds, tuple(shared), metrics, controls=foot)


def _control_rows(controls: Iterable[StoredRun], last: int) -> tuple[RunRow, ...]:
    """A row for each control, in the order of labels; `last` is the newest generation of the table."""
    rows = [
        RunRow(
            mark(_label(run.record, set(run.record.overrides), (), None), run.record.generation < last),
            (run,),
            tuning=run.record.tuning,
        )
        for run in controls
    ]
    return tuple(sorted(rows, key=lambda row: row.label))


def _means_of(splits: Mapping[str, Metrics]) -> dict[tuple[str, str], SeedMean]:
    """The test metrics of a bound."""
    return {
        (metric, split): SeedMean(value, None, 1, value, value)
        for split, metrics in splits.items()
        if split.startswith("test")
        for metric, value in metrics.items()
    }


def _own(run: RunRecord, searched: Collection[str]) -> set[str]:
    """Overrides that the user gave, not a search."""
    return {pair for pair in run.overrides if pair.partition("=")[0] not in searched}


def _label(run: RunRecord, own: set[str], named: Sequence[str], tuning: Tuning | None) -> str:
    """The method, what sets it apart in its table, and where it came from if not from the project."""
    apart = {shortened(pair) for pair in own}
    apart |= {
        f"{name}={value}" for name in named if (value := _value(run, name)) != getattr(Settings, name, None)
    }
    choice = label_of(tuning or (NOT_TUNED if run.protocol == SEARCHED else None), run.dataset)
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


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value), {})


def _tell_apart(tables: list[RunGroup]) -> list[RunGroup]:
    """Name in each table the settings, and parts of its key, that its namesakes have otherwise."""
    families: dict[tuple[str, str | None, str], list[RunGroup]] = {}
    for group in tables:
        families.setdefault((group.key.dataset, group.key.llm, group.key.protocol), []).append(group)
    named = []
    for group in tables:
        same_name = families[group.key.dataset, group.key.llm, group.key.protocol]
        mine, others = _facts(group), [_facts(other) for other in same_name if other is not group]
        apart = [
            name
            for name in sorted(mine)
            if any(other.get(name, mine[name]) != mine[name] for other in others)
        ]
        differs = tuple(f"{name}={mine[name]}" for name in apart)
        named.append(replace(group, differs=differs))
    return named


def _facts(group: RunGroup) -> dict[str, Any]:
    """The key of a table and the settings common to its rows; controls, which are guests, left out."""
    return {
        **_settings([run for row in group.rows for run in row.runs if run.llm == group.key.llm]),
        **group.key._asdict(),
    }


def _settings(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The settings on which all runs agree."""
    names = {name: None for run in runs for name in run.settings}
    values = {name: [_value(run, name) for run in runs] for name in names}
    return {name: same[0] for name, same in values.items() if all(value == same[0] for value in same)}
