"""`speed`: what is counted, a fresh process a variant, mistakes before anything is timed, the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_folders import write_folder

from benchmark.cli import main
from benchmark.model.parallel import ShortOfMemoryError
from benchmark.model.recommender import Recommender
from benchmark.results.measures import several
from benchmark.results.schema import PeakMemory
from benchmark.run.build import build_trainer
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.speed import run as speed_module
from benchmark.speed.measure import PRODUCT_SIZE, Amounts
from benchmark.speed.record import (
    EVALUATION_PARTS,
    STEP_PARTS,
    Counted,
    Counts,
    MatrixRate,
    SpeedRecord,
    Timed,
    Variant,
    read_speed,
)
from benchmark.speed.run import measure_speed, time_run
from benchmark.speed.tables import brief, check_comparable, compare, show
from benchmark.train.batches import EpochBatches
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

ITEMS = "abcdefghij"
USERS = {f"u{n}": " ".join(ITEMS[(n * 3 + step) % 10] for step in range(6)) for n in range(12)}
SMALL = ("precision=no", "width=8", "sasrec_inner=8", "batch_size=6", "accumulation=3")
ONE = Amounts(steps=1, warm_up=0, passes=1)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRODUCT_SIZE, "cpu", 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("data") / "small", USERS, {item: f"thing {item}" for item in ITEMS}
    )


def spec_of(folder: Path, *more: str, method: str = "lora") -> RunSpec:
    return RunSpec(str(folder), "random-tiny", method, overrides=(*SMALL, *more))


def blank(spec: RunSpec) -> Variant:
    settings = vars(resolve_run(spec).settings)
    return Variant(value="", status="failed", settings=settings, hyperparameters={})


def timed(*seconds: float) -> Timed:
    """Where a CPU second takes two on the wall."""
    return Timed(seconds=list(seconds), cpu_seconds=[time / 2 for time in seconds])


def variant(value: str, status: Any = "ok", **figures: Any) -> Variant:
    """Two steps of two batches, of 6 and 12 seconds by their parts; an epoch has five batches."""
    known = {
        "settings": {"accumulation": 2}, "hyperparameters": {}, "batches_per_epoch": 5, "steps_per_epoch": 3,
        "predictions_per_epoch": 1000, "encoded": [10, 20], "evaluation": timed(0.5), "host_before": 2**20,
        "step": timed(6, 12), "batches": [2, 2],
        "parts": {
            "data": timed(1, 2), "encode forward": timed(1, 2), "loss forward": timed(0.5, 1),
            "encode again": timed(1, 2), "encode backward": timed(2, 4), "optimiser": timed(0.5, 1),
        },
        "evaluation_parts": {"encode": timed(0.4), "rank": timed(0.1)},
        "counted": Counted(
            steps=1, batches=4,
            parts={
                "encode forward": Counts(flops=2 * 10**12, operators=30),
                "loss forward": Counts(host_copies=4),
            },
        ),
        "counted_evaluation": Counted(parts={"encode": Counts(flops=10**11)}),
        "matrix_rate": MatrixRate(dtype="no", size=10**4, before=timed(2, 2), after=timed(2, 3)),
        "peak_memory": {"train": PeakMemory(host=3 * 2**20), "eval": PeakMemory(host=2 * 2**20)},
    }  # fmt: skip
    return Variant(value=value, status=status, **{**known, **figures})


def record_of(*variants: Variant) -> SpeedRecord:
    return SpeedRecord(
        command="python -m benchmark speed", dataset="small", data_key="k", llm="random-tiny", llm_details={},
        method="lora", protocol="paper", overrides=["width=8"], vary="encode", steps=2, warm_up=1, passes=1,
        variants=list(variants), created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


def tables_of(text: str) -> list[dict[str, list[str]]]:
    """The Markdown tables in `text`: first cell of each row -> the others; the header's is its own."""
    tables: list[dict[str, list[str]]] = []
    begun = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            begun = False
        elif not begun:
            begun = True
            tables.append({cells[0]: cells[1:]})
        elif not cells[0].startswith(":-"):
            tables[-1][cells[0]] = cells[1:]
    return tables


def test_an_epoch_is_all_its_batches_or_was_measured_whole() -> None:
    assert variant("cached").epochs == timed(6 * 5 / 2, 12 * 5 / 2)
    assert variant("cached", batches=[2, 3]).epochs.seconds == [15, 20]
    assert variant("cached", epoch=timed(7)).epochs == timed(7)


def test_figures_are_medians_and_what_is_not_measurable_is_left_out() -> None:
    figures, parts = tables_of(show(record_of(variant("cached"))))
    assert {name: cells[0] for name, cells in figures.items()} == {
        "encode": "cached", "data, ms": "1,500", "forward, ms": "2,250", "backward, ms": "4,500",
        "optimiser, ms": "750", "step, ms": "9,000", "step, least to most, ms": "6,000 to 12,000",
        "step, CPU ms": "4,500", "items a step": "15", "epoch, s": "22.5", "epoch, CPU s": "11.2",
        "predictions a second": "44.4", "evaluation, s": "0.5", "evaluation, CPU s": "0.25",
        # 2e12 in four batches, five an epoch; 2e12 in two seconds (one CPU second) is the machine's rate
        "GFLOP an epoch": "2,500", "matrix rate before and after, GFLOP/s": "1,000 and 800",
        "the same, GFLOP/CPU s": "2,000 and 1,600", "epoch, % of matrix rate": "11.1",
        "epoch, the same by CPU s": "11.1", "operators a step": "15", "copies to the host a step": "2",
        "bytes to the host a step": "0", "host MiB, before": "1", "host MiB, train": "3",
        "host MiB, eval": "2",
    }  # fmt: skip
    assert parts["encode forward"] == ["1,500", "16.7", "750", "1,000", "", "66.7", "66.7", "15", "0"]
    assert parts["loss forward"][3:] == ["", "", "", "", "0", "2"]
    assert parts["a step, by part"][:2] == ["9,000", "100"]
    assert parts["encode"][3:6] == ["100", "", "25"]
    assert parts["a validation pass"][0] == "500"
    assert "sasrec forward" not in parts


def test_what_is_multiplied_in_fp32_is_measured_by_the_rate_of_fp32() -> None:
    """1e12 a second in 16 bits, .25e12 in fp32: .75e12 + .25e12 take .75 + 1 seconds."""
    counted = Counted(batches=5, parts={"loss forward": Counts(flops=10**12, flops_fp32=25 * 10**10)})
    fp32 = MatrixRate(dtype="no", size=10**4, before=timed(8), after=timed(8))
    mixed = variant("cached", counted=counted, epoch=timed(7), fp32_rate=fp32)
    figures, parts = tables_of(show(record_of(mixed)))
    assert figures["epoch, % of matrix rate"] == figures["epoch, the same by CPU s"] == ["25"]
    assert figures["fp32 matrix rate before and after, GFLOP/s"] == ["250 and 250"]
    # two of the five batches in .75 seconds
    assert parts["loss forward"][3:6] == ["400", "100", "93.3"]


def test_a_variant_without_figures_is_a_row_with_its_status() -> None:
    gpu = {"train": PeakMemory(allocated=2**30), "eval": PeakMemory(allocated=2**20)}
    text = show(
        record_of(
            variant("occurrences", "oom", error="CUDA out of memory"),
            variant("unique", "killed", error="the process was killed"),
            variant("cached", peak_memory=gpu, halvings=2, chunk_tokens=64),
        )
    )
    figures = tables_of(text)[0]
    assert figures[""] == ["out of memory", "killed, out of memory?", ""]
    assert [cells[:2] for cells in figures.values()][2:] == [["", ""]] * (len(figures) - 2)
    assert figures["GPU allocated MiB, train"] == ["", "", "1,024"]
    assert "occurrences: out of memory: CUDA out of memory" in text
    assert "cached: out of memory; chunks were halved 2 times, to 64 tokens." in text
    assert tables_of(show(record_of(variant("unique", "oom", error="x")))) == [
        {"encode": ["unique"], "": ["out of memory"]}
    ]


def test_counts_are_printed_once_or_where_they_differ() -> None:
    assert (several(1, "epoch"), several(2, "epoch"), several(2, "batch"), several(2, "history")) == (
        "1 epoch", "2 epochs", "2 batches", "2 histories",
    )  # fmt: skip
    same = show(record_of(variant("unique"), variant("cached")))
    assert same.count("2 steps of 2 batches timed, 1 before; an epoch has 1,000 predictions, 5 batches") == 1
    differ = show(record_of(variant("unique"), variant("cached", batches_per_epoch=1, steps_per_epoch=1)))
    assert "unique: 2 steps" in differ and "cached: 2 steps" in differ and "1 batch, 1 step." in differ


@pytest.mark.parametrize("encode", ["occurrences", "unique", "cached"])
def test_a_step_is_all_its_batches(folder: Path, tmp_path: Path, encode: str) -> None:
    spec = spec_of(folder, f"encode={encode}", "chunk_tokens=16")
    done = time_run(spec, blank(spec), Amounts(steps=2, warm_up=1, passes=2))
    assert done.status == "ok"
    trainer, _ = build_trainer(resolve_run(spec), Checkpoint(tmp_path))
    task = trainer.task
    batches = EpochBatches(task.train, task.sequences, trainer.settings, 0, 1)
    assert done.batches_per_epoch == len(batches)
    assert done.steps_per_epoch == -(-len(batches) // 3)
    assert done.predictions_per_epoch == 12 * 3  # 6 interactions, the last two held out
    further = EpochBatches(task.train, task.sequences, trainer.settings, 0, 2)
    taken = []
    for tables in ([batch.share.items for batch in epoch] for epoch in (batches, further)):
        steps = [np.concatenate(tables[begin : begin + 3]) for begin in range(0, len(tables), 3)]
        taken += [len(step if encode == "occurrences" else np.unique(step)) for step in steps]
    # the first step warms up, every other one has clocks inside
    assert done.encoded == [taken[1], taken[3]]
    assert done.batches == [3 if len(batches) >= 6 else len(batches) - 3, 3]
    assert len(done.step.seconds) == len(done.step.cpu_seconds) == 2
    assert set(done.parts) == set(STEP_PARTS)
    assert all(len(part.seconds) == len(part.cpu_seconds) == 2 for part in done.parts.values())
    assert any(done.parts["encode again"].seconds) == (encode == "cached")
    assert all(min(part.seconds) > 0 for name, part in done.parts.items() if name != "encode again")
    assert set(done.evaluation_parts) == set(EVALUATION_PARTS) and len(done.evaluation.seconds) == 2
    assert done.counted is not None and done.counted.steps == 2 and not done.counted.not_counted
    assert done.environment is not None and done.environment.precision == "no"
    assert done.peak_memory["train"].allocated is None
    assert done.peak_memory["train"].host is None or done.host_before <= done.peak_memory["train"].host


def test_an_optimiser_step_is_taken_once_for_its_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for owner, name in ((Recommender, "forward"), (torch.optim.AdamW, "step")):
        original: Callable[..., Any] = getattr(owner, name)

        def noted(*arguments: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            called.append(name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)
    spec = spec_of(folder)
    time_run(spec, blank(spec), Amounts(steps=1, warm_up=1, passes=1, detail=False))
    assert (called.count("forward"), called.count("step")) == (2, 2)
    called.clear()
    spec = spec_of(folder, "encode=occurrences")
    time_run(spec, blank(spec), Amounts(steps=1, warm_up=1, passes=1, detail=False))
    assert (called.count("forward"), called.count("step")) == (6, 2)


def test_out_of_memory_is_a_status_and_halves_chunks_where_that_helps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Recommender.forward
    failing: list[type[Exception]] = [torch.OutOfMemoryError]

    def short(*arguments: Any) -> Any:
        if failing:
            raise failing.pop()("no\nroom")
        return forward(*arguments)

    monkeypatch.setattr(Recommender, "forward", short)
    spec = spec_of(folder, "encode=unique")
    done = time_run(spec, blank(spec), ONE)
    assert (done.status, done.error) == ("oom", "no room")
    failing[:] = [ShortOfMemoryError]
    spec = spec_of(folder, "encode=cached", "chunk_tokens=64")
    done = time_run(spec, blank(spec), ONE)
    assert (done.status, done.halvings, done.chunk_tokens) == ("ok", 1, 32)


def test_others_are_timed_where_one_is_killed_or_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fresh(call: Callable[..., Any], first: Any, *rest: Any) -> Any:
        if call is not time_run or "encode=occurrences" in first.overrides:
            raise BrokenProcessPool("gone")
        if "encode=unique" in first.overrides:
            raise RuntimeError("a fault")
        return variant("cached")

    monkeypatch.setattr(speed_module, "in_fresh_process", fresh)
    record = measure_speed(spec_of(folder), ("encode", ["occurrences", "unique", "cached"]), ONE)
    assert [variant.status for variant in record.variants] == ["killed", "failed", "ok"]
    assert record.variants[0].settings["encode"] == "occurrences"
    assert record.variants[1].error == "RuntimeError: a fault"
    assert "Traceback" in capfd.readouterr().err
    assert str(folder) not in record.model_dump_json()  # a place says nothing to another machine
    assert "--vary encode=occurrences,unique,cached" in record.command


SPEED = ["speed", "--dataset", "tiny", "--llm", "random-tiny", "--method", "lora"]
MISTAKES: list[tuple[list[str], list[str]]] = [
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
    ([*SPEED, "--against", "x.json"], ["x.json", "No such file"]),
    ([*SPEED, "--write"], ["--write", "--guard"]),
    ([*SPEED, "--brief"], ["--brief", "--show"]),
    (["speed", "--guard", "x.json", "--set", "width=8"], ["--guard", "--set"]),
    (["speed", "--guard", "x.json"], ["x.json", "No such file"]),
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
    monkeypatch.setattr(speed_module, "in_fresh_process", lambda *_: pytest.fail("timed"))
    assert main(arguments) == 2
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("adaptrec: error: ") and all(name in line for name in named), line
    assert not output.out and not list(tmp_path.iterdir())


def test_what_only_building_finds_is_found_before_anything_is_timed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="nonsense"):
        measure_speed(spec_of(folder), ("targets", ["query", "nonsense"]), ONE, tmp_path / "deep" / "x.json")
    assert not list(tmp_path.iterdir())
    assert "Warning" not in capfd.readouterr().err  # of the process that built it


def test_a_file_that_cannot_be_written_is_found_before_anything_is_timed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        speed_module, "in_fresh_process", lambda call, *_: pytest.fail("timed") if call is time_run else None
    )
    with pytest.raises(UserError, match="is a folder"):
        measure_speed(spec_of(folder), None, ONE, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        measure_speed(spec_of(folder), None, ONE, tmp_path / "file" / "x.json")


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json is not a speed record") as caught:
        read_speed(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_the_command_times_each_value_and_its_record_gives_the_table_again(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_module, "in_fresh_process", lambda call, *arguments: call(*arguments))
    file = tmp_path / "results" / "x.json"
    words = ["speed", "--dataset", str(folder), "--method", "id", "--set", *SMALL, "--vary", "window=2,5"]
    assert main([*words, "--steps", "1", "--warm-up", "0", "--passes", "1", "--json", str(file)]) == 0
    output = capfd.readouterr()
    assert tables_of(output.out)[0]["window"] == ["2", "5"]
    assert output.out.count("Parts, window=") == 2
    assert "[2/2]" in output.err
    assert main(["speed", "--show", str(file)]) == 0
    assert capfd.readouterr().out == output.out
    assert main(["speed", "--show", str(file), "--against", str(file)]) == 0
    figures = [table for table in tables_of(capfd.readouterr().out) if "then" in next(iter(table.values()))]
    assert [next(iter(table)) for table in figures] == ["window=2", "window=5"]
    assert {cells[-1] for table in figures for cells in list(table.values())[1:]} == {"1"}
    saved = json.loads(file.read_text())
    assert [variant["settings"]["window"] for variant in saved["variants"]] == [2, 5]
    assert [len(variant["step"]["seconds"]) for variant in saved["variants"]] == [1, 1]


def test_a_line_a_variant() -> None:
    lines = brief([record_of(variant("cached")), record_of(variant("unique", "oom", error="x"))]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][5] == "width=8 encode=cached" and cells[3][5] == "width=8 encode=unique"
    assert cells[2][6:14] == ["22.5", "11.2", "44.4", "0.5", "2,500", "11.1", "11.1", "3"]
    assert cells[3][6:8] == ["out of memory", "n/a"]


def test_ratios_to_an_earlier_record_are_of_the_same_variant() -> None:
    then = record_of(variant("unique"), variant("cached"), variant("occurrences", "oom", error="no room"))
    faster = variant("cached", step=timed(3, 6), encoded=[10, 10], halvings=1)
    now = record_of(faster, variant("occurrences"))
    file = Path("results/old.json")
    output = compare(now, then, file)
    assert output.startswith("Against old.json: lora on small")
    (table,) = tables_of(output)
    assert table["encode=cached"] == ["then", "now", "now / then"]
    assert table["step, ms"] == ["9,000", "4,500", "0.5"]
    assert table["epoch, s"] == ["22.5", "11.2", "0.5"]
    assert table["encode again, ms"] == ["1,500", "1,500", "1"]
    assert table["items a step"][2] == "0.667"
    assert "encode=occurrences: no ratio, one of the two did not end well: no room" in output
    assert "Measured only once: unique." in output
    assert table["epoch, % of matrix rate"] == ["11.1", "22.2", "2"]
    fp32 = MatrixRate(dtype="no", size=10**4, before=timed(8), after=timed(8))
    output = compare(record_of(variant("cached", fp32_rate=fp32)), then, file)
    assert "epoch, s" in output and "% of matrix rate" not in output, "shares of unlike rates"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data_key": "other"}, "prepared data is k there and other here"),
        ({"method": "full"}, "method is lora there"),
        ({"steps": 3}, "--steps is 2 there and 3 here"),
        ({"vary": None}, "varied setting is encode there and None here"),
        ({"llm_details": {"digest": "ab" * 32}}, "language model is random-tiny (None) there"),
        ({"variants": [variant("unique")]}, "it has encode = cached"),
        (
            {"variants": [variant("cached", settings={"accumulation": 1})]},
            "accumulation is 2 there and 1 here",
        ),
        ({"variants": [variant("cached", hyperparameters={"rank": 2})]}, "rank is 8 there and 2 here"),
    ],
)
def test_what_measured_something_else_is_refused_in_one_line(changes: dict[str, Any], named: str) -> None:
    then = record_of(variant("cached", hyperparameters={"rank": 8}))
    with pytest.raises(UserError, match=r"x\.json") as caught:
        check_comparable(then.model_copy(update=changes), then, Path("x.json"))
    assert named in str(caught.value) and "\n" not in str(caught.value)
    # a choice that there was not yet is no difference
    newer = variant("cached", settings={"accumulation": 2, "new": "x"}, hyperparameters={"rank": 8})
    check_comparable(record_of(newer), then, Path("x.json"))
