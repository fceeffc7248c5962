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
from benchmark.escape import one_line
from benchmark.report.drawing import forms, legend_below, look_of, new_figure, wrapped_title
from benchmark.report.section import Block, Cell, Plot, Section, configuration
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, mark, newest, note, oldest, slug
from benchmark.results.measures import share
from benchmark.results.record import RunRecord
from benchmark.results.statistics import SeedMean, estimate
from benchmark.results.store import StoredRun

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FEWEST = 3
"""Values that make a sweep."""
SPLITS = {"valid_masked": "validation, history masked", "test_masked": "test, history masked"}
HIDDEN = {"llm", "digest", "data"}
"""What may differ between lines and does not stand in a label."""
Runs = tuple[StoredRun, ...]


@dataclass(frozen=True)
class Sweep:
    """The lines of one plot: one dataset, method, protocol and setting."""

    dataset: str
    method: str
    protocol: str
    name: str
    """Of the setting."""
    lines: Mapping[str, Mapping[int, Runs]]
    """Label: the language model, and what else the lines do not share -> value of the setting, rising -> its
    runs, one a seed."""
    figures: pd.Series
    """(record, split, metric) -> value."""

    @property
    def where(self) -> str:
        """What the title names."""
        return f"{self.method} on {self.dataset}, protocol {self.protocol}"

    @property
    def runs(self) -> list[RunRecord]:
        """All its runs."""
        return [run.record for line in self.lines.values() for runs in line.values() for run in runs]

    def mean(self, runs: Runs, split: str, metric: str = HEADLINE[0]) -> SeedMean | None:
        """A metric over runs; None where none has it."""
        return estimate(self.figures.get((run.name, split, metric)) for run in runs)

    def best(self, line: Mapping[int, Runs]) -> int:
        """The value with the best mean validation Recall@10, the smaller one of equals."""
        means = {value: self.mean(runs, "valid_masked") for value, runs in line.items()}
        return max(means, key=lambda value: (mean.mean if (mean := means[value]) else 0.0, -value))


def sweeps(results: Results) -> list[Sweep]:
    """Every sweep that the finished runs hold, by name."""
    families: dict[tuple[str, str, str, str], dict[str, tuple[dict[str, Any], dict[int, Runs]]]] = {}
    for run in results.runs:
        record, machine = run.record, run.record.environment
        if record.status != "ok":
            continue
        values = {**asdict(Settings()), **record.settings, **record.hyperparameters}
        fixed = {
            "llm": record.llm, "digest": record.llm_details.get("digest"), "data": record.data.get("key"),
            "device": machine.device_name, "processes": machine.world_size,
            "precision really": machine.precision,
        }  # fmt: skip
        for name, value in values.items():
            if type(value) is int:
                shared = {**fixed, **{other: values[other] for other in values if other != name}}
                family = families.setdefault((record.dataset, record.method, record.protocol, name), {})
                runs = family.setdefault(digest(shared), (shared, {}))[1]
                runs[value] = (*runs.get(value, ()), run)
    made = []
    for key, family in sorted(families.items()):
        if lines := [line for line in family.values() if len(line[1]) >= FEWEST]:
            labels = _labels([shared for shared, _ in lines])
            named = {
                label: dict(sorted(runs.items())) for label, (_, runs) in zip(labels, lines, strict=True)
            }
            made.append(Sweep(*key, named, _figures(results)))
    return made


def _labels(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The language model of each line, and what else the lines do not share."""
    varied = [
        name for name in lines[0] if len({json.dumps(line.get(name), default=str) for line in lines}) > 1
    ]
    extras = [[f"{name}={line.get(name)}" for name in varied if name not in HIDDEN] for line in lines]
    return [
        ", ".join([str(line["llm"] or "no language model"), *extra])
        for line, extra in zip(lines, extras, strict=True)
    ]


def _figures(results: Results) -> pd.Series:
    """(record, split, metric) -> value; trials that a search did not choose have test figures too."""
    table = results.figures_with_trials
    table = table[(table.kind == "quality") & table.record.notna()]
    return table.set_index(["record", "split", "measure"]).value


def sections(results: Results) -> list[Section]:
    """A section for each sweep."""
    return [_section(sweep) for sweep in sweeps(results)]


def _section(sweep: Sweep) -> Section:
    rows, lines, records = [], [], {}
    last = newest(sweep.runs)
    for label, line in sweep.lines.items():
        for value, runs in line.items():
            chosen = " *" if value == sweep.best(line) else ""
            name, first = runs[0].configuration, runs[0].record
            records[name] = configuration(runs)
            figures = {
                f"{split}_{metric}": mean.mean if (mean := sweep.mean(runs, split, metric)) else None
                for split in SPLITS
                for metric in HEADLINE
            }
            older = oldest((run.record for run in runs), last) < last
            cells = [
                Cell("n/a" if value is None else share(value), record=name) for value in figures.values()
            ]
            rows.append([Cell(label), Cell(mark(f"{value}{chosen}", older)), *cells, Cell(str(len(runs)))])
            lines.append(
                {
                    "dataset": sweep.dataset, "llm": first.llm, "protocol": sweep.protocol,
                    "method": sweep.method, "line": label, "setting": sweep.name, "value": value,
                    "config_hash": first.config_hash, "seeds": " ".join(str(run.record.seed) for run in runs),
                    **figures,
                }
            )  # fmt: skip
    measured = ("masked valid R@10", "masked valid N@10", "masked test R@10", "masked test N@10")
    heads = ["line", sweep.name, *measured, "seeds"]
    stem = "-".join(slug(part) for part in (sweep.dataset, sweep.protocol, sweep.method, sweep.name))
    title = f"Recall@10 over {sweep.name}: {sweep.where}"
    return Section(
        f"{stem}-sweep",
        title,
        f"{sweep.where}: only {sweep.name} differs along a line, everything else is equal; full catalogue, "
        "the user's history masked, means over seeds.",
        [Block(f"R@10 and N@10 over {sweep.name}", heads, rows)],
        [
            "*: the value with the best validation R@10, which is the one to choose. Trials that a search "
            "did not choose are included: this section studies a setting and selects nothing.",
            *(f"{sentence}." for sentence in note(run.generation for run in sweep.runs)),
        ],
        [Plot("sweep", title, draw(sweep))],
        lines,
        records,
    )


def draw(sweep: Sweep) -> dict[str, bytes]:
    """Validation and test Recall@10 side by side, over the setting: `png` and `svg`."""
    last = newest(sweep.runs)
    with new_figure(3.4) as figure:
        pair = figure.subplots(1, 2, sharex=True, sharey=True)
        figure.suptitle(wrapped_title(sweep.where), x=0.01, ha="left", fontsize="large")
        for axes, (split, name) in zip(pair, SPLITS.items(), strict=True):
            axes.set_title(name, fontsize="medium")
            axes.set_xlabel(one_line(sweep.name))
            axes.margins(y=0.1)
            for place, (label, line) in enumerate(sweep.lines.items()):
                older = any(run.record.generation < last for runs in line.values() for run in runs)
                _draw_line(axes, sweep, line, split, label=mark(label, older), place=place)
            _ticks(axes, sorted({value for line in sweep.lines.values() for value in line}))
        pair[0].set_ylabel("Recall@10")
        several = any(len(runs) > 1 for line in sweep.lines.values() for runs in line.values())
        legend = "ringed: best on validation" + ("\nbars: least to most of the seeds" if several else "")
        handles, labels = pair[0].get_legend_handles_labels()
        legend_below(figure, handles, labels, legend)
        return forms(figure)


def _draw_line(
    axes: Axes, sweep: Sweep, line: Mapping[int, Runs], split: str, *, label: str, place: int
) -> None:
    look = look_of(place)
    known = {value: mean for value, runs in line.items() if (mean := sweep.mean(runs, split)) is not None}
    means = [mean.mean for mean in known.values()]
    axes.plot(list(known), means, label=label, linewidth=1.6, markersize=6, zorder=3, **look)
    for value, mean in known.items():
        if mean.n > 1:
            axes.vlines(value, mean.least, mean.largest, color=look["color"], linewidth=1.0, zorder=4)
    if (best := sweep.best(line)) in known:
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
