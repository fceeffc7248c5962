"""The long table: every stored and every published figure is one row of one data frame.

Runs that did not finish have rows of the kinds `run` and `count` alone. Trials that a search did not choose
have no test figures, so that a reader cannot choose by them. Columns (text is null where it does not apply):

- `source`: `ours`, measured by this project, or `paper`, printed in the paper of `results/paper`.
- `dataset`: as the records name it; of the paper, its own name; null for figures over all datasets.
- `llm`: language model; null for a method that reads none, and for counts of a published dataset.
- `method`: null for counts of a published dataset and for bounds.
- `protocol`: protocol of the run; null in the paper and for bounds.
- `configuration`: the method and its overrides, `tmoe (ids=add)`. Where two configurations of one dataset,
  language model and protocol read alike, the beginning of the hash follows. `chance` and `ceiling` are
  bounds: the expectation of a random order, and the best possible figure of a planted dataset.
- `seed`: null in the paper and for bounds.
- `split`: what a figure was taken on: `valid`, `test`, `test_warm`, `test_cold`; the same with `_masked`,
  where the user's history is left out of the ranking; `initial_valid`, before training; of memory the
  phase, `train` or `eval`. Null elsewhere.
- `kind`: `run` (`finished`: 1, or 0 of a run that did not), `quality` (rank metrics, from 0 to 1), `lists`
  (measures of the best items of all users), `cost` (seconds, GB of 10^9 bytes, parameters, epochs, ...),
  `count` (of a dataset), `setting` (settings and hyper-parameters that are numbers), `tuned`
  (hyper-parameters that a search chose), `improvement` (per cent by which the paper's own method exceeds
  `method`).
- `measure`: `recall@10`, `epoch_seconds`, `users`, `top_layers`, ... Within a kind a measure has one unit.
- `value`: a float.
- `record`: `<dataset>/<llm>/<method>/<hash>-s<seed>`, the file of the record below the folder of the results
  without `.json`; or `paper:<table>`; null for bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results.comparable import bounds_of, groups
from benchmark.results.groups import RunGroup
from benchmark.results.index import Entry
from benchmark.results.measures import MEASURES
from benchmark.results.metrics import of_lists, of_ranks
from benchmark.results.published import SOURCES, Row, Source, published
from benchmark.results.record import RunRecord
from benchmark.results.schema import METRICS
from benchmark.results.searches import tunings_of
from benchmark.results.store import NARROWED_BY, OnFault, StoredRun, iter_runs, warn
from benchmark.results.targets import without_lists
from benchmark.results.tuning import searches
from methods.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "source", "dataset", "llm", "method", "protocol", "configuration", "seed", "split", "kind", "measure",
    "value", "record",
)  # fmt: skip
TYPES = dict.fromkeys(COLUMNS, "string") | {"seed": "Int64", "value": "float64"}


@dataclass(frozen=True)
class Results:
    """What sections of a report read: runs, and with the source `paper` or `both` the published figures."""

    runs: tuple[StoredRun, ...] = ()
    source: Source = "ours"
    metrics: tuple[str, ...] = METRICS
    """Rank metrics that were asked for."""
    entries: Mapping[Path, Entry] = field(default_factory=dict)
    """Path of a record -> its entry of the index; records without one are local."""
    submitted: tuple[StoredRun, ...] = ()
    """Runs of bundles that others submitted, which are no part of `runs`."""

    @cached_property
    def figures(self) -> pd.DataFrame:
        """The long table, with the metrics that were asked for and those of every record."""
        return table_of(self.runs, self.source, tuple(dict.fromkeys((*METRICS, *self.metrics))))

    @cached_property
    def figures_with_trials(self) -> pd.DataFrame:
        """The figures of the runs, with the test figures of trials that no search chose."""
        return measured(self.runs, trials=True)

    @cached_property
    def groups(self) -> dict[str, RunGroup]:
        """File name -> runs that may stand in one table; one without a language model may be in several."""
        return groups(self.runs, self.figures, self.metrics)


PAPER_ALONE = "; or ask for the published figures alone by --source paper"
"""What a command with the option --source offers where there are no records."""
_Identity = tuple[str, str, str | None, str]
"""Hash, dataset, language model and protocol of a configuration."""


def load(
    results: Path,
    source: str = "both",
    metrics: Sequence[str] = METRICS,
    only: Mapping[str, Collection[str]] | None = None,
    on_fault: OnFault = warn,
) -> pd.DataFrame:
    """The long table of the records below `results` and of the published figures; `paper` reads no records.

    `metrics` are the rank metrics that it holds; those which a record lacks are computed from its ranks.
    `only` narrows the rows, see `narrow`. `on_fault` gets why records do not count. Raises `UserError` for an
    unknown source, metric or value, and where no row is left.
    """
    if source not in SOURCES:
        raise unknown("source of figures:", source, SOURCES)
    runs = [] if source == "paper" else read_runs(results, on_fault, metrics, PAPER_ALONE)
    if line := without_lists([run.record for run in runs], metrics):
        on_fault(line)
    return narrow(table_of(runs, source, metrics), only or {})


def read_runs(
    results: Path, on_fault: OnFault = warn, metrics: Sequence[str] = METRICS, offer: str = ""
) -> list[StoredRun]:
    """The runs below `results` that count; `on_fault` gets why others do not.

    Raises `UserError` where there is none; `offer` ends its line with what the caller has besides.
    """
    faults: list[str] = []
    runs = list(iter_runs(results, faults.append, metrics))
    if not runs:
        raise UserError(
            f"none of the {len(faults)} run records below {results} counts. {faults[0]}"
            if faults
            else f"there are no run records below {results}: nothing matches "
            "<dataset>/<llm>/<method>/<hash>-s<seed>.json. Make some with "
            f"`python -m benchmark bench`, or give their folder by --results{offer}."
        )
    for line in faults:
        on_fault(line)
    return runs


def table_of(runs: Sequence[StoredRun], source: str, metrics: Sequence[str]) -> pd.DataFrame:
    """The figures of `runs`, of the paper, or of `both`."""
    import pandas as pd

    parts = [] if source == "paper" else [measured(runs, metrics)]
    parts += [] if source == "ours" else [printed(metrics)]
    return pd.concat(parts, ignore_index=True)


def narrow(table: pd.DataFrame, only: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """The rows with one of these values, or null, in each of these columns, which are of NARROWED_BY.

    An empty collection does not narrow. Raises `UserError` for another column, for a value that the table
    does not have, and where no row is left that has them all.
    """
    import pandas as pd

    asked = {column: sorted(values) for column, values in only.items() if values}
    kept = named = pd.Series(True, index=table.index)
    for column, values in asked.items():
        if column not in NARROWED_BY:
            raise unknown("field to select figures by:", column, NARROWED_BY)
        known = sorted(table[column].dropna().unique())
        for value in values:
            if value not in known:
                raise unknown(f"{column} among these figures:", value, known)
        named = named & table[column].isin(values)
        kept = kept & (table[column].isin(values) | table[column].isna())
    if not named.any():
        listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in asked.items())
        raise UserError(f"no figure has all of these at once: {listed}. Ask for less.")
    return table[kept].reset_index(drop=True)


def measured(
    runs: Iterable[StoredRun], metrics: Sequence[str] = METRICS, trials: bool = False
) -> pd.DataFrame:
    """The figures of runs, and the bounds of their datasets; with `trials`, also the test figures of trials
    that no search chose, for what compares the values of a setting and selects nothing.

    The records hold those of `metrics` that they were read with (`read_result`).
    """
    runs = list(runs)
    names = _configurations([run.record for run in runs])
    lost = set() if trials else searches(tunings_of(run.record for run in runs)).lost
    rows: list[Row] = []
    bounded: set[tuple[str, Any]] = set()
    for stored in runs:
        run = stored.record
        whole = {"source": "ours", "dataset": run.dataset}
        mine = {"llm": run.llm, "method": run.method, "protocol": run.protocol, "seed": run.seed}
        mine |= {"configuration": names[_identity(run)], "record": stored.name}
        rows += [{**whole, **mine, **figure} for figure in _facts(run)]
        if run.status != "ok":
            continue
        for figure in _figures(run, metrics):
            if run.config_hash not in lost or not str(figure["split"]).startswith("test"):
                rows.append({**whole, **mine, **figure})
        if (data := (run.dataset, run.data.get("key"))) not in bounded:
            bounded.add(data)
            rows += [{**whole, **figure} for figure in _bounds(run, metrics)]
    return _table(rows)


def printed(metrics: Collection[str] = METRICS) -> pd.DataFrame:
    """Published figures; of rank metrics those of `metrics`."""
    table = _table(published().rows)
    metric = table.kind.isin(["quality", "improvement"])
    return table[~metric | table.measure.isin(list(metrics))].reset_index(drop=True)


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(TYPES)


def _figure(kind: str, measure: str, value: float, split: str | None = None) -> Row:
    return {"kind": kind, "measure": measure, "value": float(value), "split": split}


def _numbers(kind: str, values: Iterable[tuple[str, Any]], split: str | None = None) -> Iterator[Row]:
    """A row for each value that is a number."""
    for measure, value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield _figure(kind, measure, value, split)


def _facts(run: RunRecord) -> Iterator[Row]:
    """What is known of a run whether it finished or not."""
    yield _figure("run", "finished", run.status == "ok")
    yield from _numbers("count", (run.data.get("fingerprint") or {}).items())


def _figures(run: RunRecord, metrics: Sequence[str]) -> Iterator[Row]:
    """What was measured in one run, and what it was measured with."""
    splits = {**run.metrics, **{f"initial_{split}": values for split, values in run.initial.items()}}
    for split, values in splits.items():
        yield from _numbers("quality", ((name, values.get(name)) for name in of_ranks(metrics)), split)
        yield from _numbers("lists", ((name, values.get(name)) for name in of_lists(metrics)), split)
    for measure in MEASURES.values():
        if (value := measure.read(run)) is not None:
            yield _figure("cost", measure.name, value, measure.split or None)
    yield from _numbers("count", [("cold_targets", run.cold_targets)])
    yield from _numbers("setting", {**run.settings, **run.hyperparameters}.items())
    search = run.tuning
    for pair in search.chosen if search and search.trials else ():
        name, _, text = pair.partition("=")
        with suppress(ValueError):  # a hyper-parameter that is no number
            yield _figure("tuned", name, float(text))


def _bounds(run: RunRecord, metrics: Sequence[str]) -> Iterator[Row]:
    for bound, splits in bounds_of(run.data, metrics).items():
        for split, values in splits.items():
            for row in _numbers("quality", ((name, values.get(name)) for name in metrics), split):
                yield {"configuration": bound, **row}


def _configurations(runs: Iterable[RunRecord]) -> dict[_Identity, str]:
    """The configuration's name, unique among those of one dataset, language model and protocol."""
    labels = {
        _identity(run): run.method + (f" ({', '.join(run.overrides)})" if run.overrides else "")
        for run in runs
    }
    uses = Counter((label, *identity[1:]) for identity, label in labels.items())
    return {
        identity: label + (f" #{identity[0][:8]}" if uses[label, *identity[1:]] > 1 else "")
        for identity, label in labels.items()
    }


def _identity(run: RunRecord) -> _Identity:
    return run.config_hash, run.dataset, run.llm, run.protocol
