"""Adapters in the top layers alone: where they are, that the lower part may run once, and bad input."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_methods_tuned import ITEMS, OUT, build, embed, given, train
from tiny_llms import ENCODERS, FAMILIES, LAYERS, WIDTH, states_behind, tiny_llm
from torch import Tensor, nn

from benchmark.config import parse
from methods import registry
from methods.base import Items, trainable
from methods.checks import check_method
from methods.errors import UserError
from methods.fields import hashed
from methods.pooling import Pooling

ADAPTERS = ("lora", "adalora")
NEWER = ("dora", "vera", "ia3", "bitfit", "houlsby")


@pytest.mark.parametrize("name", [*ADAPTERS, *NEWER])
def test_they_keep_the_contract_in_the_top_layers(name: str) -> None:
    """With it the check that states after the frozen layers give the same embeddings."""
    cls = registry.get(name)
    check_method(cls, cls.Config(top_layers=2))


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_they_are_pefts_layers_to_transform(family: str) -> None:
    targets = {"bert": ["query", "value"], "distilbert": ["q_lin", "v_lin"], "gpt2": ["c_attn"]}[family]
    pattern = "h" if family == "gpt2" else "layer"
    described = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": targets,
        "layers_to_transform": [LAYERS - 2, LAYERS - 1], "layers_pattern": pattern,
    }  # fmt: skip
    llm = tiny_llm(family, dropout=0.0)  # that of the lower layers would be on in one of them
    first = build("lora", llm, "last", top_layers=2)
    other = build("peft", llm, "last", config=given(described).config)
    for method in (first, other):
        train(method)
    assert first.extra_record() == other.extra_record()
    torch.testing.assert_close(embed(first), embed(other), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in ADAPTERS for family in FAMILIES] + [(name, "distilbert") for name in NEWER],
)
def test_the_upper_part_alone_trains_as_the_whole(name: str, family: str) -> None:
    """From the states behind the frozen layers, as from the tokens: in eval, and in training, dropout on."""
    llm = tiny_llm(family)
    pooling: Pooling = "mean" if family in ENCODERS else "last"
    lower = registry.get(name).frozen_layers(registry.get(name).Config(top_layers=1), LAYERS)
    assert lower == LAYERS - 1
    whole, upper = (build(name, llm, pooling, lower=part, top_layers=1) for part in (0, lower))
    items = Items(hidden=states_behind(llm, ITEMS, lower), attention_mask=ITEMS.attention_mask)
    torch.testing.assert_close(embed(upper, items), embed(whole), rtol=1e-4, atol=1e-5)
    grads: list[dict[str, Any]] = []
    for method, inputs in ((whole, ITEMS), (upper, items)):
        torch.manual_seed(3)
        out = method.train()(inputs)
        out.square().mean().backward()
        grads.append({name: p.grad for name, p in method.named_parameters() if p.requires_grad} | {"": out})
    assert grads[0].keys() == grads[1].keys()
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top", [1, 3, LAYERS])
def test_parameters_and_dropout_are_those_of_the_top_layers(top: int) -> None:
    method = build("lora", top_layers=top, rank=3)
    assert sum(p.numel() for p in trainable(method)) == top * 2 * 3 * 2 * WIDTH + WIDTH * OUT + OUT
    adapted = method.extra_record()["adapted_modules"]
    numbers = {int(found[1]) for name in adapted if (found := re.search(r"layer\.(\d+)\.", name))}
    assert numbers == set(range(LAYERS - top, LAYERS))
    place = next(m for m in method.llm.modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)
    seen: list[Tensor] = []
    place[LAYERS - top].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.train()
    assert not torch.equal(method(ITEMS), method(ITEMS))
    assert torch.equal(seen[0], seen[1])


def test_all_linear_means_those_of_the_top_layers() -> None:
    method = build("lora", top_layers=1, targets="all-linear")
    assert len(method.extra_record()["adapted_modules"]) == 6


def uneven_llm() -> nn.Module:
    """Its lowest layer has a linear map that the others lack."""
    llm: Any = tiny_llm("bert")
    llm.encoder.layer[0].extra = nn.Linear(WIDTH, WIDTH)
    return llm  # type: ignore[no-any-return]


def test_layers_and_modules_that_are_not_there() -> None:
    cls = registry.get("lora")
    with pytest.raises(UserError, match=r"^top_layers=5 is too much .* it has 4 layers; choose 1 to 4\.$"):
        cls.frozen_layers(cls.Config(top_layers=5), 4)
    with pytest.raises(UserError, match=r"^top_layers=5 is too much"):
        build("lora", top_layers=5)
    message = (
        r"^none of the top 2 layers has a module extra; raise top_layers, or choose others with targets="
    )
    with pytest.raises(UserError, match=message):
        build("lora", uneven_llm(), top_layers=2, targets="query,extra")
    assert (
        "encoder.layer.0.extra"
        in (build("lora", uneven_llm(), top_layers=4, targets="extra").extra_record()["adapted_modules"])
    )
    with pytest.raises(UserError, match=r"top_layers=-1 is not valid"):
        parse(cls.Config, {"top_layers": "-1"}, "--set")


@pytest.mark.parametrize("name", ADAPTERS)
def test_configurations_of_earlier_records_keep_their_hash(name: str) -> None:
    cls = registry.get(name)
    assert "top_layers" not in hashed(cls.Config())
    assert hashed(cls.Config(top_layers=2))["top_layers"] == 2
    assert cls.frozen_layers(cls.Config(), LAYERS) == 0
