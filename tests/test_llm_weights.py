"""Weights in memory: shards, 16 bits as they are stored, whether there is room, 8 and 4 bits.

Here is no GPU: of bitsandbytes it is tested what transformers is asked for, not what comes of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_folders import make_folder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, BitsAndBytesConfig

from benchmark.llm import encoder, weights
from benchmark.llm.catalogue import LLM, resolve
from benchmark.llm.states import entry_of, hidden_states
from benchmark.llm.tokens import load_tokens
from benchmark.model.items import ItemInputs
from benchmark.run.build import build_method
from benchmark.run.inputs import Inputs
from benchmark.run.spec import RunSpec, resolve_run
from methods.base import Items
from methods.errors import UserError

TEXTS = ["steel ruler 30 cm", "glue", "a rather long title, about nothing in particular; blue"]
GPU = torch.device("cuda", 0)


def states(model: nn.Module, llm: LLM) -> Sequence[Tensor]:
    tokens = load_tokens(TEXTS, llm)
    with torch.inference_mode():
        return hidden_states(model, *tokens.batch(torch.arange(len(TEXTS)), int(tokens.lengths.max())))


def size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def in_shards(folder: Path) -> list[Path]:
    """Split the weights of a folder into three files, as large checkpoints are."""
    whole = load_file(folder / "model.safetensors")
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    place = {name: names[number % 3] for number, name in enumerate(sorted(whole))}
    for file in names:
        save_file(
            {name: whole[name] for name in whole if place[name] == file}, folder / file, {"format": "pt"}
        )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    (folder / "model.safetensors").unlink()
    return [folder / name for name in names]


def test_a_checkpoint_in_shards(tmp_path: Path) -> None:
    whole = resolve(str(make_folder(tmp_path / "whole", "qwen3")))
    shards = in_shards(make_folder(tmp_path / "shards", "qwen3"))
    llm = resolve(str(tmp_path / "shards"))
    expected = states(encoder.load_frozen(whole), whole)
    assert all(map(torch.equal, states(encoder.load_frozen(llm), llm), expected))
    assert weights.read_stored(llm).parameters == weights.read_stored(whole).parameters
    changed = load_file(shards[2])
    save_file({name: tensor + 1 for name, tensor in changed.items()}, shards[2], {"format": "pt"})
    assert resolve(str(tmp_path / "shards")).digest != llm.digest
    shards[1].unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00003.safetensors, which .*index.json names"):
        resolve(str(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("kind", "stored"),
    [(kind, torch.bfloat16) for kind in ("modernbert", "mpnet", "llama", "qwen3")]
    + [(kind, torch.float16) for kind in ("bert", "deberta-v2")],
)
def test_sixteen_bits_give_what_the_same_numbers_give_in_float32(
    tmp_path: Path, kind: str, stored: torch.dtype
) -> None:
    folder = make_folder(tmp_path / kind, kind)
    low = {name: tensor.to(stored) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(low, folder / "model.safetensors", {"format": "pt"})
    llm = resolve(str(folder))
    frozen, full = encoder.load_frozen(llm), encoder.load_model(llm)
    assert all(map(torch.equal, states(frozen, llm), states(full, llm)))
    held = {
        p.dtype for m in frozen.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)
    }
    assert held == {stored} and {p.dtype for p in full.parameters()} == {torch.float32}
    linear = sum(m.weight.nbytes for m in full.modules() if isinstance(m, nn.Linear))
    assert size(frozen) <= size(full) - linear / 2


def test_constants_that_would_be_rounded(tmp_path: Path) -> None:
    """Gemma scales its embeddings by a constant of the precision in which it is loaded."""
    folder = make_folder(tmp_path / "m", "gemma3_text")
    low = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(low, folder / "model.safetensors", {"format": "pt"})
    llm = resolve(str(folder))
    frozen = encoder.load_frozen(llm)
    assert all(map(torch.equal, states(frozen, llm), states(encoder.load_model(llm), llm)))


def test_a_checkpoint_in_float32_stays_so(tmp_path: Path) -> None:
    llm = resolve(str(make_folder(tmp_path / "m", "llama")))
    assert {p.dtype for p in encoder.load_frozen(llm).parameters()} == {torch.float32}


def test_a_model_larger_than_memory_is_one_line_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = resolve(str(make_folder(tmp_path / "m")))
    count = weights.read_stored(llm).parameters
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    monkeypatch.setattr(weights, "available_memory", lambda: 4.0 * count - 1)
    for load in (encoder.load_model, encoder.load_frozen):
        with pytest.raises(UserError, match=r"'m' needs at least .* GiB of the memory of the host are free"):
            load(llm)
    monkeypatch.undo()
    monkeypatch.setattr(weights, "available_memory", lambda: 4.0 * count)
    encoder.load_model(llm)


def test_quantised_without_a_gpu_or_the_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = replace(resolve(str(make_folder(tmp_path / "m", "llama"))), quantize="4bit")
    for load in (encoder.load_model, encoder.load_frozen):
        with pytest.raises(UserError, match=r"^quantize=4bit needs a GPU, and there is none here"):
            load(llm)
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^quantize=4bit needs bitsandbytes: pip install 'adaptrec\[quant"):
        encoder.load_frozen(llm, GPU)
    with pytest.raises(UserError, match="is for weights from files"):
        encoder.load_frozen(replace(resolve("random-tiny"), quantize="8bit"))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_what_transformers_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: Any) -> None:
    """A stand-in for `from_pretrained` gives a model that is not quantised."""
    plain = resolve(str(make_folder(tmp_path / "m", "llama")))
    llm, asked = replace(plain, quantize=bits), dict[str, Any]()
    model = encoder.load_model(plain)

    def stand_in(folder: str, **options: Any) -> Any:
        asked.update(options)
        return model, {"missing_keys": []}

    monkeypatch.setattr(weights, "find_spec", lambda name: "found")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(AutoModel, "from_pretrained", stand_in)
    assert not any(p.requires_grad for p in encoder.load_model(llm, GPU, torch.bfloat16).parameters())
    config = asked["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig) and asked["device_map"] == {"": GPU}
    assert (config.load_in_8bit, config.load_in_4bit) == (bits == "8bit", bits == "4bit")
    if bits == "4bit":
        assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
        encoder.load_frozen(llm, GPU)
        assert asked["quantization_config"].bnb_4bit_compute_dtype == torch.float32
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000, 2**30))
    with pytest.raises(UserError, match=rf"\({bits}\), and .* memory of the GPU are free"):
        encoder.load_model(llm, GPU)


def test_quantised_states_have_a_cache_entry_and_runs_a_hash_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    llm = resolve("random-tiny")
    entries = {
        entry_of(TEXTS, replace(llm, quantize=bits), "auto", "float32", tmp_path).folder
        for bits in ("none", "8bit", "4bit")
    }
    assert len(entries) == 3 and "quantize" not in llm.details()
    for method in ("tmlp", "text-knn"):
        runs = [
            resolve_run(RunSpec(str(folder), "random-tiny", method, overrides=pairs))
            for pairs in ((), ("quantize=none",), ("quantize=4bit",))
        ]
        hashes = [run.config_hash for run in runs]
        assert hashes[0] == hashes[1] != hashes[2]


def test_a_method_that_trains_quantised_weights_is_one_line(folder: Path) -> None:
    run = resolve_run(RunSpec(str(folder), "random-tiny", "full", overrides=("quantize=4bit",)))
    model: Any = encoder.load_model(resolve("random-tiny"))
    for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
        linear.weight = nn.Parameter(linear.weight.to(torch.uint8), requires_grad=False)
    context = {"llm_layers": 3, "llm_width": 32, "llm": model, "pooling": "first"}
    inputs = Inputs(ItemInputs(lambda items, _: Items(ids=items)), context)
    with pytest.raises(
        UserError, match="'full' trains weights of the language model itself, which quantize=4"
    ):
        build_method(run, inputs, 10)
