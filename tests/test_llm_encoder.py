"""Tokens, batches by length, pooling, and what a layer's state is."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from llm_folders import SHAPES, make_folder
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

from benchmark.llm import encoder
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.states import hidden_states
from benchmark.llm.tokens import load_tokens, tokenize
from methods.errors import UserError
from methods.pooling import pool

TEXTS = ["steel ruler 30 cm", "glue", "a rather long title, about nothing in particular; blue", "glue stick"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: make_folder(root / kind, kind) for kind in SHAPES}


def test_pool_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 2], [3, 4], [5, 9]], [[7.0, 8], [0, 0], [0, 0]]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert pool(hidden, mask, "first").tolist() == [[1, 2], [7, 8]]
    assert pool(hidden, mask, "last").tolist() == [[5, 9], [7, 8]]
    assert pool(hidden, mask, "mean").tolist() == [[3, 5], [7, 8]]


def test_pooling_names(folders: dict[str, Path]) -> None:
    assert encoder.resolve_pooling("auto", resolve(str(folders["bert"]))) == "first"
    assert encoder.resolve_pooling("auto", resolve(str(folders["llama"]))) == "last"
    assert encoder.resolve_pooling("mean", resolve(str(folders["llama"]))) == "mean"
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        encoder.resolve_pooling("means", resolve(str(folders["bert"])))


@pytest.mark.parametrize("budget", [20, 1])
def test_length_batches(budget: int) -> None:
    lengths = [5, 9, 2, 2, 7, 40, 3, 9, 1]
    batches = encoder.length_batches(lengths, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    flat = [lengths[row] for rows in batches for row in rows]
    assert flat == sorted(lengths, reverse=True)
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


def test_little_padding() -> None:
    lengths = torch.randint(5, 200, (5000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = encoder.length_batches(lengths, 4096)
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches)
    assert padded < 1.02 * sum(lengths)


def test_cut_texts_keep_their_last_token_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = encoder.load_tokenizer(resolve("random-tiny"))
    with caplog.at_level(logging.WARNING):
        ids = tokenize(tokenizer, ["ab " * 50, "ab", "x" * 100_000], 10)
    assert [len(row) for row in ids] == [10, 3, 3]  # one word of 100,000 letters is one unknown token
    assert ids[0][-1] == tokenizer.sep_token_id
    assert "1 of 3 texts were cut at 10 tokens" in caplog.text


def test_a_text_without_tokens_is_an_error(folders: dict[str, Path]) -> None:
    tokenizer = encoder.load_tokenizer(resolve(str(folders["gpt2"])))
    tokenizer.backend_tokenizer.post_processor = None  # a tokenizer that adds no special tokens
    with pytest.raises(UserError, match="item text 2 has no tokens"):
        tokenize(tokenizer, ["ab", ""], 10)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_a_batch_gives_what_single_texts_give(folders: dict[str, Path], kind: str) -> None:
    llm = resolve(str(folders[kind]))
    model, tokenizer = encoder.load_model(llm), encoder.load_tokenizer(llm)
    assert not model.training
    assert not any("pooler" in name or "lm_head" in name for name, _ in model.named_parameters())
    tokens = load_tokens(TEXTS, llm)
    with torch.inference_mode():
        batch = hidden_states(model, *tokens.batch(torch.arange(len(TEXTS)), int(max(tokens.lengths))))
        for row, text in enumerate(TEXTS):
            plain = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            # The top layer is the model's output: after the final norm where there is one.
            for layer, expected in [*enumerate(plain.hidden_states), (3, plain.last_hidden_state)]:
                states = batch[layer][row, : tokens.lengths[row]]
                torch.testing.assert_close(states, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_weights_are_those_of_the_file(folders: dict[str, Path], kind: str) -> None:
    stored = load_file(folders[kind] / "model.safetensors")
    for name, weight in encoder.load_model(resolve(str(folders[kind]))).state_dict().items():
        made = [stored[key] for key in stored if key == name or key.endswith("." + name)]
        assert len(made) == 1 and torch.equal(made[0], weight), name


@pytest.mark.parametrize("kind", list(SHAPES))
def test_a_fresh_model_is_ready_to_be_trained_in_chunks(folders: dict[str, Path], kind: str) -> None:
    """All weights fp32 and trainable; a chunk run again gives the gradients of one run, dropout and all."""
    llm = resolve(str(folders[kind]))
    model, tokens = encoder.load_model(llm), load_tokens(TEXTS, llm)
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
    ids, mask = tokens.batch(torch.arange(len(TEXTS) + 1), int(tokens.lengths.max()))
    pooling = encoder.resolve_pooling("auto", llm)

    def embed(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, pooling)

    def gradients(again: bool) -> list[torch.Tensor | None]:
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            out = checkpoint(embed, ids, mask, use_reentrant=False) if again else embed(ids, mask)
        out.float().square().sum().backward()
        return [weight.grad for weight in model.parameters()]

    model.train()
    for once, twice in zip(gradients(False), gradients(True), strict=True):
        assert once is not None and twice is not None and torch.equal(once, twice)


def test_missing_weights_are_never_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "layer.1.attention" in name)
    save_file({name: w for name, w in weights.items() if name != dropped}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 are missing or of another shape, .*layer\.1\.attention"):
        encoder.load_model(resolve(str(folder)))


def test_weights_of_another_shape(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(UserError, match=r"cannot be loaded|do not fit"):
        encoder.load_model(resolve(str(folder)))


def test_random_weights_depend_on_their_seed_alone() -> None:
    llm = resolve("random-tiny")
    torch.manual_seed(1)
    first = encoder.load_model(llm).state_dict()
    before = torch.random.get_rng_state()
    second = encoder.load_model(llm).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(llm, LLM) and llm.family == "encoder"
    tokens = load_tokens(TEXTS, llm)
    with torch.inference_mode():
        ids, mask = tokens.batch(torch.arange(len(TEXTS)), int(max(tokens.lengths)))
        states = hidden_states(encoder.load_model(llm), ids, mask)[2][:, 0]
    assert states.std(0).mean() > 0.1  # texts differ
