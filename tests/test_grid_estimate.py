"""What a dry run says that a plan will cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_folders import BLINK
from report_records import record as make_record
from report_records import write_at

from benchmark.cli import main
from benchmark.config import Settings
from benchmark.grid import dryrun
from benchmark.grid import estimate as estimating
from benchmark.grid import probe as probing
from benchmark.grid.estimate import epoch_range, estimate, from_probe
from benchmark.grid.plan import GridPlan, make_plan
from benchmark.grid.probe import StoredStates, random_states, random_token_states, states_of
from benchmark.llm.states import load_states
from benchmark.llm.token_states import load_token_states
from benchmark.llm.tokens import load_tokens
from benchmark.results.schema import PeakMemory
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed import run as speed_run
from benchmark.speed.record import Timed, Variant
from benchmark.train.checkpoint import Checkpoint


def cell(folder: Path, method: str = "id", seed: int = 0) -> RunSpec:
    return RunSpec(str(folder), "random-tiny", method, "paper", seed)


def variant(status: str = "ok", step: float = 0.4) -> Variant:
    """A warm-up, two steps, the second twice as long, of ten in an epoch; a second of evaluation."""
    return Variant(
        value="", status=status, error=None if status == "ok" else "too much",
        settings={"accumulation": 1}, hyperparameters={}, batches_per_epoch=10, steps_per_epoch=10,
        step=Timed(seconds=[36.0, step, 2 * step]), batches=[1, 1, 1], evaluation=Timed(seconds=[1.0]),
        peak_memory={"train": PeakMemory(host=700, reserved=90), "eval": PeakMemory(host=800)},
    )  # fmt: skip


def test_figures_of_a_probe() -> None:
    found = from_probe(variant(), 7.0)
    assert found.epoch == pytest.approx((4.0, 8.0))
    assert (found.evaluation, found.host, found.gpu) == ((1.0, 1.0), 800, 90)
    # start, ten epochs each with a validation pass, the pass before training, the test
    assert found.seconds((10, 20)) == pytest.approx((7 + 10 * 5 + 2, 7 + 20 * 9 + 2))
    assert found.seconds((10, 20), done=15) == pytest.approx((7 + 2, 7 + 5 * 9 + 2))
    assert from_probe(variant("oom"), 1.0).failed == "out of memory: too much"


@pytest.mark.parametrize(
    ("epochs", "patience", "own", "other", "expected"),
    [
        (200, 10, [], [], (11, 200)),
        (4, 10, [], [], (4, 4)),
        (200, 0, [], [], (200, 200)),
        (200, 10, [], [40, 60], (20, 120)),
        (200, 10, [], [12, 150], (11, 200)),
        (200, 10, [32], [150], (23, 45)),
    ],
)
def test_how_many_epochs(
    epochs: int, patience: int, own: list[int], other: list[int], expected: tuple[int, int]
) -> None:
    settings = Settings(epochs=epochs, patience=patience)
    runs = [[make_record(epochs_run=count) for count in counts] for counts in (own, other)]
    assert epoch_range(settings, *runs) == expected


def test_records_are_used_where_there_are_some_and_only_the_rest_is_probed(
    folder: Path, tmp_path: Path
) -> None:
    probed: list[str] = []

    def probe(resolved: ResolvedRun) -> tuple[Variant, float]:
        probed.append(resolved.spec.method)
        return variant(), 5.0

    seeds = [resolve_run(cell(folder, seed=seed)) for seed in range(3)]
    first = seeds[0]
    write_at(first.record_path(tmp_path), seconds=2.0, epochs_run=30)
    half = seeds[1].record_path(tmp_path).with_suffix(".checkpoint")
    progress = {"epoch": 20, "best_epoch": 20}
    Checkpoint(half, seeds[1].identity).save({"progress": progress}, 20, {})
    before = sorted(tmp_path.rglob("*"))
    found = estimate(GridPlan((*seeds, resolve_run(cell(folder, "tmlp")))), tmp_path, False, probe)
    assert sorted(tmp_path.rglob("*")) == before, "the store stays as it is"
    assert probed == ["tmlp"]
    row, other = found.rows
    assert list(row.states.values()) == ["finished", "to resume", "to do"]
    assert row.figures.source == "records" and row.figures.epoch == (2.0, 2.0)
    low, high = row.epochs
    one = 2.0 + 0.4  # an epoch, its validation and checkpoint, as in the record
    spent = 2 * 15 + 4 * 0.4
    assert row.seconds == pytest.approx(
        (spent + (low - 20) * one + low * one, spent + (high - 20) * one + high * one)
    )
    assert row.about == pytest.approx(2 * spent + 10 * one + 30 * one - 2 * (spent - 15 - 2 * 0.4))
    assert other.figures.source == "probe"
    assert other.about == other.figures.about(30), (
        "another method of the same data and protocol has 30 epochs"
    )
    assert found.about == pytest.approx(row.about + other.about)
    assert found.seconds[1] == pytest.approx(row.seconds[1] + other.seconds[1])
    fresh = estimate(GridPlan(tuple(seeds)), tmp_path, True, probe)
    assert fresh.count("to do") == 3


def test_what_follows_a_search_may_be_any_of_its_trials(folder: Path, tmp_path: Path) -> None:
    plan = make_plan([cell(folder, "tmlp", seed) for seed in (0, 1, 2)], "grid")
    steps = iter(range(1, 100))
    found = estimate(plan, tmp_path, False, lambda _: (variant(step=0.1 * next(steps)), 5.0))
    ((search, (low, high)),) = found.then
    assert search.seeds == (1, 2)
    assert low == pytest.approx(2 * min(row.seconds[0] for row in found.rows))
    assert high == pytest.approx(2 * max(row.seconds[1] for row in found.rows))
    assert found.about is None, "no record says how many epochs a run has"


def test_what_follows_a_search_is_about_the_mean_of_its_trials(folder: Path, tmp_path: Path) -> None:
    plan = make_plan([cell(folder, "tmlp", seed) for seed in (0, 1, 2)], "grid")
    write_at(resolve_run(cell(folder, "id")).record_path(tmp_path), epochs_run=30)
    steps = iter(range(1, 100))
    found = estimate(plan, tmp_path, False, lambda _: (variant(step=0.1 * next(steps)), 5.0))
    each = [row.about for row in found.rows]
    assert all(each) and found.about == pytest.approx(sum(each) + 2 * sum(each) / len(each))


def test_stand_ins_have_the_shapes_of_what_they_stand_for(folder: Path, tmp_path: Path) -> None:
    resolved = resolve_run(cell(folder, "tmlp"))
    llm, texts = resolved.llm, resolved.prepared.texts
    assert llm is not None
    for dtype in ("float32", "bfloat16"):
        real = load_states(texts, llm, [2, 1], "first", dtype, tmp_path)
        fake = random_states(texts, llm, [2, 1], "first", dtype, tmp_path)
        for name in ("values", "mean"):
            a, b = getattr(real, name), getattr(fake, name)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    tokens = load_tokens(texts, llm)
    kept, made = (
        load(tokens, llm, 1, "float32", tmp_path) for load in (load_token_states, random_token_states)
    )
    items = torch.tensor([3, 0])
    for a, b in zip(kept.hidden_batch(items, 8), made.hidden_batch(items, 8), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_states_that_a_plan_needs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path))
    cells = [cell(folder, "tmlp"), cell(folder, "full"), cell(folder)]
    pooled, lower = states_of(cells)
    llm = resolve_run(cells[0]).llm
    assert llm is not None and not pooled.cached and not lower.cached
    layers = llm.n_layers + 1  # of so small a catalogue a pass keeps them all
    assert pooled.size == layers * 10 * llm.width * 4, "ten items in fp32"
    tokens = load_tokens(resolve_run(cells[0]).prepared.texts, llm)
    assert lower.size == len(tokens.ids) * llm.width * 4
    assert 0 < pooled.seconds[0] <= pooled.seconds[1]
    assert not list(tmp_path.glob("states/*")), "nothing is computed"
    load_states(resolve_run(cells[0]).prepared.texts, llm, [llm.n_layers], "auto", "float32", tmp_path)
    pooled, lower = states_of(cells)
    assert pooled.cached and pooled.seconds == (0, 0) and not lower.cached
    assert states_of(cells[2:]) == [], "ids need none"


def dry(folder: Path, results: Path, *more: str) -> int:
    return main(
        ["bench", "--datasets", str(folder), "--llms", "random-tiny", "--methods", "id,tmlp",
         "--seeds", "0,1", "--results", str(results), "--set", *BLINK, *more, "--dry-run"]
    )  # fmt: skip


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dryrun, estimating):
        monkeypatch.setattr(module, "visible_gpus", lambda: [])
    for room in (probing, speed_run):  # tests of `speed` have the fresh processes
        monkeypatch.setattr(room, "in_fresh_process", lambda call, *arguments: call(*arguments))
    assert dry(folder, tmp_path / "results", "--epochs", "3") == 0
    output = capfd.readouterr().out
    assert not (tmp_path / "results").exists()
    for words in (
        "| configuration", "random-tiny tmlp paper", "probe",
        "hidden states of random-tiny, layers [",
        "4 runs: 0 finished, 0 to resume, 4 to do", "free in", "Early stopping decides",
    ):  # fmt: skip
        assert words in output


def test_a_dry_run_ends_with_1_where_memory_or_disk_will_not_do(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"id": variant("killed"), "tmlp": variant()}
    answers["tmlp"].peak_memory["train"].host = 2**60
    monkeypatch.setattr(dryrun, "probe_training", lambda resolved: (answers[resolved.spec.method], 1.0))
    monkeypatch.setattr(dryrun, "probe_states", lambda _: [StoredStates("states", False, 2**60, (1.0, 2.0))])
    assert dry(folder, tmp_path / "results", "--jobs", "2", "--tune", "grid") == 1
    output = capfd.readouterr()
    assert "then: " in output.out and "the best of" in output.out
    shortages = [line for line in output.err.splitlines() if line.startswith("adaptrec: ")]
    for word in ("cannot run: killed, out of memory?", "set ADAPTREC_CACHE", "give fewer --jobs"):
        assert sum(word in line for line in shortages) == 1
    assert len(shortages) == 3


def test_a_dry_run_knows_the_memory_of_a_container(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = variant()
    known.peak_memory["train"].host = 2**30
    monkeypatch.setattr(dryrun, "probe_training", lambda resolved: (known, 1.0))
    monkeypatch.setattr(dryrun, "probe_states", lambda _: [])
    monkeypatch.setattr(dryrun, "available_memory", lambda: 1.5 * 2**30)
    assert dry(folder, tmp_path / "results", "--jobs", "2") == 1
    assert "2 processes at a time want 2.00 GiB of memory; 1.50 GiB are available" in capfd.readouterr().err
    assert dry(folder, tmp_path / "results") == 0
