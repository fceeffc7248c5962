"""Dense layers behind the pooling: for methods that read the last layer's vector, and for these alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_folders import make_folder
from safetensors.torch import save_file
from served_runs import serve
from test_llm_intended import TEXTS, states_its_use
from torch import Tensor

from benchmark.llm.catalogue import resolve
from benchmark.llm.dense import behind_dense
from benchmark.llm.intended import Intended, intended
from benchmark.llm.states import load_states
from benchmark.run.inputs import load_inputs, pooled_states
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.serve.model import load_model
from methods.errors import UserError

CPU = torch.device("cpu")
WIDE = 24
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def with_dense(folder: Path, *widths: int, activation: str = "torch.nn.modules.activation.Tanh") -> list[Any]:
    """A folder of sentence-transformers, such as EmbeddingGemma's: -> its layers, as (weight, bias)."""
    make_folder(folder)
    states_its_use(folder, parts=(*("Dense" for _ in widths), "Normalize"))
    torch.manual_seed(4)
    layers, inputs = [], 16
    for number, width in enumerate(widths):
        place = folder / f"{2 + number}_Dense"
        place.mkdir()
        layer = {"linear.weight": torch.randn(width, inputs) / 4, "linear.bias": torch.randn(width)}
        save_file(layer, place / "model.safetensors")
        stated = {"in_features": inputs, "out_features": width, "bias": True}
        (place / "config.json").write_text(json.dumps({**stated, "activation_function": activation}))
        layers.append(tuple(layer.values()))
        inputs = width
    return layers


def by_hand(x: Tensor, layers: list[Any]) -> Tensor:
    for weight, bias in layers:
        x = torch.tanh(x @ weight.T + bias)
    return x


@DTYPES
def test_they_are_what_a_reader_of_the_top_layer_gets(tmp_path: Path, folder: Path, dtype: str) -> None:
    layers = with_dense(tmp_path / "m", 32, WIDE)
    llm = resolve(str(tmp_path / "m"))
    found = load_states(TEXTS, llm, [3], "auto", dtype, tmp_path / "cache")
    values = behind_dense(found, llm).values
    torch.testing.assert_close(values, by_hand(found.values.float() + found.mean, layers))
    run = resolve_run(RunSpec(str(folder), str(tmp_path / "m"), "tmlp", overrides=(f"states_dtype={dtype}",)))
    inputs = load_inputs(run, CPU)
    assert run.reads_dense and inputs.context["llm_width"] == WIDE
    assert inputs.context["state_mean"].shape == (1, WIDE)
    control = resolve_run(RunSpec(str(folder), str(tmp_path / "m"), "text-knn"))
    assert control.llm is not None
    assert pooled_states(control, control.llm, CPU).values.shape[-1] == WIDE


@pytest.mark.parametrize("method", ["ssna", "lora"])
def test_who_reads_several_layers_or_tokens_gets_the_states(
    tmp_path: Path, folder: Path, method: str
) -> None:
    with_dense(tmp_path / "m", WIDE)
    run = resolve_run(RunSpec(str(folder), str(tmp_path / "m"), method, overrides=("init=standardised",)))
    assert not run.reads_dense and load_inputs(run, CPU).context["llm_width"] == 16


@DTYPES
def test_a_run_its_record_and_new_items(tmp_path: Path, dtype: str) -> None:
    with_dense(tmp_path / "m", WIDE)
    served = serve(tmp_path, "tmlp", f"states_dtype={dtype}", llm=str(tmp_path / "m"))
    details: Any = served.record.llm_details
    assert details["pooling"] == "mean"
    assert details["dense_applied"] is True and details["intended"]["dense"][0]["width"] == WIDE
    model = load_model(served.folder, CPU)
    found = model.embed(model.texts[:4], str(tmp_path / "m"))
    method = model.recommender.method
    torch.testing.assert_close(found, method.embeddings[method.row][:4], rtol=1e-4, atol=2e-5)


def test_what_they_are_enters_the_details_of_the_model(tmp_path: Path) -> None:
    with_dense(tmp_path / "m", WIDE)
    llm = resolve(str(tmp_path / "m"))
    assert llm.intended is not None and llm.intended.left_out == ("Normalize",)
    before = llm.details()["intended"]["dense"]  # type: ignore[index]
    weights = tmp_path / "m" / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.ones(WIDE, 16)}, weights)
    changed = resolve(str(tmp_path / "m"))
    assert changed.details()["intended"]["dense"] != before  # type: ignore[index]
    make_folder(tmp_path / "plain")
    states_its_use(tmp_path / "plain")
    assert "dense" not in resolve(str(tmp_path / "plain")).details()["intended"]  # type: ignore[operator]


def test_a_part_in_front_of_a_dense_layer_leaves_all_of_them_out(tmp_path: Path) -> None:
    with_dense(tmp_path / "m", WIDE)
    modules = json.loads((tmp_path / "m" / "modules.json").read_text())
    modules[2], modules[3] = modules[3], modules[2]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    assert intended(tmp_path / "m") == Intended("mean", left_out=("Normalize", "Dense"))


def test_faults_are_one_line(tmp_path: Path) -> None:
    with_dense(tmp_path / "a", WIDE, activation="torch.nn.modules.activation.Softplus")
    with pytest.raises(UserError, match="the activation 'Softplus' of which AdaptRec has Identity, Tanh"):
        resolve(str(tmp_path / "a"))
    with_dense(tmp_path / "b", WIDE)
    save_file({"linear.weight": torch.ones(WIDE, 5)}, tmp_path / "b" / "2_Dense" / "model.safetensors")
    llm = resolve(str(tmp_path / "b"))
    found = load_states(TEXTS, llm, [3], "auto", "float32", tmp_path / "cache")
    with pytest.raises(UserError, match=r"holds \{'weight': \(24, 5\)\}; expected are"):
        behind_dense(found, llm)
