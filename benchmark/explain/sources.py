"""Find the source of a figure: the runs of a configuration, or a published figure.

Runs are named by the path of a record or by the beginning of its path below the results, a published figure
by `paper:<language model>/<dataset>/<method>`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

import pandas as pd

from benchmark.explain.settings import SettingValues, defaults_of_run, settings_of_paper, settings_of_run
from benchmark.results.compared import UserGains, user_gains
from benchmark.results.figures import measured, printed
from benchmark.results.published import Published, published
from benchmark.results.record import below_results
from benchmark.results.schema import METRICS
from benchmark.results.store import PATTERN, StoredRun, read_result, usable_run
from methods.errors import UserError, unknown

PAPER = "paper:"
FORM = "<dataset>/<llm>/<method>/<hash>"
LISTED = 5
"""Names that an error lists at most."""


@dataclass(frozen=True)
class Source:
    """What one of the two figures comes from."""

    name: str
    description: str
    settings: SettingValues
    table: pd.DataFrame
    """Its test metrics in the long table; the paper does not state whether its own are masked."""
    users: int | None
    gains: UserGains | None = None
    """Gains of each user under `metrics`; None without usable ranks of every run."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Settings that nobody chose -> their default; the paper does not state its own."""
    notes: Sequence[str] = ()
    metrics: tuple[str, ...] = METRICS
    """The measures of a run that are compared."""

    @property
    def published(self) -> bool:
        """Whether it is a figure of the paper."""
        return self.name.startswith(PAPER)

    @property
    def seeds(self) -> list[int]:
        """Those of its runs; empty where the seeds are not stated."""
        return sorted(self.table.seed.dropna().unique().tolist())

    @cached_property
    def figures(self) -> dict[tuple[str, bool], float]:
        """(metric, history masked) -> the mean over seeds; a published figure is under both."""
        means = self.table.groupby(["measure", "split"]).value.agg(fmean).reset_index()
        return {
            (metric, masked): value
            for metric, split, value in means.itertuples(index=False)
            for masked in (False, True)
            if self.published or split == ("test_masked" if masked else "test")
        }

    def spread(self, metric: str) -> float:
        """Standard deviation over the seeds of a metric, the history masked."""
        return float(self.table.query("measure == @metric and split == 'test_masked'").value.std())


def find(reference: str, results: Path, metrics: Sequence[str] = METRICS) -> Source:
    """The source that `reference` names, with its `metrics`.

    Raises `UserError` where there is none, or more than one.
    """
    if reference.startswith(PAPER):
        return _of_paper(reference)
    if not reference.strip():
        raise UserError("give a record's path, the beginning of one below the results, or paper:...")
    path = Path(reference)
    if path.suffix == ".json":
        return _of_runs([read_result(path, metrics)], metrics)
    paths = sorted(results.glob(PATTERN))
    names = {record: below_results(record).removesuffix(".json") for record in paths}
    prefix = path.relative_to(results).as_posix() if path.is_relative_to(results) else reference
    faults: list[str] = []
    runs = [
        run
        for record, name in names.items()
        if name.startswith(prefix) and (run := usable_run(record, faults.append, metrics))
    ]
    configurations = sorted({run.configuration for run in runs})
    if len(configurations) > 1:
        listed = ", ".join(configurations[:LISTED])
        more = f" and {len(configurations) - LISTED} more" if len(configurations) > LISTED else ""
        raise UserError(
            f"'{reference}' begins {len(configurations)} configurations below {results}: {listed}{more}. "
            "Give more of the one you mean."
        )
    if faults and not runs:
        raise UserError(faults[0])
    if not runs:
        allowed = sorted({name.rpartition("-s")[0] for name in names.values()})
        raise _no_record(reference, results, allowed)
    return _of_runs(runs, metrics, faults)


def _no_record(reference: str, results: Path, names: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(reference, names, n=1, cutoff=0.3)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(
        f"there is no record '{reference}' below {results}.{hint} Give a record's path, the beginning of "
        f"{FORM}[-s<seed>], or {PAPER}<llm>/<dataset>/<method>."
    )


def _of_paper(reference: str) -> Source:
    paper = published()
    parts = reference.removeprefix(PAPER).split("/")
    if len(parts) != 3:
        raise UserError(f"'{reference}' is not {PAPER}<llm>/<dataset>/<method>, such as {_example(paper)}.")
    llm, dataset, method = parts
    layout = paper.layout
    names = {"language model": layout.llms, "dataset": layout.datasets, "method": layout.methods}
    for (kind, known), given in zip(names.items(), parts, strict=True):
        if given not in known:
            raise unknown(f"{kind} of the paper:", given, known)
    quality = printed().query(
        "kind == 'quality' and llm == @llm and dataset == @dataset and method == @method"
    )
    if quality.empty:
        raise UserError(f"the paper prints no quality of {reference}; it does of {_example(paper)}.")
    tables = ", ".join(sorted(quality.record.str.removeprefix(PAPER).unique()))
    settings = settings_of_paper(paper, llm, dataset, method)
    return Source(
        reference,
        f"{layout.methods[method]} on {layout.datasets[dataset]} with {layout.llms[llm]}, "
        f"{layout.source}, {tables}",
        settings,
        quality,
        settings["users"].value if "users" in settings else None,
    )


def _example(paper: Published) -> str:
    first = next(row for row in paper.rows if row["kind"] == "quality")
    return f"{PAPER}{first['llm']}/{first['dataset']}/{first['method']}"


def _of_runs(runs: Sequence[StoredRun], metrics: Sequence[str], left_out: Sequence[str] = ()) -> Source:
    """The source of `runs`, all of one configuration. Runs that did not end well are left out with a note."""
    name = runs[0].configuration
    records = [run.record for run in runs]
    unfinished = [
        f"seed {run.seed} of {name} is left out: {run.status}." for run in records if run.status != "ok"
    ]
    finished = [run for run in runs if run.record.status == "ok"]
    if not finished:
        run = records[0]
        raise UserError(f"{name} has no finished run: {run.status}: {run.error or 'no reason recorded'}.")
    table = measured(finished, metrics).query("kind == 'quality' and split in ['test', 'test_masked']")
    table = table[table.record.notna()]  # without bounds
    gains, faults = user_gains(finished, metrics)
    run, seeds = finished[0].record, sorted(stored.record.seed for stored in finished)
    counts = run.data.get("fingerprint") or {}
    return Source(
        name,
        f"{run.method} on {run.dataset} with {run.llm or 'no language model'}, protocol {run.protocol}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        settings_of_run(run),
        table,
        counts.get("test_users") or counts.get("test_targets") or counts.get("users"),
        gains if gains and len(gains.by_seed) == len(finished) else None,
        defaults_of_run(run),
        [*left_out, *unfinished, *faults],
        tuple(metrics),
    )
