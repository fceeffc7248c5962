"""How texts are cut into chunks, what fits into memory, and 16-bit weights that never train."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_worlds import make_world, token_recommender, trainer, with_settings
from torch import Tensor, nn

from benchmark.llm.encoder import FrozenMatrices, held_in
from benchmark.model import chunks
from benchmark.model.chunks import GraphBytes, length_chunks
from benchmark.model.recommender import Recommender
from benchmark.train.batches import EpochBatches
from benchmark.train.evaluate import evaluate
from methods.base import Items
from methods.kernels.attention import products

WORLD = make_world(4, n_users=9, n_items=13)
CHUNK = 24
"""Tokens: a few texts."""
LARGE = 1e12
"""Bytes of free memory."""


def price(lengths: np.ndarray[Any, Any], made: list[np.ndarray[Any, Any]], cost: int) -> int:
    return sum(len(rows) * int(lengths[rows].max()) + cost for rows in made)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cost", [0, 5, 40])
def test_chunks_have_the_least_padding_that_their_number_is_worth(seed: int, cost: int) -> None:
    """Against all ways to cut the sorted texts, where the budget leaves the choice free."""
    lengths = np.random.default_rng(seed).integers(1, 30, 8)
    made = length_chunks(lengths, 10_000, cost)
    assert sorted(np.concatenate(made)) == list(range(8))
    order = np.argsort(-lengths, kind="stable")
    every = [
        np.split(order, [n + 1 for n in range(7) if cut[n]])
        for cut in itertools.product((False, True), repeat=7)
    ]
    assert price(lengths, made, cost) == min(price(lengths, entry, cost) for entry in every)


@pytest.mark.parametrize("budget", [1, 20, 64])
def test_a_chunk_keeps_its_budget_or_holds_one_text(budget: int) -> None:
    lengths = np.random.default_rng(7).integers(1, 30, 60)
    made = length_chunks(lengths, budget, 16)
    assert sorted(np.concatenate(made)) == list(range(60))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= budget for rows in made)
    longest = [int(lengths[rows].max()) for rows in made]
    assert longest == sorted(longest, reverse=True)


def test_bytes_of_a_graph_are_those_that_it_keeps() -> None:
    linear, x = nn.Linear(3, 5), torch.randn(7, 3)
    graph = GraphBytes(linear)
    with graph:
        linear(x).relu().square().sum()
    assert graph.total == 4 * (7 * 3 + 7 * 5), "the input, and what relu and square share; no weights"


def run(folder: Path, epochs: int, **changes: Any) -> tuple[list[float], Recommender]:
    settings = with_settings(batch_size=16, learning_rate=0.01, epochs=epochs, patience=0, **changes)
    model = token_recommender(settings, WORLD, "lora", dropout=0.2)
    made, _ = trainer(model, WORLD.task(settings), settings, folder)
    made.fit()
    return [row.loss for row in made.progress.curve], model


def small_chunks(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setitem(chunks.MOST_TOKENS, "cpu", CHUNK)
    monkeypatch.setattr(chunks, "free_memory", lambda device: free)


@pytest.fixture(scope="module")
def one_chunk(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Bytes of which the share of a chunk is what `CHUNK` tokens take."""
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch, LARGE)
        _, model = run(tmp_path_factory.mktemp("large"), 1)
    return LARGE * 2.01 * CHUNK / model.encoder.kept_tokens


def test_what_fits_into_memory_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_chunk: float
) -> None:
    found = {}
    for name, free in (("fits", LARGE), ("short", one_chunk), ("none", 1.0)):
        small_chunks(monkeypatch, free)
        found[name] = run(tmp_path / name, 2)
    (kept, roomy), (again, short) = found["fits"], found["short"]
    assert kept == pytest.approx(again, rel=1e-5), "the same masks of dropout, whatever is run again"
    assert roomy.encoder.encoded_again == 0 and roomy.encoder.kept_tokens > 1e6
    assert short.encoder.encoded_again > 0 and short.encoder.kept_tokens == 2 * CHUNK
    assert roomy.encoder.chunk_tokens == short.encoder.chunk_tokens == CHUNK
    tight = found["none"][1].encoder
    assert tight.inputs.lengths is not None
    assert tight.chunk_tokens == tight.inputs.lengths.max() < CHUNK, "nothing less holds one text"
    assert (tight.kept_tokens, tight.encoded_again) == (0, tight.encoded)


def test_shares_of_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "free_memory", lambda device: 8e5)
    assert chunks.room(100.0, torch.device("cpu")) == (2000, 4000)
    assert chunks.room(1.0, torch.device("cpu")) == (chunks.MOST_TOKENS["cpu"], 400_000)
    assert chunks.room(float("inf"), torch.device("cpu")) == (0, 0), "where even measuring did not fit"
    monkeypatch.undo()
    assert 0 < chunks.free_memory(torch.device("cpu")) < 1e15


def test_a_chunk_size_that_is_given_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, LARGE)
    _, model = run(tmp_path, 1, chunk_tokens=30)
    assert (model.encoder.chunk_tokens, model.encoder.kept_tokens) == (30, 0)
    assert model.encoder.encoded_again == model.encoder.encoded


def test_a_run_goes_on_under_other_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_chunk: float
) -> None:
    small_chunks(monkeypatch, LARGE)
    whole, _ = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 1)
    small_chunks(monkeypatch, one_chunk)
    parts, model = run(tmp_path / "parts", 3)
    assert model.encoder.encoded_again > 0
    assert parts == pytest.approx(whole, rel=1e-5)


def test_graphs_that_do_not_fit_after_all_are_given_up_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate was too hopeful: the step is taken again with one chunk's graph at a time."""
    small_chunks(monkeypatch, LARGE)
    settings = with_settings(batch_size=16, epochs=1, learning_rate=0.01)
    model = token_recommender(settings, WORLD, "lora", dropout=0.2)
    embed, kept = model.method.forward, []

    def full(items: Items) -> Tensor:
        if torch.is_grad_enabled() and model.encoder.kept_tokens:
            kept.append(model.encoder.kept_tokens)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embed(items)

    monkeypatch.setattr(model.method, "forward", full)
    made, lines = trainer(model, WORLD.task(settings), settings, tmp_path)
    made.fit()
    assert len(kept) == 1 and sum("out of memory" in line for line in lines) == 1
    assert (model.encoder.kept_tokens, model.encoder.halvings, model.encoder.chunk_tokens) == (0, 0, CHUNK)


@pytest.mark.parametrize(("method", "hyper"), [("lora", {}), ("adalora", {}), ("full", {"layers": 1})])
def test_frozen_matrices_in_16_bits_give_the_numbers_of_autocast(method: str, hyper: dict[str, Any]) -> None:
    """Bit for bit: autocast rounds the same weights, only each time anew."""
    settings, found = with_settings(batch_size=30), []
    task = WORLD.task(settings)
    batch = next(iter(EpochBatches(task.train, task.sequences, settings, 3, 1)))
    for held in (False, True):
        model = token_recommender(settings, WORLD, method, **hyper)
        model.encoder.low = torch.bfloat16
        before = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
        if held:
            model.encoder.frozen = FrozenMatrices(model.method.llm, torch.bfloat16)  # type: ignore[arg-type]
        assert held_in(model) == ("bfloat16" if held else None)
        assert before == {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            objective = model(batch).objective
        objective.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((objective, gradients))
    (one, first), (other, second) = found
    assert torch.equal(one, other) and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("method", "hyper"), [("lora", {}), ("full", {"layers": 1})])
def test_evaluation_is_in_fp32_whatever_training_is_in(method: str, hyper: dict[str, Any]) -> None:
    """The same ranks as those of a model that has never seen 16 bits; and training goes on in 16 bits."""
    task, found = WORLD.task(with_settings()), []
    for low in (None, torch.bfloat16):
        model = token_recommender(with_settings(), WORLD, method, **hyper)
        if low is not None:
            model.encoder.low = low
            model.encoder.frozen = FrozenMatrices(model.method.llm, low)  # type: ignore[arg-type]
        found.append(evaluate(model, task.sequences, task.test, task.history_start, torch.device("cpu")))
        assert (model.encoder.low, held_in(model)) == (low, low and "bfloat16")
    one, other = found
    assert (one.raw.best == other.raw.best).all() and (one.raw.tied == other.raw.tied).all()


def test_embeddings_and_norms_stay_in_32_bits() -> None:
    model = token_recommender(with_settings(), WORLD, "lora")
    FrozenMatrices(model.method.llm, torch.bfloat16)  # type: ignore[arg-type]
    kinds = {type(m): p.dtype for m in model.method.llm.modules() for p in m.parameters(recurse=False)}  # type: ignore[union-attr]
    assert kinds[nn.Embedding] == kinds[nn.LayerNorm] == torch.float32


@pytest.mark.parametrize("grad", [False, True])
def test_attention_by_products_is_attention(grad: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, 5, 4, generator=generator, requires_grad=grad) for _ in range(3))
    mask = (torch.arange(5) < torch.tensor([5, 3, 1])[:, None])[:, None, None].expand(3, 1, 5, 5)
    ours = products(q * 0.5, k, v, mask, 0.0)
    torch.testing.assert_close(ours, nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.5))
    if grad:
        wanted = torch.autograd.grad(
            nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.5).sum(), (q, k, v)
        )
        torch.testing.assert_close(torch.autograd.grad(ours.sum(), (q, k, v)), wanted)


def test_the_language_model_is_what_it_was_before_its_attention_was_replaced() -> None:
    """Padding changes nothing, in training mode without dropout, and the model's own attention agrees."""
    model = token_recommender(with_settings(), WORLD, "lora", dropout=0.0, llm_dropout=False).train()
    llm: Any = model.method.llm
    assert llm.config._attn_implementation == "adaptrec"
    items = torch.arange(WORLD.n_items)
    read = model.encoder.inputs.read(items, 20)
    with torch.autocast("cpu", torch.bfloat16):
        ours = model.method(read)
        llm.base_model.model.set_attn_implementation("sdpa")
        torch.testing.assert_close(ours, model.method(read), rtol=0.03, atol=0.01)
