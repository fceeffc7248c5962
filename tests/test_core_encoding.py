"""How the texts of a step are encoded: once each, in chunks that are run again; or every slot anew."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_worlds import PLAIN, make_world, token_recommender, trainer, with_settings
from torch import Tensor

from benchmark.config import Settings
from benchmark.model.chunks import Ints
from benchmark.model.items import Batch, ItemEncoder
from benchmark.model.recommender import Recommender
from benchmark.train.batches import EpochBatches, Sequences, share_of
from methods.base import Items

WORLD = make_world(4, n_users=9, n_items=13)
CHUNK = 24
"""Tokens: a few texts."""
SUBJECTS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"dropout": 0.3}),
    ("adalora", {"dropout": 0.3}),
    ("full", {"layers": 2}),
    ("full", {"layers": 1, "lower": True}),
]


def first_batch(settings: Settings, data: Sequences | None = None) -> Batch:
    task = WORLD.task(settings)
    return next(iter(EpochBatches(task.train, data or task.sequences, settings, 3, 1)))


def step(model: Recommender, batch: Batch, seed: int = 11) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one training step under its dropout."""
    torch.manual_seed(seed)
    model.train()
    made = model(batch)
    made.objective.backward()
    return float(made.loss_sum), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def agree(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("candidates", ["batch", "catalogue"])
@pytest.mark.parametrize(("method", "hyper"), SUBJECTS)
def test_gradient_caching_is_the_plain_computation(
    method: str, hyper: dict[str, Any], candidates: str
) -> None:
    """With dropout on: what is run again has the same masks."""
    found = {}
    for encode in ("unique", "cached"):
        settings = with_settings(
            encode=encode, chunk_tokens=CHUNK, candidates=candidates, batch_size=30, sasrec_dropout=0.5
        )
        model = token_recommender(settings, WORLD, method, **hyper)
        calls = count_calls(model)
        found[encode] = step(model, first_batch(settings))
        assert len(calls) > (2 if encode == "unique" else 5), "there is more than one chunk"
        other = step(copy.deepcopy(model), first_batch(settings), seed=12)
        assert other[0] != found[encode][0], "dropout is on"
    assert max(float(g.abs().max()) for g in found["unique"][1].values()) > 1e-3
    agree(found["unique"], found["cached"])


def count_calls(model: Recommender) -> list[int]:
    """Sizes of the chunks that the method is run on from now on."""
    calls: list[int] = []
    model.method.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


def test_a_step_encodes_each_item_once_and_a_chunk_keeps_its_budget() -> None:
    settings = with_settings(encode="unique", chunk_tokens=CHUNK, batch_size=40)
    model = token_recommender(settings, WORLD, "lora")
    sizes, read = [], model.encoder.inputs.read

    def watched(items: Tensor, width: int) -> Items:
        sizes.append((len(items), width))
        assert width == max(model.encoder.inputs.lengths[items.numpy()])  # type: ignore[index]
        return read(items, width)

    model.encoder.inputs = replace(model.encoder.inputs, read=watched)
    batch = first_batch(settings)
    model(batch)
    assert sum(size for size, _ in sizes) == len(set(batch.share.items.tolist())) == model.encoder.encoded
    assert all(size * width <= CHUNK or size == 1 for size, width in sizes)


def test_embeddings_come_back_in_the_order_of_the_items() -> None:
    model = token_recommender(with_settings(chunk_tokens=CHUNK), WORLD, "lora").eval()
    items = np.array([7, 2, 2, 11, 0, 5])
    with torch.no_grad():
        together = model.encoder(model.method, share_of(items, 0, 1))
        alone = [model.encoder(model.method, share_of(items[i : i + 1], 0, 1)) for i in range(len(items))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_step_that_one_chunk_could_hold_is_not_run_twice() -> None:
    settings = with_settings(chunk_tokens=4096)
    model = token_recommender(settings, WORLD, "lora")
    calls = count_calls(model)
    step(model, first_batch(settings))
    assert sum(calls) == model.encoder.encoded and model.encoder.encoded_again == 0


@pytest.mark.parametrize("sequences", ["packed", "prefixes"])
@pytest.mark.parametrize("candidates", ["batch", "catalogue"])
def test_every_occurrence_anew_gives_the_same_without_dropout(candidates: str, sequences: str) -> None:
    found = {}
    for encode in ("unique", "occurrences"):
        settings = with_settings(encode=encode, candidates=candidates, sequences=sequences, batch_size=12)
        model = token_recommender(settings, WORLD, "lora", dropout=0.0, llm_dropout=False)
        data = replace(WORLD.sequences, padding=model.encoder.inputs.padding)
        found[encode] = step(model, first_batch(settings, data))
    agree(found["unique"], found["occurrences"])


def short_of_memory(encoder: ItemEncoder, too_large: Callable[[int], bool]) -> None:
    """Let reading a chunk of so many tokens, padding included, fail as a full device does."""
    read = encoder.inputs.read

    def watched(items: Tensor, width: int) -> Items:
        if too_large(len(items) * width):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(items, width)

    encoder.inputs = replace(encoder.inputs, read=watched)


def run(
    folder: Path, chunk: int, too_large: Callable[[int], bool] | None = None
) -> tuple[list[float], ItemEncoder]:
    settings = with_settings(chunk_tokens=chunk, batch_size=16, accumulation=2, epochs=2, learning_rate=0.01)
    model = token_recommender(settings, WORLD, "lora", dropout=0.2)
    if too_large:
        short_of_memory(model.encoder, too_large)
    made, lines = trainer(model, WORLD.task(settings), settings, folder)
    made.fit()
    assert any("out of memory" in line for line in lines) == bool(too_large)
    assert made.progress.chunk_tokens == model.encoder.chunk_tokens
    assert made.progress.halvings == model.encoder.halvings
    return [row.loss for row in made.progress.curve], model.encoder


def test_out_of_memory_halves_the_chunk_and_goes_on(tmp_path: Path) -> None:
    result, encoder = run(tmp_path / "a", 4 * CHUNK, lambda tokens: tokens > CHUNK)
    assert (encoder.chunk_tokens, encoder.halvings) == (CHUNK, 2)
    assert result == run(tmp_path / "b", CHUNK)[0], "as if the chunk had had this size from the start"


def test_out_of_memory_in_the_backward_pass_repeats_the_step(tmp_path: Path) -> None:
    """Where only the graph does not fit: nothing of the broken step may stay in the gradients."""
    backward = torch._C._current_graph_task_id

    def too_large(tokens: int) -> bool:
        return backward() >= 0 and tokens > CHUNK

    result, encoder = run(tmp_path / "a", 4 * CHUNK, too_large)
    assert (encoder.chunk_tokens, encoder.halvings) == (CHUNK, 2)
    assert result == run(tmp_path / "b", CHUNK)[0]


def test_the_smallest_chunk_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, 4 * CHUNK, lambda tokens: True)


@pytest.mark.parametrize(("encode", "once"), [("unique", True), ("cached", True), ("occurrences", False)])
def test_the_batches_of_a_step_share_what_they_encode(tmp_path: Path, encode: str, once: bool) -> None:
    settings = with_settings(encode=encode, batch_size=16, accumulation=2, epochs=1)
    model = token_recommender(settings, WORLD, "lora")
    data = replace(WORLD.sequences, padding=model.encoder.inputs.padding)
    task = replace(WORLD.task(settings), sequences=data)
    batches = list(EpochBatches(task.train, data, settings, 0, 1))
    assert len(batches) > 2
    made, _ = trainer(model, task, settings, tmp_path)
    made.fit()
    steps = [batches[begin : begin + 2] for begin in range(0, len(batches), 2)]
    tables = [np.concatenate([batch.share.items for batch in step]) for step in steps]
    assert model.encoder.encoded == sum(len(np.unique(table)) if once else len(table) for table in tables)


@pytest.mark.parametrize("encode", ["unique", "occurrences"])
def test_what_has_no_chunks_does_not_try_again(tmp_path: Path, encode: str) -> None:
    settings = with_settings(encode=encode)
    model = token_recommender(settings, WORLD, "lora")
    short_of_memory(model.encoder, lambda tokens: torch.is_grad_enabled())
    made, lines = trainer(model, WORLD.task(settings), settings, tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        made.fit()
    assert lines == []


@pytest.mark.parametrize("encode", ["unique", "occurrences"])
def test_evaluation_has_chunks_whatever_training_does(tmp_path: Path, encode: str) -> None:
    settings = with_settings(encode=encode, epochs=1, chunk_tokens=4 * CHUNK)
    model = token_recommender(settings, WORLD, "lora")
    short_of_memory(model.encoder, lambda tokens: not torch.is_grad_enabled() and tokens > CHUNK)
    made, lines = trainer(model, WORLD.task(settings), settings, tmp_path)
    made.fit()
    assert model.encoder.halvings == 2 and len(lines) == 3


def test_want_of_memory_elsewhere_is_not_tried_again(tmp_path: Path) -> None:
    """Smaller chunks would not help SASRec, and whoever tries again alone leaves the others waiting."""
    settings = with_settings()
    model = token_recommender(settings, WORLD, "lora")

    def full(*_: Any) -> None:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.sasrec.register_forward_pre_hook(full)
    made, lines = trainer(model, WORLD.task(settings), settings, tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        made.fit()
    assert lines == [] and model.encoder.halvings == 0


def test_a_failed_attempt_keeps_no_tensors(tmp_path: Path) -> None:
    """What the failed try has built must be gone before the next one, or that fails too."""
    settings = with_settings(chunk_tokens=4 * CHUNK, epochs=1, batch_size=16)
    model = token_recommender(settings, WORLD, "lora")
    seen: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    inner = model.encoder.inputs.read

    def read(items: Tensor, width: int) -> Items:
        if torch._C._current_graph_task_id() >= 0 and len(items) * width > CHUNK:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(items, width)

    model.encoder.inputs = replace(model.encoder.inputs, read=read)
    model.sasrec.register_forward_hook(lambda _, __, output: seen.append(weakref.ref(output)))
    made, _ = trainer(model, WORLD.task(settings), settings, tmp_path)
    made.retry.log = lambda line: alive.extend(ref() is not None for ref in seen)
    made.fit()
    assert alive and not any(alive[: len(seen)])


def test_a_step_that_overflows_is_no_step(tmp_path: Path) -> None:
    """fp16 with a scaler: AdaLoRA must not learn importances from infinite gradients."""
    from accelerate.optimizer import AcceleratedOptimizer

    settings = with_settings(batch_size=16)
    model = token_recommender(settings, WORLD, "adalora")
    made, _ = trainer(model, WORLD.task(settings), settings, tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    made.accelerator.scaler = scaler
    plain = torch.optim.Adam(made.trained, lr=1e-3)
    made.optimiser = AcceleratedOptimizer(plain, scaler=scaler)
    overflows = iter((True, False, True, False))
    made.trained[0].register_hook(lambda grad: torch.full_like(grad, torch.inf) if next(overflows) else grad)
    steps: list[int] = []
    model.method.after_step = steps.append  # type: ignore[assignment, method-assign]
    for _ in range(4):
        made.step([first_batch(settings)])
    made.accelerator.scaler = None
    assert steps == [1, 2] and made.progress.step == 2


def test_a_resumed_run_keeps_the_smaller_chunk(tmp_path: Path) -> None:
    run(tmp_path, 4 * CHUNK, lambda tokens: tokens > CHUNK)
    settings = with_settings(
        chunk_tokens=4 * CHUNK, batch_size=16, accumulation=2, epochs=2, learning_rate=0.01
    )
    model = token_recommender(settings, WORLD, "lora", dropout=0.2)
    made, _ = trainer(model, WORLD.task(settings), settings, tmp_path)
    made.fit()
    assert (model.encoder.chunk_tokens, model.encoder.halvings) == (CHUNK, 2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_sixteen_bit_floats_stay_finite_at_the_papers_temperature(method: str) -> None:
    """fp16 with a scaler: the whole step, thirty times over."""
    settings = replace(PLAIN, temperature=0.07, chunk_tokens=CHUNK, batch_size=30)
    model = token_recommender(settings, WORLD, method)
    scaler = torch.amp.GradScaler("cpu")
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    taken = 0
    for number in range(30):
        with torch.autocast("cpu", torch.float16):
            made = model(first_batch(settings))
        assert torch.isfinite(made.objective)
        scaler.scale(made.objective).backward()
        before = scaler.get_scale()
        scaler.step(optimiser)
        scaler.update()
        taken += scaler.get_scale() >= before
        optimiser.zero_grad()
        assert all(bool(p.isfinite().all()) for p in model.parameters()), number
    assert taken > 15, "most steps are taken: the scale settles"


def test_padding_is_the_empty_text_past_the_catalogue() -> None:
    model = token_recommender(PLAIN, WORLD, "lora")
    lengths: Ints | None = model.encoder.inputs.lengths
    assert lengths is not None
    assert model.encoder.inputs.padding == WORLD.n_items == len(lengths) - 1
    assert lengths[-1] == 2, "[CLS] [SEP]"
