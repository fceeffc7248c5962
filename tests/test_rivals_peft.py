"""dora, vera, ia3, bitfit and houlsby: against their equations, written into a plain model by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from test_methods_tuned import ITEMS, OUT, AnswersInTuples, build, embed, train
from tiny_llms import INNER, LAYERS, WIDTH, states_behind, tiny_llm
from torch import Tensor, nn

from benchmark.config import parse
from methods import registry
from methods.base import trainable
from methods.errors import UserError

ROWS = ("dora", "vera", "ia3", "bitfit", "houlsby")
HEAD = WIDTH * OUT + OUT


def mean_state(llm: nn.Module) -> Tensor:
    """`[M, D]`, text by text and without padding."""
    assert ITEMS.input_ids is not None and ITEMS.attention_mask is not None
    rows = []
    for ids, mask in zip(ITEMS.input_ids, ITEMS.attention_mask, strict=True):
        with torch.no_grad():
            rows.append(llm(input_ids=ids[: int(mask.sum())][None]).last_hidden_state[0].mean(0))
    return torch.stack(rows)


def learned(method: Any, part: str) -> dict[str, Tensor]:
    """Path of an adapted module -> what has been learned there under the name `part`."""
    found = {}
    for name, value in method.llm.named_parameters():
        if f".{part}" in name:
            found[name.removeprefix("base_model.model.").partition(f".{part}")[0]] = value.detach()
    return found


def assert_same(method: Any, plain: nn.Module) -> None:
    """That `plain`, changed by hand, and the trained linear layer give the method's embeddings."""
    with torch.no_grad():
        expected = method.head(mean_state(plain.eval()))
    torch.testing.assert_close(embed(method), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean_state(plain), mean_state(tiny_llm(plain.config.model_type)), atol=1e-3)  # type: ignore[union-attr, arg-type]


def trained(name: str, family: str = "bert", **values: Any) -> Any:
    method = build(name, tiny_llm(family), "mean", **values)
    train(method, 4)
    return method


def test_dora_scales_the_rows_of_an_update() -> None:
    method, plain = trained("dora", rank=3, alpha=6), tiny_llm("bert")
    down, up = learned(method, "lora_A"), learned(method, "lora_B")
    size = learned(method, "lora_magnitude_vector")
    assert len(size) == 2 * LAYERS
    for path in size:
        weight = plain.get_submodule(path).weight.data
        direction = weight + 6 / 3 * up[path] @ down[path]
        for row in range(WIDTH):
            length = math.sqrt(sum(float(value) ** 2 for value in direction[row]))
            weight[row] = size[path][row] * direction[row] / length
    assert_same(method, plain)
    assert sum(p.numel() for p in trainable(method)) == LAYERS * 2 * (3 * 2 * WIDTH + WIDTH) + HEAD


def test_vera_scales_random_matrices_that_all_share() -> None:
    method, plain = trained("vera", rank=7, targets="query,intermediate.dense"), tiny_llm("bert")
    scale, inner = learned(method, "vera_lambda_b"), learned(method, "vera_lambda_d")
    tuner = method.llm.base_model
    a, b = tuner.vera_A["default"], tuner.vera_B["default"]
    assert tuple(a.shape) == (7, WIDTH) and tuple(b.shape) == (INNER, 7)
    assert len(scale) == 2 * LAYERS
    for path in scale:
        weight = plain.get_submodule(path).weight.data
        weight += torch.diag(scale[path]) @ b[: len(weight)] @ torch.diag(inner[path]) @ a
    assert_same(method, plain)
    assert sum(p.numel() for p in trainable(method)) == LAYERS * (WIDTH + INNER + 2 * 7) + HEAD


def test_veras_matrices_are_of_the_runs_seed() -> None:
    first, again, other = (build("vera", seed=seed).llm.base_model.vera_A["default"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("family", "outputs", "inputs"),
    [("bert", ("key", "value"), ("output.dense",)), ("distilbert", ("k_lin", "v_lin"), ("lin2",)),
     ("llama", ("k_proj", "v_proj"), ("down_proj",))],
)  # fmt: skip
@pytest.mark.parametrize("top", [0, 1])
def test_ia3_scales_outputs_and_what_enters_feed_forward_maps(
    family: str, outputs: tuple[str, ...], inputs: tuple[str, ...], top: int
) -> None:
    method, plain = trained("ia3", family, top_layers=top), tiny_llm(family)
    scales = learned(method, "ia3_l")
    assert len(scales) == (top or LAYERS) * (4 if family == "bert" else 3)
    for path, scale in scales.items():
        module = plain.get_submodule(path)
        if path.endswith(inputs):
            module.weight.data *= scale.reshape(1, -1)
        else:
            assert path.endswith(outputs)
            module.weight.data *= scale.reshape(-1, 1)
            if module.bias is not None:
                module.bias.data *= scale.reshape(-1)
    assert_same(method, plain)


def test_which_maps_of_ia3_are_feed_forward_is_a_setting() -> None:
    llm = tiny_llm("mpnet")
    own: dict[str, Any] = {"targets": "k,v,output.dense", "feedforward": "output.dense"}
    sizes = {len(value.reshape(-1)) for value in learned(build("ia3", llm, **own), "ia3_l").values()}
    assert sizes == {WIDTH, INNER}
    sizes = {
        len(value.reshape(-1))
        for value in learned(build("ia3", llm, targets=own["targets"]), "ia3_l").values()
    }
    assert sizes == {WIDTH}
    every = build("ia3", targets="all-linear", feedforward="output.dense")
    assert len(every.extra_record()["adapted_modules"]) == 6 * LAYERS
    with pytest.raises(UserError, match=r"^'query' in feedforward is none of the targets: key, value\.$"):
        build("ia3", targets="key,value", feedforward="query")


@pytest.mark.parametrize("family", ["bert", "distilbert", "qwen2", "gpt2"])
@pytest.mark.parametrize("top", [0, 2])
def test_bitfit_moves_bias_terms_alone(family: str, top: int) -> None:
    method, plain = trained("bitfit", family, top_layers=top), tiny_llm(family)
    start = dict(plain.named_parameters())
    moved = {name for name, now in method.llm.named_parameters() if not torch.equal(now, start[name])}
    layers = [f".{LAYERS - 1 - below}." for below in range(top)]
    expected = {
        name
        for name in start
        if name.endswith(".bias") and (not top or any(layer in f".{name}" for layer in layers))
    }
    assert moved == expected and len(moved) >= 3 * (top or LAYERS)
    for name, parameter in method.llm.named_parameters():
        if name in moved:
            start[name].data.copy_(parameter)
    assert_same(method, plain)


ENDS = {
    "bert": ("attention.output.dense", "output.dense"),
    "roberta": ("attention.output.dense", "output.dense"),
    "electra": ("attention.output.dense", "output.dense"),
    "mpnet": ("attention.attn.o", "output.dense"),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
}
"""The maps back to the width of the states, which adapters follow."""


@pytest.mark.parametrize("family", ENDS)
def test_houlsby_adds_bottlenecks_behind_both_parts_of_a_layer(family: str) -> None:
    method, plain = trained("houlsby", family, size=3, top_layers=2), tiny_llm(family)
    stack = next(m for m in plain.modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)
    adapters = [module for module in method.llm.modules() if type(module).__name__ == "Bottleneck"]
    assert len(adapters) == 4
    for index, layer in enumerate(list(stack)[-2:]):
        for place, path in enumerate(ENDS[family]):

            def behind(
                module: nn.Module, given: Any, x: Tensor, own: nn.Module = adapters[2 * index + place]
            ) -> Tensor:
                weights: Any = own
                z = x @ weights.down.weight.T + weights.down.bias  # [M, T, 3]
                z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
                return x + z @ weights.up.weight.T + weights.up.bias

            layer.get_submodule(path).register_forward_hook(behind)
    ours = [m for m in method.llm.modules() if type(m).__name__.endswith("Norm")]
    theirs = [m for m in plain.modules() if type(m).__name__.endswith("Norm")]
    moved = 0
    for own, norm in zip(ours, theirs, strict=True):
        moved += not torch.equal(own.weight, norm.weight)
        norm.load_state_dict(own.state_dict())
    assert moved == 4  # two in each of the top layers
    assert_same(method, plain)


def test_houlsby_starts_near_the_identity_and_counts_parameters() -> None:
    method = build("houlsby", size=3)
    with torch.no_grad():
        before = method.head(states_behind(tiny_llm("bert"), ITEMS, LAYERS)[:, 0])
    distance = float((embed(method) - before).abs().max())
    assert 0 < distance < 1e-3
    adapters = LAYERS * 2 * (2 * WIDTH * 3 + 3 + WIDTH)
    norms = LAYERS * 2 * 2 * WIDTH
    assert sum(p.numel() for p in trainable(method)) == adapters + norms + HEAD
    assert sum(p.numel() for p in trainable(build("houlsby", size=3, norms=False))) == adapters + HEAD


@pytest.mark.parametrize("name", [name for name in ROWS if name != "houlsby"])
def test_before_training_the_language_model_is_as_it_was(name: str) -> None:
    method = build(name)
    with torch.no_grad():
        before = method.head(states_behind(tiny_llm("bert"), ITEMS, LAYERS)[:, 0])
    torch.testing.assert_close(embed(method), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_they_stand_in_no_table_unless_asked_for(name: str) -> None:
    assert not registry.get(name).by_default
    assert torch.equal(build(name).head.weight, build("lora").head.weight), "one seed, one linear layer"


@pytest.mark.parametrize("name", ["lora", "adalora", "dora", "vera", "ia3"])
def test_without_default_targets_one_line_names_what_there_is(name: str) -> None:
    unknown = tiny_llm("mpnet")
    unknown.config.model_type = "houseplant"
    with pytest.raises(UserError) as caught:
        build(name, unknown)
    assert str(caught.value) == (
        "PEFT has no default for the architecture houseplant; name the modules that get an adapter: "
        "targets=<names with commas between them> of dense, k, o, q, v, or targets=all-linear."
    )
    train(build(name, unknown, targets="q,v"))


def test_language_models_that_they_cannot_adapt() -> None:
    with pytest.raises(UserError, match=r"^LlamaModel has no bias terms that could train; .* or lora\.$"):
        build("bitfit", tiny_llm("llama"))
    message = (
        r"^houlsby has no place for adapters in a layer of class Layer: it knows those of BERT, .* lora\.$"
    )
    with pytest.raises(UserError, match=message):
        build("houlsby", AnswersInTuples())
    with pytest.raises(UserError, match=r"in targets: 'qeury'. Did you mean 'query'\?"):
        build("dora", copy.deepcopy(tiny_llm("bert")), targets="qeury")


@pytest.mark.parametrize(
    ("name", "values"),
    [("vera", {"rank": "0"}), ("vera", {"d_initial": "0"}), ("vera", {"dropout": "1"}),
     ("houlsby", {"size": "0"}), ("dora", {"rank": "0"}), ("bitfit", {"top_layers": "-1"})],
)  # fmt: skip
def test_values_out_of_range(name: str, values: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(values))}=.* is not valid"):
        parse(registry.get(name).Config, values, "--set")
