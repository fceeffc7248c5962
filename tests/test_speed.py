"""`speed`: what is counted, a fresh process a variant, mistakes before anything is timed, the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folders import write_folder

from benchmark import speed as speed_module
from benchmark.cell import Cell, resolve_cell
from benchmark.cli import main
from benchmark.data.batches import EpochBatches
from benchmark.model.parallel import ShortOfMemoryError
from benchmark.record import PeakMemory
from benchmark.speed import Plan, speed, time_cell
from benchmark.speed_record import PHASES, SpeedRecord, Variant, read_speed, show
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Trainer
from benchmark.wiring import build_trainer
from methods.errors import UserError

ITEMS = "abcdefghij"
USERS = {f"u{n}": " ".join(ITEMS[(n * 3 + step) % 10] for step in range(6)) for n in range(12)}
SMALL = ("precision=no", "width=8", "sasrec_inner=8", "batch_size=6", "accumulation=3")
ONE = Plan(steps=1, warm_up=0, passes=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("data") / "small", USERS, {item: f"thing {item}" for item in ITEMS}
    )


def cell_of(folder: Path, *more: str, method: str = "lora") -> Cell:
    return Cell(str(folder), "random-tiny", method, overrides=(*SMALL, *more))


def blank(cell: Cell) -> Variant:
    settings = vars(resolve_cell(cell).settings)
    return Variant(value="", status="failed", settings=settings, hyperparameters={})


def variant(value: str, status: Any = "ok", **figures: Any) -> Variant:
    """Two steps of two batches, of 1 + 2 + 3 and 2 + 4 + 6 seconds, the optimiser 1 second each."""
    known = {
        "settings": {"accumulation": 2}, "hyperparameters": {}, "batches_per_epoch": 5, "steps_per_epoch": 3,
        "predictions_per_epoch": 1000, "encoded": [10, 20], "evaluation": [0.5], "host_before": 2**20,
        "seconds": {"data": [1, 2], "forward": [2, 4], "backward": [3, 6], "optimiser": [1, 1]},
        "peak_memory": {"train": PeakMemory(host=3 * 2**20), "eval": PeakMemory(host=2 * 2**20)},
    }  # fmt: skip
    return Variant(value=value, status=status, **{**known, **figures})


def record_of(*variants: Variant) -> SpeedRecord:
    return SpeedRecord(
        command="python -m benchmark speed", dataset="small", data_key="k", llm="random-tiny", llm_details={},
        method="lora", protocol="paper", overrides=["width=8"], vary="encode", steps=2, warm_up=1, passes=1,
        variants=list(variants), created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


def rows_of(text: str) -> list[list[str]]:
    """Cells of the Markdown table in `text`, header first, its rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def test_an_epoch_is_all_its_batches_and_all_its_steps() -> None:
    one = variant("cached")
    assert one.steps == [7, 13]
    # per batch 3 and 6 seconds, five batches; three optimiser steps of one second
    assert one.epochs == [5 * 3 + 3, 5 * 6 + 3]


def test_the_table_shows_medians_and_leaves_out_what_is_not_measurable() -> None:
    header, row = rows_of(show(record_of(variant("cached"))))
    shown = dict(zip(header, row, strict=True))
    assert shown == {
        "encode": "cached", "data ms": "1,500", "forward ms": "3,000", "backward ms": "4,500",
        "optimiser ms": "1,000", "step ms": "10,000", "least to most": "7,000 to 13,000", "epoch s": "25.5",
        "evaluation s": "0.5", "items a step": "15", "host MiB, before": "1", "host MiB, train": "3",
        "host MiB, eval": "2",
    }  # fmt: skip


def test_a_variant_without_figures_is_a_row_that_says_so() -> None:
    gpu = {"train": PeakMemory(allocated=2**30), "eval": PeakMemory(allocated=2**20)}
    text = show(
        record_of(
            variant("occurrences", "oom", error="CUDA out of memory"),
            variant("unique", "killed", error="the process was killed"),
            variant("cached", peak_memory=gpu, halvings=2, chunk_tokens=64),
        )
    )
    header, oom, killed, cached = rows_of(text)
    assert oom[:2] == ["occurrences", "out of memory"] and not any(oom[2:])
    assert killed[1] == "killed, out of memory?"
    assert cached[header.index("GPU allocated MiB, train")] == "1,024"
    assert "occurrences: out of memory: CUDA out of memory" in text
    assert "cached: out of memory; chunks were halved 2 times, to 64 tokens." in text
    assert len(rows_of(show(record_of(variant("unique", "oom", error="x"))))) == 2


def test_counts_are_said_once_or_where_they_differ() -> None:
    same = show(record_of(variant("unique"), variant("cached")))
    assert same.count("2 steps of 2 batches timed, 1 before; an epoch has 1,000 predictions, 5 batches") == 1
    differ = show(record_of(variant("unique"), variant("cached", batches_per_epoch=1, steps_per_epoch=1)))
    assert "unique: 2 steps" in differ and "cached: 2 steps" in differ and "1 batch, 1 step." in differ


@pytest.mark.parametrize("encode", ["occurrences", "unique", "cached"])
def test_a_step_is_all_its_batches(folder: Path, tmp_path: Path, encode: str) -> None:
    cell = cell_of(folder, f"encode={encode}")
    done = time_cell(cell, blank(cell), Plan(steps=2, warm_up=1, passes=2))
    assert done.status == "ok"
    trainer, _ = build_trainer(resolve_cell(cell), Checkpoint(tmp_path))
    task = trainer.task
    batches = EpochBatches(task.train, task.sequences, trainer.settings, 0, 1)
    assert done.batches_per_epoch == len(batches)
    assert done.steps_per_epoch == -(-len(batches) // 3)
    assert done.predictions_per_epoch == 12 * 3  # 6 interactions, the last two held out
    further = EpochBatches(task.train, task.sequences, trainer.settings, 0, 2)
    sizes = [len(batch.share.items) for batch in islice((*batches, *further), 9)]
    assert done.encoded == [sum(sizes[3:6]), sum(sizes[6:9])]  # the first step warms up
    assert [len(done.seconds[phase]) for phase in PHASES] == [2] * 4
    assert all(seconds > 0 for phase in PHASES for seconds in done.seconds[phase])
    assert len(done.evaluation) == 2
    assert done.environment is not None and done.environment.precision == "no"
    assert done.peak_memory["train"].allocated is None
    assert done.peak_memory["train"].host is None or done.host_before <= done.peak_memory["train"].host


def test_an_optimiser_step_is_taken_once_for_its_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("forward", "optimise"):
        original: Callable[..., Any] = getattr(Trainer, name)

        def noted(*arguments: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            called.append(name)
            return original(*arguments)

        monkeypatch.setattr(Trainer, name, noted)
    cell = cell_of(folder)
    time_cell(cell, blank(cell), Plan(steps=1, warm_up=1, passes=1))
    assert called == ["forward", "forward", "forward", "optimise"] * 2


def test_out_of_memory_is_a_status_and_halves_chunks_where_that_helps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Trainer.forward
    failing: list[type[Exception]] = [torch.OutOfMemoryError]

    def short(*arguments: Any) -> Any:
        if failing:
            raise failing.pop()("no\nroom")
        return forward(*arguments)

    monkeypatch.setattr(Trainer, "forward", short)
    cell = cell_of(folder, "encode=unique")
    done = time_cell(cell, blank(cell), ONE)
    assert (done.status, done.error) == ("oom", "no room")
    failing[:] = [ShortOfMemoryError]
    cell = cell_of(folder, "encode=cached", "chunk_tokens=64")
    done = time_cell(cell, blank(cell), ONE)
    assert (done.status, done.halvings, done.chunk_tokens) == ("ok", 1, 32)


def test_others_are_timed_where_one_is_killed_or_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fresh(call: Callable[..., Any], first: Any, *rest: Any) -> Any:
        if call is not time_cell or "encode=occurrences" in first.overrides:
            raise BrokenProcessPool("gone")
        if "encode=unique" in first.overrides:
            raise RuntimeError("a fault")
        return variant("cached")

    monkeypatch.setattr(speed_module, "fresh", fresh)
    record = speed(cell_of(folder), ("encode", ["occurrences", "unique", "cached"]), ONE)
    assert [one.status for one in record.variants] == ["killed", "failed", "ok"]
    assert record.variants[0].settings["encode"] == "occurrences"
    assert record.variants[1].error == "RuntimeError: a fault"
    assert "Traceback" in capfd.readouterr().err
    assert str(folder) not in record.model_dump_json()  # a place says nothing to another machine
    assert "--vary encode=occurrences,unique,cached" in record.command


SPEED = ["speed", "--dataset", "tiny", "--llm", "random-tiny", "--method", "lora"]
MISTAKES: list[tuple[list[str], list[str]]] = [
    (["speed"], ["--method", "--show"]),
    ([*SPEED, "--show", "x.json"], ["--show", "--method"]),
    (["speed", "--show", "x.json"], ["x.json", "No such file"]),
    (["speed", "--show", "x.json", "--set", "width=8"], ["--show", "--set"]),
    ([*SPEED, "--vary", "encode"], ["--vary", "'encode'"]),
    ([*SPEED, "--vary", "encode="], ["--vary", "at least one"]),
    ([*SPEED, "--vary", "encdoe=unique"], ["--vary", "'encdoe'", "Did you mean 'encode'?"]),
    ([*SPEED, "--vary", "encode=unique,chached"], ["--vary", "'chached'", "Did you mean 'cached'?"]),
    ([*SPEED, "--vary", "chunk_tokens=64,many"], ["--vary", "chunk_tokens=many"]),
    ([*SPEED, "--vary", "rank=8,0"], ["--vary", "rank=0"]),
    ([*SPEED, "--vary", "width=8,7"], ["width=7", "sasrec_heads"]),
    ([*SPEED, "--vary", "encode=unique", "--set", "encode=cached"], ["--vary", "--set", "'encode'"]),
    ([*SPEED, "--dataset", "tinny"], ["'tinny'", "Did you mean 'tiny'?"]),
    ([*SPEED, "--steps", "0"], ["--steps", "--warm-up"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=lambda value: " ".join(value[-2:]))
def test_a_mistake_is_one_line_before_anything_is_timed(
    arguments: list[str],
    named: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed_module, "fresh", lambda *_: pytest.fail("timed"))
    assert main(arguments) == 2
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("adaptrec: error: ") and all(name in line for name in named), line
    assert not told.out and not list(tmp_path.iterdir())


def test_what_only_building_finds_is_found_before_anything_is_timed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nonsense"):
        speed(cell_of(folder), ("targets", ["query", "nonsense"]), ONE, tmp_path / "deep" / "x.json")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_found_before_anything_is_timed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        speed_module, "fresh", lambda call, *_: pytest.fail("timed") if call is time_cell else None
    )
    with pytest.raises(UserError, match="is a folder"):
        speed(cell_of(folder), None, ONE, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        speed(cell_of(folder), None, ONE, tmp_path / "file" / "x.json")


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json is not a speed record") as caught:
        read_speed(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_the_command_times_each_value_and_its_record_gives_the_table_again(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "x.json"
    words = ["speed", "--dataset", str(folder), "--method", "id", "--set", *SMALL, "--vary", "window=2,5"]
    assert main([*words, "--steps", "1", "--warm-up", "0", "--passes", "1", "--json", str(file)]) == 0
    told = capfd.readouterr()
    header, two, five = rows_of(told.out)
    assert (header[0], two[0], five[0]) == ("window", "2", "5")
    assert "Warning" not in told.err and "[2/2]" in told.err
    assert main(["speed", "--show", str(file)]) == 0
    assert capfd.readouterr().out == told.out
    saved = json.loads(file.read_text())
    assert [one["settings"]["window"] for one in saved["variants"]] == [2, 5]
    assert [len(one["seconds"]["forward"]) for one in saved["variants"]] == [1, 1]


def test_tables_in_the_docs_are_those_of_their_records() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs" / "costs.md").read_text(encoding="utf-8")
    for part in page.split("\n<!-- table: ")[1:]:
        name, _, after = part.partition(" -->\n")
        file = root / "results" / "speed" / f"{name}.json"
        if file.exists():
            assert after.lstrip("\n").startswith(show(read_speed(file))), (
                f"docs/costs.md: {name} is out of date"
            )
