"""What is stored: all figures as one table, and one run as an object with tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from benchmark.results.record import RunRecord
    from benchmark.results.store import StoredRun

Names = str | Iterable[str]
"""One name, or several."""
RESULTS = "results"
"""Where records lie if the user names no folder."""


def several(names: Names | None) -> list[str]:
    """The names, each once; none for None."""
    given = [names] if isinstance(names, str) else list(names or ())
    return list(dict.fromkeys(given))


def results(
    path: str | Path = RESULTS,
    *,
    source: str = "ours",
    metrics: Names | None = None,
    datasets: Names | None = None,
    llms: Names | None = None,
    methods: Names | None = None,
    protocols: Names | None = None,
) -> DataFrame:
    """The long table of all figures below the folder `path`, as `adaptrec results` writes it.

    `source` is `ours` (the records), `paper` (the published figures) or `both`. `metrics` are measures such
    as `recall@20`, `mrr` or `coverage@10`. The other arguments keep some of the rows. docs/report.md explains
    the columns. Raises `UserError` for a name that no figure has, and where there is no record.
    """
    from benchmark.results.figures import load as load_figures
    from benchmark.results.metrics import chosen_measures

    only = {"dataset": datasets, "llm": llms, "method": methods, "protocol": protocols}
    return load_figures(
        Path(path),
        source,
        chosen_measures(several(metrics)),
        {column: several(names) for column, names in only.items()},
    )


def load(record: str | Path, results: str | Path = RESULTS) -> Run:
    """The run of one record, checked against its ranks.

    `record` is the path of a `.json` file, or a value of the column `record` of the long table, which is the
    path below the folder `results` without `.json`. Raises `UserError` where there is no such record, or
    where it is damaged.
    """
    from benchmark.results.store import read_result

    path = Path(record)
    if path.suffix != ".json":
        path = Path(results, f"{record}.json")
    return Run(read_result(path))


@dataclass(frozen=True, repr=False)
class Run:
    """One run: what it was made with, how good it is, and what it cost."""

    stored: StoredRun

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.stored.path

    @property
    def name(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>-s<seed>`, as in the column `record` of the long table."""
        return self.stored.name

    @property
    def record(self) -> RunRecord:
        """Every field of the record, see docs/records.md."""
        return self.stored.record

    @property
    def status(self) -> str:
        """`ok`, or how the run ended: `failed`, `oom`, `killed`, `interrupted`; the reason is
        `record.error`."""
        return self.record.status

    @cached_property
    def metrics(self) -> DataFrame:
        """Metrics: a row for each split, such as `test_masked`, a column for each metric."""
        import pandas as pd

        return pd.DataFrame.from_dict(self.record.metrics, orient="index").rename_axis("split")

    @cached_property
    def settings(self) -> DataFrame:
        """Settings and hyper-parameters by name: their values, and whether the user gave them."""
        import pandas as pd

        given = {pair.partition("=")[0] for pair in self.record.overrides}
        parts = {"harness": self.record.settings, "method": self.record.hyperparameters}
        rows = [
            {"name": name, "value": value, "of": of, "given": name in given}
            for of, values in parts.items()
            for name, value in values.items()
        ]
        return pd.DataFrame(rows, columns=["name", "value", "of", "given"]).set_index("name")

    @cached_property
    def curve(self) -> DataFrame:
        """A row for each epoch: loss, seconds, and the metrics of validation as `valid_masked recall@10`."""
        import pandas as pd

        rows = []
        for point in self.record.curve:
            row = point.model_dump(exclude={"valid", "valid_masked"})
            for split in ("valid", "valid_masked"):
                row |= {f"{split} {metric}": value for metric, value in getattr(point, split).items()}
            rows.append(row)
        table = pd.DataFrame(rows)
        return table.set_index("epoch") if rows else table

    @cached_property
    def ranks(self) -> DataFrame:
        """The rank of each test target, from 1, and how many items tie there; `masked`: the user's history
        left out of the ranking. `user` is an index into the prepared data."""
        import pandas as pd

        from benchmark.results.metrics import Ranks

        ranks = self.stored.ranks
        columns: dict[str, Any] = {"user": ranks.user}
        for form, values in {"": ranks.raw, "_masked": ranks.masked}.items():
            if isinstance(values, Ranks):
                columns |= {f"rank{form}": values.best, f"tied{form}": values.tied}
            else:  # an early record has mean ranks of ties
                columns[f"rank{form}"] = values
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        if self.status != "ok":
            return f"Run({self.name}: {self.status}: {self.record.error})"
        masked = self.record.metrics["test_masked"]
        quality = ", ".join(f"{name} {masked[name]:.4f}" for name in ("recall@10", "ndcg@10"))
        return f"Run({self.name}: test, history masked: {quality})"
