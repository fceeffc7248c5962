"""The growth benchmark: what it measures on tiny sizes, its record, table, plot and complaints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.results.schema import PeakMemory
from benchmark.run.spec import RunSpec
from benchmark.speed.measure import Amounts
from benchmark.speed.record import Timed, Variant
from benchmark.train.rows import Rows
from studies.__main__ import main
from studies.growth import training
from studies.growth.encoding import in_this_process
from studies.growth.plot import draw
from studies.growth.record import GrowthRecord, Size, read, write
from studies.growth.table import show

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20


def size(items: int, step: float, **other: object) -> Size:
    variant = Variant(
        value="x", status="ok", settings={}, hyperparameters={},
        batches_per_epoch=10, steps_per_epoch=10, predictions_per_epoch=1000,
        step=Timed(seconds=[step] * 3, cpu_seconds=[step] * 3), batches=[1] * 3, encoded=[500] * 3,
        evaluation_parts={
            part: Timed(seconds=[items * 1e-6], cpu_seconds=[items * 1e-6])
            for part in ("encode", "sasrec", "rank")
        },
        host_before=100 * MIB,
        peak_memory={
            phase: PeakMemory(host=(more + items) * MIB) for phase, more in (("train", 200), ("eval", 250))
        },
    )  # fmt: skip
    values = {
        "dataset": f"synthetic-{items}", "data_key": "k", "users": items, "items": items,
        "trained_items": items, "interactions": 10 * items, "evaluated_users": 8,
        "states_bytes": items * MIB, "table_bytes": 10 * MIB, "rounds": [variant],
        "epoch_start": Timed(seconds=[0.5], cpu_seconds=[0.5]), **other,
    }  # fmt: skip
    return Size.model_validate(values)


def record(*sizes: Size) -> GrowthRecord:
    return GrowthRecord(
        command="c",
        method="m",
        llm="l",
        protocol="fair",
        overrides=[],
        sizes=list(sizes),
        created="2026-01-01",
    )


def test_figures_by_hand() -> None:
    small = size(100, 0.1)
    assert small.per_prediction("seconds") == pytest.approx([(0.1 * 10 + 0.5) / 1000] * 3)
    assert (small.rest("train"), small.rest("eval")) == (200 * MIB, 240 * MIB)
    grown = record(small, size(1000, 0.12))
    assert grown.spread("cpu_seconds") == pytest.approx(0.2 / 1.5)
    assert "within the 15 % that count as flat" in show(grown)
    assert "beyond the 15 %" in show(record(small, size(1000, 0.2)))


def test_a_size_that_failed_is_reported_and_not_drawn(tmp_path: Path) -> None:
    lost = Variant(value="x", status="oom", error="too large", settings={}, hyperparameters={})
    grown = record(size(100, 0.1), size(1000, 0.1), size(9000, 0.1, rounds=[lost]))
    assert [measured.items for measured in grown.measured] == [100, 1000]
    assert "synthetic-9000: out of memory: too large" in show(grown)
    write(grown, tmp_path / "growth.json")
    assert read(tmp_path / "growth.json") == grown
    assert main(["growth", "plot", str(tmp_path / "growth.json"), "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"
    assert draw(grown) == draw(grown)
    (tmp_path / "bad.json").write_text("{}")
    assert main(["growth", "show", str(tmp_path / "bad.json")]) == 2


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results" / "growth").rglob("*.json")), ids=lambda path: path.name
)
def test_committed_records_stay_readable(path: Path) -> None:
    kept = read(path)
    assert kept.command.startswith("python ") and show(kept).count("\n") > 5


def test_one_run_is_measured_on_random_states() -> None:
    drawn = ("epochs=1", "candidates=sampled", "samples=64", "precision=no")
    cell = RunSpec("tiny", "random-tiny", "ssna", "fair", 0, drawn)
    blank = training.blank(cell)
    assert (blank.items, blank.trained_items, blank.states_bytes) == (300, 240, 300 * 3 * 32 * 4)
    assert blank.table_bytes == 300 * 256 * 4
    blank = Variant(value="tiny", status="failed", settings={"accumulation": 1}, hyperparameters={})
    amounts = Amounts(steps=2, warm_up=0, passes=1, evaluation_warm_up=0, detail=False)
    variant, start, ranked = training.in_this_process(cell, blank, 50, amounts)
    assert (variant.status, ranked, len(start.seconds)) == ("ok", 50, training.STARTS)
    assert len(variant.step.seconds) == 2 and variant.predictions_per_epoch == 4040 - 3 * 400
    assert {"encode", "sasrec", "rank"} == set(variant.evaluation_parts)


def test_users_are_taken_evenly() -> None:
    index = np.arange(100)
    rows = Rows(index, index, index, index)
    assert training.evenly(rows, 3).user.tolist() == [0, 49, 99]
    assert len(training.evenly(rows, 1000)) == 100


def test_encoding_is_measured_and_takes_the_predicted_disk(tmp_path: Path) -> None:
    encoded = in_this_process("tiny", "random-tiny", 40, (), "float32", tmp_path)
    assert (encoded.items, encoded.layers) == (40, [0, 1, 2, 3])  # so small a catalogue keeps them all
    assert encoded.predicted_bytes == 4 * 40 * 32 * 4
    assert 0 < encoded.written_bytes - encoded.predicted_bytes < 2048  # headers, and the sidecar
    assert len(encoded.bare.seconds) == 2 and encoded.share("cpu_seconds") > 0
    assert encoded.tokens <= encoded.padded_tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "snsa"], "Did you mean 'ssna'"),
        (["train", "--method", "ssna", "--users", "0"], "--users and --rounds must be 1 or more"),
        (["encode", "--dataset", "tiny", "--items", "301"], "'tiny' has 1 to 300"),
        (["show", "nowhere.json"], "nowhere.json cannot be read"),
        (["encode", "--layers", "x"], "not a list of whole numbers"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "in_fresh_process", lambda call, *rest: call(*rest))
    assert main(["growth", *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("growth: error:") and message in line
