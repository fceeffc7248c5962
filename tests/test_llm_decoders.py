"""Decoders: the last token and padding, tokenizers without a padding token, the end that authors append."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_folders import make_folder

from benchmark.llm import encoder
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.states import entry_of, load_states
from benchmark.llm.tokens import load_tokens
from methods.errors import UserError

TEXTS = ["steel ruler 30 cm", "glue", "a rather long title, about nothing in particular; blue"]


def decoder(folder: Path, kind: str = "llama", plain: bool = True, **stated: Any) -> LLM:
    """A decoder whose tokenizer's configuration is changed by `stated` (None removes an entry); a `plain` one
    adds no special tokens."""
    make_folder(folder, kind)
    files = {name: folder / name for name in ("tokenizer_config.json", "tokenizer.json")}
    config, tokenizer = (json.loads(file.read_text()) for file in files.values())
    changed = {name: value for name, value in (config | stated).items() if value is not None}
    files["tokenizer_config.json"].write_text(json.dumps(changed))
    if plain:
        files["tokenizer.json"].write_text(json.dumps(tokenizer | {"post_processor": None}))
    return resolve(str(folder))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_the_last_token_is_that_of_texts_padded_on_the_left(tmp_path: Path, kind: str) -> None:
    """As the authors of many decoders pad, so that the last position is the last token of every text."""
    llm = decoder(tmp_path / kind, kind, padding_side="left")
    found = load_states(TEXTS, llm, [3, 1], "auto", "float32", tmp_path / "cache")
    tokens, model = load_tokens(TEXTS, llm), encoder.load_model(llm)
    width = int(tokens.lengths.max())
    ids, mask = tokens.batch(torch.arange(len(TEXTS)), width)
    for row, length in enumerate(tokens.lengths[: len(TEXTS)]):
        ids[row], mask[row] = ids[row].roll(width - int(length)), mask[row].roll(width - int(length))
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        states = model(
            input_ids=ids, attention_mask=mask, position_ids=places, output_hidden_states=True
        ).hidden_states
    for axis, layer in enumerate((3, 1)):
        torch.testing.assert_close(found.values[:, axis], states[layer][:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", ["[SEP]", None])
def test_without_a_padding_token_one_that_is_there_serves(tmp_path: Path, end: str | None) -> None:
    padded = decoder(tmp_path / "a", plain=False)
    llm = decoder(tmp_path / "b", plain=False, pad_token=None, eos_token=end)
    tokenizer = encoder.load_tokenizer(llm)
    assert tokenizer.pad_token == (end or "[PAD]") and len(tokenizer) == 1500  # the vocabulary stays
    found, expected = (
        load_states(TEXTS, model, [3], "auto", "float32", tmp_path / "cache") for model in (llm, padded)
    )
    assert found.key != expected.key
    torch.testing.assert_close(found.values, expected.values)


def test_the_end_that_authors_append_is_read_and_kept_by_the_cut(tmp_path: Path) -> None:
    """transformers 5 leaves `add_eos_token` out where there is a tokenizer.json."""
    plain = decoder(tmp_path / "a", eos_token="[SEP]")
    llm = decoder(tmp_path / "b", eos_token="[SEP]", add_eos_token=True, model_max_length=8)
    ends = encoder.load_tokenizer(llm).eos_token_id
    tokens, expected = load_tokens([*TEXTS, ""], llm), load_tokens(TEXTS, plain)
    for item, text in enumerate(TEXTS):
        own = tokens.batch(torch.tensor([item]), int(tokens.lengths[item]))[0][0].tolist()
        bare = expected.batch(torch.tensor([item]), int(expected.lengths[item]))[0][0].tolist()
        assert own == [*bare[:7], ends], text
    assert tokens.lengths[3] == 1 and tokens.statistics.items_with_equal_tokens == 0
    assert llm.details()["append_eos"] is True and "append_eos" not in plain.details()
    same = [entry_of(TEXTS, model, "last", "float32", tmp_path).key for model in (llm, plain)]
    assert "append_eos" in same[0] and "append_eos" not in same[1]


def test_an_end_that_the_tokenizer_adds_itself_is_not_doubled(tmp_path: Path) -> None:
    llm = decoder(tmp_path / "a", plain=False, eos_token="[SEP]", add_eos_token=True)
    assert encoder.load_tokenizer(llm)("ab")["input_ids"].count(3) == 1


def test_an_end_that_is_not_named_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="states add_eos_token and names no eos_token"):
        encoder.load_tokenizer(decoder(tmp_path / "a", add_eos_token=True))
