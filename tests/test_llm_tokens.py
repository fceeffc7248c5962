"""The catalogue as tokens: what each item's are, and batches of them without a word to the host."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_folders import make_folder

from benchmark.llm import encoder, tokens
from benchmark.llm.catalogue import resolve
from benchmark.llm.tokens import TokenStatistics, load_tokens
from methods.errors import UserError

TEXTS = ["big saw", "saw", "a rather long title, about nothing in particular; blue", "saw", "glue"]
EMPTY = len(TEXTS)


@pytest.mark.parametrize("order", [[0, 3, 2, EMPTY, 4, 1], [EMPTY], [1, 1, 3]])
def test_a_batch_is_what_the_tokenizer_pads(order: list[int]) -> None:
    llm = resolve("random-tiny")
    read = load_tokens(TEXTS, llm)
    plain = encoder.load_tokenizer(llm)(
        [[*TEXTS, ""][item] for item in order], padding=True, return_tensors="pt"
    )
    ids, mask = read.batch(torch.tensor(order), int(read.lengths[order].max()))
    assert ids.dtype == mask.dtype == torch.int64
    assert torch.equal(ids, plain["input_ids"]) and torch.equal(mask, plain["attention_mask"])
    wide, wide_mask = read.batch(torch.tensor(order), 40)
    assert wide.shape == (len(order), 40) and torch.equal(wide[:, : ids.shape[1]], ids)
    assert (wide[:, ids.shape[1] :] == read.pad_id).all() and torch.equal(wide_mask.sum(1), mask.sum(1))


def test_what_is_held() -> None:
    read = load_tokens(TEXTS, resolve("random-tiny"))
    assert read.empty == EMPTY and read.ids.dtype == torch.int32 and read.start.dtype == torch.int64
    assert read.lengths.tolist() == read.length.tolist() and len(read.start) == len(TEXTS) + 1
    assert read.lengths[EMPTY] == 2  # its two special tokens
    # Equal texts lie in one place; all together are the row, the longest first.
    assert read.start[1] == read.start[3] and len(set(read.start.tolist())) == 5
    assert len(read.ids) == read.distinct.sum() == read.lengths[[0, 1, 2, 4, EMPTY]].sum()
    assert read.distinct.tolist() == sorted(read.distinct.tolist(), reverse=True)
    begins = np.cumsum(read.distinct) - read.distinct
    assert set(begins.tolist()) == set(read.start.tolist())


def test_batches_need_nothing_from_the_host() -> None:
    """On torch's `meta` device, whose tensors have no values, reading one would raise."""
    read = load_tokens(TEXTS, resolve("random-tiny")).to("meta")
    ids, mask = read.batch(torch.arange(3, device="meta"), 7)
    assert ids.shape == mask.shape == (3, 7) and ids.device.type == mask.device.type == "meta"


def test_a_catalogue_that_has_the_empty_text() -> None:
    read = load_tokens(["", "saw"], resolve("random-tiny"))
    assert read.start[0] == read.start[2] and len(read.distinct) == 2


@pytest.mark.parametrize("special", [True, False])
def test_the_empty_text_where_there_are_no_special_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: bool
) -> None:
    llm = resolve(str(make_folder(tmp_path / "gpt2", "gpt2")))
    tokenizer = encoder.load_tokenizer(llm)
    if not special:
        tokenizer.backend_tokenizer.post_processor = None
        monkeypatch.setattr(encoder, "load_tokenizer", lambda _: tokenizer)
    read = load_tokens(["saw"], llm)
    ids, mask = read.batch(torch.tensor([1]), int(read.lengths[1]))
    assert mask.all()
    assert ids.tolist() == [tokenizer("")["input_ids"] if special else [tokenizer.pad_token_id]]


def test_cut_like_every_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read = load_tokens(TEXTS, replace(resolve("random-tiny"), max_tokens=5))
    assert read.lengths.max() == 5 and "texts were cut at 5 tokens" in caplog.text


def test_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_tokens(TEXTS, resolve("random-tiny"))
    monkeypatch.setattr(tokens, "BLOCK", 2)
    parts = load_tokens(TEXTS, resolve("random-tiny"))
    assert torch.equal(whole.ids, parts.ids) and torch.equal(whole.start, parts.start)


def test_texts_with_equal_tokens() -> None:
    """Seven items, five texts: two of one text, two that are cut to one, two that are unknown."""
    llm = replace(resolve("random-tiny"), max_tokens=5)  # [CLS] and [SEP] are two of them
    texts = ["a", "a", "b", "c c c d", "c c c e", "\u1200\u1208", "\u1210\u1218"]
    read = load_tokens(texts, llm)
    assert read.statistics == TokenStatistics(
        token_sequences=4, items_with_equal_tokens=6, items_collapsed=4, unknown_tokens=2 / 10
    )
    line = read.statistics.warning(7, "random-tiny", 5)
    assert line is not None and "4 of 7 items (57.1%)" in line and "20.0% of all tokens are unknown" in line
    clear = load_tokens(["a", "a", "b"], llm).statistics
    assert (clear.items_with_equal_tokens, clear.items_collapsed, clear.unknown_tokens) == (2, 0, 0)
    assert clear.warning(3, "random-tiny", 5) is None


def test_what_special_tokens_hide_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer whose closing token is also its unknown one, as GPT-2's are."""
    llm = resolve(str(make_folder(tmp_path / "bert")))
    tokenizer = encoder.load_tokenizer(llm)
    tokenizer.unk_token = tokenizer.sep_token
    monkeypatch.setattr(encoder, "load_tokenizer", lambda _: tokenizer)
    assert load_tokens(["saw", "glue"], llm).statistics.unknown_tokens == 0


def test_a_token_without_a_row_in_the_embedding(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert")
    tokenizer = encoder.load_tokenizer(resolve(str(folder)))
    tokenizer.add_special_tokens({"pad_token": "[NEW PAD]"})  # id 1500 of 1500 rows, as is done to decoders
    tokenizer.add_tokens(["saw"])
    tokenizer.save_pretrained(folder)
    llm = resolve(str(folder))
    assert load_tokens(["glue", "nail"], llm).pad_id == 0  # padding is masked, whatever stands there
    with pytest.raises(
        UserError, match=r"gives token id 1501, and its embedding has 1500 rows \(0 to 1499\)"
    ):
        load_tokens(["glue", "saw"], llm)


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no item texts"):
        load_tokens([], resolve("random-tiny"))
    llm = resolve(str(make_folder(tmp_path / "gpt2", "gpt2")))
    tokenizer = encoder.load_tokenizer(llm)
    tokenizer.backend_tokenizer.post_processor = None
    monkeypatch.setattr(encoder, "load_tokenizer", lambda _: tokenizer)
    monkeypatch.setattr(tokens, "BLOCK", 2)
    with pytest.raises(UserError, match="item text 3 has no tokens"):
        load_tokens(["saw", "glue", ""], llm)
