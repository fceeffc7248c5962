"""What a figure comes from: one configuration with one seed or several, found by the path of a record or the
beginning of its name below the results, or a published one, `paper:<language model>/<dataset>/<method>`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from benchmark.explain.settings import Facts, facts_of_paper, facts_of_run
from benchmark.results.published import Published, published
from benchmark.results.record import METRICS, below_results
from benchmark.results.store import PATTERN, read_result, usable_run
from benchmark.results.stored import StoredRun, UserGains, user_gains
from methods.errors import UserError, unknown

PAPER = "paper:"
FORM = "<dataset>/<llm>/<method>/<hash>"
SHOWN = 5
"""Names that an error lists at most."""


@dataclass(frozen=True)
class Side:
    """What one of the two figures comes from."""

    name: str
    what: str
    """In words."""
    facts: Facts
    figures: Mapping[tuple[str, bool], float]
    """(metric, history masked) -> the mean over seeds; a published figure stands under both."""
    seeds: Mapping[int, Mapping[tuple[str, bool], float]]
    """Seed -> the same of one run; empty where the seeds are not stated."""
    users: int | None
    gains: Mapping[bool, UserGains] = field(default_factory=dict)
    """History masked -> gains of each user under `metrics`; what has no usable ranks is missing."""
    notes: Sequence[str] = ()
    metrics: tuple[str, ...] = METRICS
    """The measures of a run that are compared."""

    @property
    def published(self) -> bool:
        """Whether it is a figure of the paper."""
        return not self.seeds


def find(reference: str, results: Path, metrics: Sequence[str] = METRICS) -> Side:
    """The side that `reference` names, with its `metrics`.

    Raises `UserError` where there is none, or more than one.
    """
    if reference.startswith(PAPER):
        return _of_paper(reference)
    path = Path(reference)
    if path.suffix == ".json":
        return _of_runs([read_result(path, metrics)], metrics)
    paths = sorted(results.glob(PATTERN))
    names = {one: below_results(one).removesuffix(".json") for one in paths}
    asked = path.relative_to(results).as_posix() if path.is_relative_to(results) else reference
    matching = [one for one in paths if names[one].startswith(asked)]
    faults: list[str] = []
    found = [run for one in matching if (run := usable_run(one, faults.append, metrics))]
    configurations = sorted({run.configuration for run in found})
    if len(configurations) > 1:
        listed = ", ".join(configurations[:SHOWN])
        more = f" and {len(configurations) - SHOWN} more" if len(configurations) > SHOWN else ""
        raise UserError(
            f"'{reference}' begins {len(configurations)} configurations below {results}: {listed}{more}. "
            "Give more of the one you mean."
        )
    if faults and not found:
        raise UserError(faults[0])
    if not found:
        allowed = sorted({names[one].rpartition("-s")[0] for one in paths})
        raise _no_record(reference, results, allowed)
    return _of_runs(found, metrics, faults)


def _no_record(reference: str, results: Path, names: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(reference, names, n=1, cutoff=0.3)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(
        f"there is no record '{reference}' below {results}.{hint} Give a record's path, the beginning of "
        f"{FORM}[-s<seed>], or {PAPER}<llm>/<dataset>/<method>."
    )


def _of_paper(reference: str) -> Side:
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
    key = {"kind": "quality", "llm": llm, "dataset": dataset, "method": method}
    quality = [row for row in paper.rows if key.items() <= row.items()]
    if not quality:
        raise UserError(f"the paper prints no quality of {reference}; it does of {_example(paper)}.")
    tables = ", ".join(sorted({row["record"].removeprefix(PAPER) for row in quality}))
    facts = facts_of_paper(paper, llm, dataset, method)
    return Side(
        reference,
        f"{layout.methods[method]} on {layout.datasets[dataset]} with {layout.llms[llm]}, "
        f"{layout.source}, {tables}",
        facts,
        {(row["measure"], masked): row["value"] for row in quality for masked in (False, True)},
        {},
        facts["users"].value if "users" in facts else None,
    )


def _example(paper: Published) -> str:
    first = next(row for row in paper.rows if row["kind"] == "quality")
    return f"{PAPER}{first['llm']}/{first['dataset']}/{first['method']}"


def _of_runs(runs: Sequence[StoredRun], metrics: Sequence[str], left_out: Sequence[str] = ()) -> Side:
    """A configuration; runs that did not end well are told and left out, as are those of `left_out`."""
    name = runs[0].configuration
    records = [run.record for run in runs]
    lost = [f"seed {run.seed} of {name} is left out: {run.status}." for run in records if run.status != "ok"]
    done = [run for run in runs if run.record.status == "ok"]
    if not done:
        run = records[0]
        raise UserError(f"{name} has no finished run: {run.status}: {run.error or 'no reason recorded'}.")
    seeds = {
        run.seed: {
            (metric, masked): run.metrics[split][metric]
            for masked, split in ((False, "test"), (True, "test_masked"))
            for metric in metrics
        }
        for run in (stored.record for stored in done)
    }
    gains: dict[bool, UserGains] = {}
    faults: list[str] = []
    for masked in (False, True):
        found, said = user_gains(done, metrics, masked)
        faults += [fault for fault in said if fault not in faults]
        if found is not None and len(found.by_seed) == len(done):
            gains[masked] = found
    run = done[0].record
    counts = run.data.get("fingerprint") or {}
    return Side(
        name,
        f"{run.method} on {run.dataset} with {run.llm or 'no language model'}, protocol {run.protocol}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}",
        facts_of_run(run),
        {key: fmean(one[key] for one in seeds.values()) for key in next(iter(seeds.values()))},
        seeds,
        counts.get("test_targets") or counts.get("users"),
        gains,
        [*left_out, *lost, *faults],
        tuple(metrics),
    )
