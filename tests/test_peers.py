"""The study of peers: the files that it gives them, the peers' side, its record, table and complaints.

The peers themselves run only where ADAPTREC_RECBOLE_PYTHON names a Python that has RecBole.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_folders import USERS, recipe_of, write_folder

from benchmark.data.prepare import prepare
from benchmark.run.spec import ResolvedRun
from benchmark.speed.measure import Amounts
from benchmark.speed.record import Timed, Variant
from benchmark.speed.run import time_run
from studies.__main__ import main
from studies.peers import measure, recbole_side
from studies.peers.export import export
from studies.peers.record import PeerReport, read

SMALL = ["width=8", "sasrec_inner=8", "batch_size=16", "top_layers=1"]
REPORT = {
    "anomaly_mode": True, "parameters": 12, "width": 256, "items": 10, "places": 3,
    "predictions_per_epoch": 36, "batch_size": 2048, "predictions": [18, 18],
    "batches": {"seconds": [2.0, 2.0], "cpu_seconds": [500.0, 700.0]}, "peak_host": 2**30,
    "load_average": 7.5, "losses": None,
    "versions": {"python": "3", "recbole": "1.2.1", "torch": "2", "numpy": "1"},
}  # fmt: skip
STAND_IN = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[2] == "versions":
    sys.exit(0)
job = json.loads(Path(sys.argv[3]).read_text())
data = Path(job["folder"]) / job["dataset"] / job["dataset"]
lines = Path(f"{{data}}.train.inter").read_text().splitlines()
assert Path(f"{{data}}.feat1CLS").stat().st_size == 10 * 4 * job["llm_width"]
report = json.loads({report!r})
report["predictions_per_epoch"] = len(lines) - {missed} - 1
Path(job["out"]).write_text(json.dumps(report))
"""


def stand_in(folder: Path, missed: int = 0) -> list[str]:
    """Options that name a Python which reports the same figures for every peer, and a clone of nothing."""
    python = folder / "python"
    python.write_text(STAND_IN.format(python=sys.executable, report=json.dumps(REPORT), missed=missed))
    python.chmod(0o755)
    for name in measure.UNISREC_FILES:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "clone" / name).touch()
    return ["--recbole-python", str(python), "--unisrec", str(folder / "clone")]


def test_the_files_hold_each_prediction_with_its_history(tmp_path: Path) -> None:
    """`ann` bought a b c d, `bob` b c a, `cy` d a b c: the last item tests, the one before validates."""
    prepared = prepare(recipe_of(write_folder(tmp_path / "small", USERS)), tmp_path / "cache")
    vectors = torch.arange(12.0).view(4, 3)
    assert export(prepared, tmp_path, "data", vectors) == 2
    user, item = (
        {name: str(index) for index, name in enumerate(ids)} for ids in (prepared.user_ids, prepared.item_ids)
    )

    def lines(*rows: str) -> list[str]:
        cells = [row.split() for row in rows]
        return sorted(
            f"{user[who]}\t{' '.join(item[name] for name in items[:-1])}\t{item[items[-1]]}"
            for who, *items in cells
        )

    for part, expected in {
        "train": lines("ann a b", "cy d a"),
        "valid": lines("ann a b c", "bob b c", "cy d a b"),
        "test": lines("ann a b c d", "bob b c a", "cy d a b c"),
    }.items():
        header, *rest = (tmp_path / "data" / f"data.{part}.inter").read_text().splitlines()
        assert header == "user_id:token\titem_id_list:token_seq\titem_id:token"
        assert sorted(rest) == expected
    stored = np.fromfile(tmp_path / "data" / "data.feat1CLS", np.float32).reshape(-1, 3)
    assert np.array_equal(stored, vectors.numpy())


def test_a_history_has_at_most_fifty_items(tmp_path: Path) -> None:
    items = [f"i{number}" for number in range(60)]
    users = {"long": " ".join(items)}
    folder = write_folder(tmp_path / "long", users, {item: item for item in items})
    prepared = prepare(recipe_of(folder), tmp_path / "cache")
    export(prepared, tmp_path, "data", None)
    last = (tmp_path / "data" / "data.test.inter").read_text().splitlines()[-1].split("\t")
    history, target = last[1].split(), last[2]
    assert [prepared.item_ids[int(name)] for name in (*history, target)] == items[-51:]


class Model:
    """The loss is a mean over the items of all histories; `counts_padding` lets padding weigh in."""

    ITEM_SEQ, ITEM_SEQ_LEN = "items", "lengths"

    def __init__(self, counts_padding: bool) -> None:
        self.counts_padding, self.widths = counts_padding, list[int]()

    def calculate_loss(self, batch: Rows) -> torch.Tensor:
        items = batch["items"]
        self.widths.append(items.shape[1])
        count = items.numel() if self.counts_padding else int((items > 0).sum())
        return items.sum() / count

    def eval(self) -> None: ...

    def train(self) -> None: ...


class Rows:
    """As RecBole's Interaction: columns by name, rows by index."""

    def __init__(self, interaction: dict[str, torch.Tensor]) -> None:
        self.interaction = interaction

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.interaction[index]
        return Rows({name: column[index] for name, column in self.interaction.items()})

    def __len__(self) -> int:
        return len(self.interaction["lengths"])


def rows() -> Rows:
    lengths = torch.tensor([3, 1, 6, 2, 1, 2])
    items = torch.arange(1, 37).view(6, 6) * (torch.arange(6) < lengths[:, None])
    return Rows({"items": items, "lengths": lengths})


def test_batches_without_padding_hold_every_row_once_and_are_cut() -> None:
    model = Model(counts_padding=False)
    padded, trimmed = recbole_side.without_padding(model, rows())
    assert padded == trimmed and model.widths == [6, 2]
    batches = list(recbole_side.by_length(model, rows(), 2, warm_up=1))
    assert [batch["lengths"].tolist() for batch in batches] == [[2, 2], [1, 1], [2, 2], [3, 6]]
    model.widths.clear()
    for batch in batches:
        model.calculate_loss(batch)
    assert model.widths == [2, 1, 2, 6]


def test_a_loss_that_depends_on_padding_is_refused() -> None:
    with pytest.raises(RuntimeError, match="with padding and"):
        recbole_side.without_padding(Model(counts_padding=True), rows())


def test_the_clock_times_each_batch() -> None:
    clocked = recbole_side.Clocked(loader=[1, 2], batches=["ab", "c"])
    for _ in clocked:
        sum(range(100_000))
    assert [lap[0] for lap in clocked.laps] == [2, 1]
    assert all(wall > 0 and cpu > 0 for _, wall, cpu in clocked.laps)
    assert clocked.index(2) == 1  # all else is the loader's


def test_batches_are_scaled_to_an_epoch() -> None:
    report = PeerReport.model_validate({**REPORT, "predictions_per_epoch": 90})
    assert (report.lap.seconds, report.lap.cpu_seconds) == (10.0, 3000.0)


def test_a_comparison_writes_a_record_and_prints_ratios(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(run: ResolvedRun, value: str, amounts: Amounts) -> Variant:
        """Timed in this process; the seconds of its epochs are known."""
        settings = asdict(run.settings)
        variant = Variant(value=value, status="failed", settings=settings, hyperparameters={})
        variant = time_run(run.spec, variant, amounts)
        variant.epoch = Timed(seconds=[1.0], cpu_seconds=[12.0])
        return variant

    monkeypatch.setattr(measure, "time_variant", here)
    file = tmp_path / "new" / "peers.json"
    words = ["--dataset", str(folder), "--llm", "random-tiny", "--rows", "ssna,sasrec,unisrec-unpadded"]
    words += ["--precision", "no", "--rounds", "2", "--epochs", "1", "--set", *SMALL, "--json", str(file)]
    assert main(["peers", *stand_in(tmp_path), *words]) == 0
    printed = capsys.readouterr().out
    record = read(file)
    assert [len(row.rounds) for row in record.rows] == [2, 2, 2]
    assert record.command.startswith("python studies peers --recbole-python PYTHON --unisrec CLONE")
    line = next(line for line in printed.splitlines() if "SASRec, as published" in line)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1] == "1,200" and cells[-1] == "100 (100 to 100)"
    assert "Load of the machine" in printed and "Other work ran on it" in printed
    assert main(["peers", "--show", str(file)]) == 0
    assert capsys.readouterr().out == printed


PYTHON = ["--recbole-python", sys.executable]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["--recbole-python", "--show"]),
        (["--recbole-python", "/nowhere/python"], ["/nowhere/python", "No such file", "RecBole"]),
        (PYTHON, [sys.executable, "recbole", "pip install"]),
        ([*PYTHON, "--rows", "ssna,sasrek"], ["'sasrek'", "'sasrec'"]),
        ([*PYTHON, "--rounds", "0"], ["--rounds", "1 or more"]),
        (["--show", "nowhere.json"], ["nowhere.json", "No such file"]),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(text in line for text in ["peers: error:", *said])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: words[:2], "give --unisrec"),
        (lambda words: [*words[:3], str(Path(words[3]).parent)], "it has no unisrec.py"),
    ],
    ids=["no clone", "another folder"],
)
def test_unisrec_needs_its_clone(
    change: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers", *change(stand_in(tmp_path)), "--rows", "unisrec"]) == 2
    assert said in capsys.readouterr().err


def test_a_peer_that_read_other_data_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", str(folder), "--llm", "random-tiny", "--rows", "sasrec"]
    assert main(["peers", *stand_in(tmp_path, missed=1), *words]) == 2
    assert "read 35 predictions of the 36" in capsys.readouterr().err


def test_the_peers_themselves(folder: Path, tmp_path: Path) -> None:
    python = os.environ.get("ADAPTREC_RECBOLE_PYTHON")
    if not python:
        pytest.skip("set ADAPTREC_RECBOLE_PYTHON to a Python that has RecBole")
    file = tmp_path / "peers.json"
    words = ["--recbole-python", python, "--dataset", str(folder), "--rows", "sasrec,sasrec-unpadded"]
    assert (
        main(
            ["peers", *words, "--llm", "random-tiny", "--rounds", "1", "--batches", "1", "--json", str(file)]
        )
        == 0
    )
    published, unpadded = (row.rounds[0] for row in read(file).peers)
    assert (published.anomaly_mode, unpadded.anomaly_mode, published.width) == (True, False, 256)
    assert unpadded.losses is not None
