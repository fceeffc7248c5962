"""Quality over one whole-number setting with all others equal, as in Figure 3 of arXiv 2310.01612.

Any method has such a plot where its finished runs give three values or more of one setting or hyper-parameter
and agree on everything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmark.config import Settings, digest
from benchmark.report.drawing import columns, forms, look_of, style
from benchmark.report.provenance import configuration
from benchmark.report.section import Block, Cell, Plot, Section
from benchmark.results.comparable import slug
from benchmark.results.generations import mark, newest, note, oldest
from benchmark.results.measures import share
from benchmark.results.record import RunRecord
from benchmark.results.results import Results
from benchmark.results.statistics import SeedMean, estimate
from benchmark.results.stored import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 3
"""Values that make a sweep."""
METRIC = "recall@10"
SPLITS = {"valid": "validation", "test": "test"}


@dataclass(frozen=True)
class SweepLine:
    """Runs that differ in one setting, and in their seeds."""

    shared: Mapping[str, Any]
    """Everything else, by name: the same in all runs."""
    runs: Mapping[int, tuple[StoredRun, ...]]
    """Value of the setting -> its runs, one a seed; values rise."""

    def best(self) -> int:
        """The value with the best mean validation Recall@10, the smaller one of equals."""
        means = {value: mean_of(runs, "valid") for value, runs in self.runs.items()}
        known = {value: mean.mean if mean else 0.0 for value, mean in means.items()}
        return max(known, key=lambda value: (known[value], -value))


@dataclass(frozen=True)
class Sweep:
    """The lines of one plot: one dataset, method, protocol and setting."""

    dataset: str
    method: str
    protocol: str
    name: str
    """Of the setting."""
    lines: tuple[SweepLine, ...]

    @property
    def runs(self) -> list[RunRecord]:
        """All its runs."""
        return [run.record for line in self.lines for runs in line.runs.values() for run in runs]

    def labels(self) -> list[str]:
        """The language model of each line, and what else the lines do not share."""
        varied = [
            name
            for name in self.lines[0].shared
            if len({json.dumps(line.shared.get(name), default=str) for line in self.lines}) > 1
        ]
        labels = []
        for line in self.lines:
            extra = [f"{name}={line.shared.get(name)}" for name in varied if name not in HIDDEN]
            labels.append(", ".join([str(line.shared["llm"] or "no language model"), *extra]))
        return labels


HIDDEN = {"llm", "digest", "data"}
"""What may differ between lines and does not stand in a label."""


def mean_of(runs: Sequence[StoredRun], split: str, metric: str = METRIC) -> SeedMean | None:
    """A metric over runs; None where none has it.

    The long table has no test metrics of trials that a search did not choose, which a sweep shows.
    """
    return estimate(run.record.metrics.get(split, {}).get(metric) for run in runs)


def _values(run: RunRecord) -> dict[str, Any]:
    """Settings, those that came later at their default, and hyper-parameters."""
    return {**asdict(Settings()), **run.settings, **run.hyperparameters}


def sweeps(records: Sequence[StoredRun]) -> list[Sweep]:
    """Every sweep that the finished runs hold, by name."""
    sweep_lines: dict[
        tuple[str, str, str, str], dict[str, tuple[dict[str, Any], dict[int, list[StoredRun]]]]
    ] = {}
    for stored in records:
        run = stored.record
        if run.status != "ok":
            continue
        values = _values(run)
        device = run.environment
        fixed = {
            "llm": run.llm, "digest": run.llm_details.get("digest"), "data": run.data.get("key"),
            "device": device.device_name, "processes": device.world_size,
            "precision really": device.precision,
        }  # fmt: skip
        for name, value in values.items():
            if type(value) is int:
                shared = {**fixed, **{other: values[other] for other in values if other != name}}
                key = (run.dataset, run.method, run.protocol, name)
                line = sweep_lines.setdefault(key, {}).setdefault(digest(shared), (shared, {}))
                line[1].setdefault(value, []).append(stored)
    made = []
    for key, lines in sorted(sweep_lines.items()):
        kept = tuple(
            SweepLine(shared, {value: tuple(runs[value]) for value in sorted(runs)})
            for shared, runs in lines.values()
            if len(runs) >= FEWEST
        )
        if kept:
            made.append(Sweep(*key, kept))
    return made


def sections(results: Results) -> list[Section]:
    """A section for each sweep."""
    return [_section(sweep) for sweep in sweeps(results.runs)]


def _section(sweep: Sweep) -> Section:
    rows, lines, records = [], [], {}
    last = newest(sweep.runs)
    for label, line in zip(sweep.labels(), sweep.lines, strict=True):
        for value, runs in line.runs.items():
            chosen = " *" if value == line.best() else ""
            records[runs[0].configuration] = configuration(runs)
            means = {
                f"{split}_{metric}": mean.mean if (mean := mean_of(runs, split, metric)) else None
                for split in SPLITS
                for metric in (METRIC, "ndcg@10")
            }
            older = oldest((run.record for run in runs), last) < last
            texts = ["n/a" if mean is None else share(mean) for mean in means.values()]
            cells = [Cell(text, record=runs[0].configuration) for text in texts]
            rows.append([Cell(label), Cell(mark(f"{value}{chosen}", older)), *cells, Cell(str(len(runs)))])
            lines.append(
                {
                    "dataset": sweep.dataset, "llm": line.shared["llm"], "protocol": sweep.protocol,
                    "method": sweep.method, "line": label, "setting": sweep.name, "value": value,
                    "config_hash": runs[0].record.config_hash,
                    "seeds": " ".join(str(run.record.seed) for run in runs),
                    **means,
                }
            )  # fmt: skip
    heads = ["line", sweep.name, "valid R@10", "valid N@10", "test R@10", "test N@10", "seeds"]
    where = f"{sweep.method} on {sweep.dataset}, protocol {sweep.protocol}"
    stem = "-".join(slug(part) for part in (sweep.dataset, sweep.protocol, sweep.method, sweep.name))
    return Section(
        f"{stem}-sweep",
        f"Recall@10 over {sweep.name}: {where}",
        f"{where}: only {sweep.name} differs along a line, everything else is equal; full catalogue, history "
        "not masked, means over seeds.",
        [Block(f"R@10 and N@10 over {sweep.name}", heads, rows)],
        [
            "*: the value with the best validation R@10, which is the one to choose. Trials that a search "
            "did not choose are included: this section studies a setting and selects nothing.",
            *(f"{sentence}." for sentence in note(run.generation for run in sweep.runs)),
        ],
        [Plot("sweep", f"Recall@10 over {sweep.name}: {where}", draw(sweep))],
        lines,
        records,
    )


def draw(sweep: Sweep) -> dict[str, bytes]:
    """Validation and test Recall@10 side by side, over the setting: `png` and `svg`."""
    from matplotlib.figure import Figure

    wide, last = columns(sweep.labels()), newest(sweep.runs)
    with style():
        figure = Figure(figsize=(7.5, 3.2 + 0.3 / wide * len(sweep.lines)), layout="constrained")
        pair = figure.subplots(1, 2, sharex=True, sharey=True)
        title = f"{sweep.method} on {sweep.dataset}, protocol {sweep.protocol}"
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
        for axes, (split, name) in zip(pair, SPLITS.items(), strict=True):
            axes.set_title(name, fontsize="medium")
            axes.set_xlabel(sweep.name)
            axes.margins(y=0.1)
            for place, (label, line) in enumerate(zip(sweep.labels(), sweep.lines, strict=True)):
                older = any(run.record.generation < last for runs in line.runs.values() for run in runs)
                _draw_line(axes, line, split, mark(label, older), place)
            _ticks(axes, sorted({value for line in sweep.lines for value in line.runs}))
        pair[0].set_ylabel("Recall@10")
        several = any(len(runs) > 1 for line in sweep.lines for runs in line.runs.values())
        legend = "ringed: best on validation" + ("\nbars: least to most of the seeds" if several else "")
        handles, labels = pair[0].get_legend_handles_labels()
        look: dict[str, Any] = {"title": legend, "alignment": "left", "handlelength": 3.4}
        figure.legend(handles, labels, loc="outside lower left", ncols=wide, **look)
        return forms(figure)


def _draw_line(axes: Axes, line: SweepLine, split: str, label: str, place: int) -> None:
    colour, dash, marker = look_of(place)
    known = {value: mean for value, runs in line.runs.items() if (mean := mean_of(runs, split)) is not None}
    look: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker}
    means = [mean.mean for mean in known.values()]
    axes.plot(list(known), means, label=label, linewidth=1.6, markersize=6, zorder=3, **look)
    for value, mean in known.items():
        if mean.n > 1:
            axes.vlines(value, mean.least, mean.largest, color=colour, linewidth=1.0, zorder=4)
    if (best := line.best()) in known:
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 12}
        axes.plot([best], [known[best].mean], "o", markeredgewidth=1.4, zorder=5, **ring)


def _ticks(axes: Axes, values: Sequence[int]) -> None:
    """A tick at each value; logarithmic from a factor of eight on."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log", base=2)
    step = math.ceil(len(values) / 12)
    axes.xaxis.set_major_locator(FixedLocator(values[::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
