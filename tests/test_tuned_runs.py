"""Whole runs of methods that train the language model: records, certificates, resuming, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folders import write_folder
from forked import ended, fork_pair

from benchmark.cli import main
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import iter_runs
from benchmark.run.build import build_trainer, make_accelerator
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train import loop
from benchmark.train.checkpoint import Checkpoint
from methods.errors import UserError

ITEMS = "abcdefghijkl"
USERS = {f"u{n}": " ".join(ITEMS[(n * 5 + step) % 12] for step in range(6)) for n in range(16)}
SMALL = ("precision=no", "width=8", "sasrec_inner=8", "learning_rate=0.01", "epochs=3")
SILENT = ("dropout=0", "llm_dropout=False", "sasrec_dropout=0")
"""No random numbers but the starting weights: those of dropout depend on the number of processes."""
TUNED = ("lora", "adalora", "full", "peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("data") / "small", USERS, {item: f"thing {item} {item * 3}" for item in ITEMS}
    )


def cell(folder: Path, method: str, *more: str, protocol: str = "fair") -> RunSpec:
    return RunSpec(str(folder), "random-tiny", method, protocol, overrides=(*SMALL, *more))


def command(folder: Path, method: str, results: Path, *more: str, protocol: str = "fair") -> list[str]:
    return [
        "run", "--dataset", str(folder), "--llm", "random-tiny", "--method", method, "--protocol", protocol,
        "--results", str(results), "--set", *SMALL, *more,
    ]  # fmt: skip


def bench(folder: Path, methods: str) -> list[str]:
    return ["bench", "--datasets", str(folder), "--llms", "random-tiny", "--methods", methods]


def run(folder: Path, method: str, results: Path, *more: str, protocol: str = "fair") -> RunRecord:
    assert main(command(folder, method, results, *more, protocol=protocol)) == 0
    return read_record(resolve_run(cell(folder, method, *more, protocol=protocol)).record_path(results))


def test_before_training_tokens_are_worth_what_states_are(folder: Path) -> None:
    """An adapter that has not been trained on tokens is one linear layer on states: the same function by
    design, in front of the same SASRec, and so the same ranks."""
    ranks = []
    for method, own in (("lora", ()), ("adalora", ()), ("tmlp", ("mlp_layers=1", "states_dtype=float32"))):
        overrides = ("precision=no", "width=8", "sasrec_inner=8", *own)
        spec = RunSpec(str(folder), "random-tiny", method, "fair", overrides=overrides)
        made, _ = build_trainer(resolve_run(spec), Checkpoint(folder / "none.checkpoint"))
        ranks.append(made.rank_users(made.task.test))
    first, *others = ranks
    assert (first.raw.best > 1).any()
    for other in others:
        assert (other.raw.best == first.raw.best).all() and (other.raw.tied == first.raw.tied).all()


@pytest.mark.parametrize(
    ("method", "protocol"),
    [(method, protocol) for method in TUNED for protocol in ("paper", "fair")]
    + [(method, "fair") for method in ("dora", "vera", "ia3", "bitfit", "houlsby")],
)
def test_a_record_proves_that_the_method_adapted(
    folder: Path, tmp_path: Path, method: str, protocol: str
) -> None:
    record = run(folder, method, tmp_path, protocol=protocol)
    proof = record.liveness
    assert proof is not None and proof.problems == []
    assert proof.trainable_tensors == proof.reached == proof.changed
    assert proof.ranks_moved > 0 and proof.frozen_tensors > 5
    assert record.initial["valid"]["recall@10"] >= 0
    assert record.cost.encodings_per_epoch and record.cost.chunk_tokens == 4096
    assert record.cost.trainable_parameters == proof.trainable_parameters
    assert record.cost.candidates is not None
    if protocol == "fair":
        assert record.cost.candidates == pytest.approx(12), "every item, the positive included"
    else:
        assert record.settings["batch_size"] == 32 and record.settings["accumulation"] == 8
    # the lower layers of `full` run once; the others train in every layer
    assert record.cost.lower_layers == (1 if method == "full" else None)
    assert (record.cost.prepare_seconds is None) == (protocol == "paper" and method != "full")


def test_a_reader_of_states_has_no_chunks(folder: Path, tmp_path: Path) -> None:
    record = run(folder, "tmoe", tmp_path)
    assert record.liveness is not None and record.liveness.problems == []
    assert record.cost.encodings_per_epoch is record.cost.chunk_tokens is None


def test_encoding_in_other_ways_changes_the_cost_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    quiet = (*SILENT, "batch_size=8")
    records = {
        encode: run(folder, "lora", tmp_path, *quiet, f"encode={encode}", "chunk_tokens=20", protocol="paper")
        for encode in ("occurrences", "unique", "cached")
    }
    losses = {name: [row.loss for row in record.curve] for name, record in records.items()}
    assert losses["unique"] == pytest.approx(losses["cached"], rel=1e-4)
    assert losses["unique"] == pytest.approx(losses["occurrences"], rel=1e-4)
    encodings = {name: record.cost.encodings_per_epoch or 0 for name, record in records.items()}
    assert encodings["unique"] == encodings["cached"] < encodings["occurrences"] / 4
    assert len({record.config_hash for record in records.values()}) == 3
    assert len({record.protocol_hash for record in records.values()}) == 1, "they may stand in one table"


@pytest.mark.parametrize(("method", "own"), [("full", ()), ("lora", ("top_layers=2", "dropout=0"))])
def test_lower_states_change_the_cost_and_nothing_else(
    folder: Path, tmp_path: Path, method: str, own: tuple[str, ...]
) -> None:
    quiet = ("llm_dropout=False", "sasrec_dropout=0", *own)
    on, off = (run(folder, method, tmp_path, *quiet, f"lower_states={choice}") for choice in ("on", "off"))
    assert (on.cost.lower_layers, off.cost.lower_layers) == (1, None)
    assert [row.loss for row in on.curve] == pytest.approx([row.loss for row in off.curve], rel=1e-4)


def test_prepare_computes_all_that_the_runs_will_read(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    asked = ["prepare", "--dataset", str(folder), "--llm", "random-tiny", "--methods", "lora,full"]
    assert main([*asked, "--protocols", "paper"]) == 0
    output = capfd.readouterr().out
    assert "behind layer 1: computed" in output and "hidden states of random-tiny, layers" not in output
    assert main(asked) == 0
    output = capfd.readouterr().out
    assert "behind layer 1: already there" in output
    assert "small: hidden states of random-tiny, layers [3]: computed" in output, (
        "statistics of the top layer for fair"
    )


@pytest.mark.usefixtures("in_process")
def test_a_setting_that_does_not_fit_the_language_model_is_reported_before_the_first_run(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = bench(folder, "id,lora")
    assert main([*grid, "--results", str(tmp_path), "--set", *SMALL, "targets=querry"]) == 2
    output = capfd.readouterr().err
    assert "'querry'" in output and "Did you mean 'query'?" in output and "Traceback" not in output
    assert "epoch" not in output and not list(tmp_path.rglob("*.json"))


def test_nothing_learned_is_a_failed_run_with_a_reason(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A learning rate so small that no number changes: the run says so instead of reporting a result."""
    more = ("learning_rate=1e-30",)
    overrides = tuple(pair for pair in SMALL if not pair.startswith("learning_rate"))
    arguments = command(folder, "lora", tmp_path)
    arguments = [argument for argument in arguments if not argument.startswith("learning_rate")] + [*more]
    assert main(arguments) == 1
    subject = RunSpec(str(folder), "random-tiny", "lora", "fair", overrides=(*overrides, *more))
    record = read_record(resolve_run(subject).record_path(tmp_path))
    assert record.status == "failed" and record.error and "training did not change" in record.error
    assert record.liveness is not None and record.liveness.problems[0] == record.error
    assert "failed: training did not change" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["lora", "adalora", "full"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(folder, method, tmp_path / "whole")
    real = loop.Trainer.run_epoch

    def stop_in_the_second(self: Any) -> None:
        if self.progress.epoch == 1:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(loop.Trainer, "run_epoch", stop_in_the_second)
    assert main(command(folder, method, tmp_path / "cut")) == 130
    monkeypatch.setattr(loop.Trainer, "run_epoch", real)
    cut = run(folder, method, tmp_path / "cut")
    assert [row.loss for row in cut.curve] == pytest.approx([row.loss for row in whole.curve], rel=1e-5)
    assert cut.metrics == whole.metrics
    assert cut.extra == whole.extra
    assert cut.liveness == whole.liveness


def test_a_checkpoint_holds_no_frozen_weights(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sizes = {}
    save = Checkpoint.save

    def watched(self: Checkpoint, last: dict[str, Any], *rest: Any) -> None:
        sizes.update(
            {name: value.numel() for name, value in last["weights"].items() if torch.is_tensor(value)}
        )
        save(self, last, *rest)

    monkeypatch.setattr(Checkpoint, "save", watched)
    record = run(folder, "lora", tmp_path)
    assert sum(sizes.values()) == record.cost.trainable_parameters
    assert not any("word_embeddings" in name for name in sizes)


def test_the_pool_of_fair_depends_on_the_size_of_the_catalogue(folder: Path) -> None:
    def candidates(*more: str) -> str:
        return resolve_run(cell(folder, "lora", *more)).settings.candidates

    assert candidates() == "catalogue"
    assert candidates("catalogue_limit=12") == "catalogue"
    assert candidates("catalogue_limit=11") == "sampled"
    assert candidates("catalogue_limit=11", "candidates=catalogue") == "catalogue", "who asks for it gets it"


def test_two_machines_run_what_one_runs(folder: Path, tmp_path: Path) -> None:
    """Two nodes of one process each, as multi-node launchers start them."""

    def work() -> None:
        assert main(command(folder, "lora", tmp_path / "two", *SILENT)) == 0

    pair = fork_pair(work, tmp_path / "store", machines=2)
    single = run(folder, "lora", tmp_path / "one", *SILENT)
    assert [ended(process) for process in pair] == [0, 0]
    two = read_record(resolve_run(cell(folder, "lora", *SILENT)).record_path(tmp_path / "two"))
    assert (single.environment.world_size, two.environment.world_size) == (1, 2)
    assert [row.loss for row in two.curve] == pytest.approx([row.loss for row in single.curve], rel=1e-3)
    assert (two.best_epoch, two.metrics) == (single.best_epoch, single.metrics)
    assert two.liveness is not None and two.liveness.problems == []


def test_a_process_that_fails_alone_leaves_a_row_and_ends_the_others(folder: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*run, str(here / "core_fault.py"), *command(folder, "lora", tmp_path)],
        env={**os.environ, "PYTHONPATH": str(here.parent)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    record = read_record(resolve_run(cell(folder, "lora")).record_path(tmp_path))
    assert (record.status, record.error) == ("oom", "CUDA out of memory.")
    assert record.cost.chunk_tokens == 4096 and record.cost.peak_memory


def test_more_processes_than_gpus_is_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    grid = [*bench(folder, "id"), "--results", str(tmp_path)]
    for more, expected in (
        (["--processes", "3"], "2 GPUs"),
        (["--jobs", "3"], "since runs do not share one"),
    ):
        assert main([*grid, *more]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert expected in line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 3 of this machine has no GPU: there are 2"):
        make_accelerator("no")


def test_a_process_makes_runs_of_several_precisions_one_after_another() -> None:
    precisions = ["no", "bf16", "no"]
    assert [make_accelerator(precision).mixed_precision for precision in precisions] == precisions


def test_concurrent_runs_equal_single_ones(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = [*bench(folder, "id"), "--seeds", "0,1", "--protocols", "fair", "--set", *SMALL]
    assert main([*grid, "--results", str(tmp_path / "both"), "--jobs", "2"]) == 0
    assert "2 of 2 runs ended" in capfd.readouterr().err
    alone = run(folder, "id", tmp_path / "alone")
    both = {run.record.seed: run.record for run in iter_runs(tmp_path / "both")}
    losses = {seed: [row.loss for row in record.curve] for seed, record in both.items()}
    assert losses.keys() == {0, 1} and losses[1] != pytest.approx(losses[0], rel=1e-5)
    assert losses[0] == pytest.approx([row.loss for row in alone.curve], rel=1e-5)
    assert both[0].metrics == alone.metrics
