"""Names in a configuration of PEFT that meet nothing, and values of wrong types: one line, no training."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from tiny_llms import LAYERS, VOCABULARY, tiny_llm

from methods.adapters import adapt, targets_of
from methods.any_peft import _ELSEWHERE, build, canonical
from methods.errors import UserError
from methods.peft_names import kind_of

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["query", "value"]}
LOHA = {"peft_type": "LOHA", "target_modules": ["query"]}
C3A = {"peft_type": "C3A", "target_modules": ["query"], "block_size": 4}
IA3 = {"peft_type": "IA3", "target_modules": ["key", "output.dense"]}


def put(config: dict[str, Any], family: str = "bert") -> list[str]:
    """As the method does it: -> the modules that got an adapter."""
    model: Any = adapt(tiny_llm(family), build(json.loads(canonical(json.dumps(config)))))
    return list(model.base_model.targeted_module_names)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"target_modules": ["query", "vaule"]}, r"in target_modules: 'vaule'. Did you mean 'value'\?"),
        ({"target_modules": ["query", "uery"]}, "module in target_modules: 'uery'"),
        ({"target_modules": r".*\.vaule"}, "fits the regular expression in target_modules"),
        ({"target_modules": "("}, r"'\(' in target_modules is no regular expression: missing \)"),
        ({"exclude_modules": ["vaule"]}, "module in exclude_modules: 'vaule'. Did you mean 'value'"),
        ({"exclude_modules": r".*\.vaule"}, "whole name fits the regular expression in exclude_modules"),
        ({"exclude_modules": ["value"]}, "'value' in target_modules has no effect: other fields leave all"),
        ({"modules_to_save": ["LayerNorm", "pooler"]}, "module in modules_to_save: 'pooler'"),
        ({"rank_pattern": {"qeury": 8}}, r"in rank_pattern: 'qeury'. Did you mean 'query'\?"),
        ({"rank_pattern": {"key": 8}}, r"adapted module in rank_pattern: 'key'.* Allowed: query, value\."),
        ({"alpha_pattern": {"vaule": 8}}, "adapted module in alpha_pattern: 'vaule'"),
        ({"alpha_pattern": {"[": 8}}, r"'\[' in alpha_pattern is no regular expression"),
        ({"rank_pattern": {"query": 8, "layer.0.attention.self.query": 4}}, "keys before it fit all"),
        ({"rank_pattern": {"query": "8"}}, "'query' in rank_pattern must be a number, not \"8\""),
        ({"layers_to_transform": [0, 9]}, "in layers_to_transform: '9'. Allowed: 0, 1, 2, 3"),
        ({"layers_to_transform": 9}, "in layers_to_transform: '9'. Allowed: 0, 1, 2, 3"),
        ({"layers_to_transform": [0], "layers_pattern": ["layer", "block"]}, "layers_pattern: 'block'"),
        ({"layer_replication": [[0, 2], [1, 9]]}, r"\[1, 9\] in layer_replication is no range .* 0 to 4"),
        ({"target_modules": [], "target_parameters": ["qeury.weight"]}, "parameter in target_parameters"),
        ({"trainable_token_indices": [1, 40]}, "token 40 in trainable_token_indices .* rows 0 to 39"),
        ({"trainable_token_indices": {"embed": [1]}}, "module in trainable_token_indices: 'embed'"),
        ({"use_bdlora": {"target_modules_bd_a": ["qeury"]}}, "module in target_modules_bd_a: 'qeury'"),
        ({"r": "4"}, 'r="4" is of a wrong type; PEFT takes: int'),
        ({"r": True}, "r=true is of a wrong type; PEFT takes: int"),
        ({"lora_dropout": "much"}, 'lora_dropout="much" is of a wrong type; PEFT takes: float'),
        ({"target_modules": ["query", 5]}, "is of a wrong type; PEFT takes: Union"),
        ({"init_lora_weights": 3}, "init_lora_weights=3 is of a wrong type"),
    ],
)  # fmt: skip
def test_what_meets_nothing_is_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        put({**LORA, **more})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**IA3, "feedforward_modules": r".*\.outptu\.dense"}, "expression in feedforward_modules"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [VOCABULARY]}, "token 40 in token_indices"),
        ({**LOHA, "rank_pattern": {"key": 2}}, "in rank_pattern: 'key'"),
        ({**C3A, "block_size_pattern": {"key": 2}}, "in block_size_pattern: 'key'"),
        ({"peft_type": "LN_TUNING", "target_modules": ["LayerNrom"]}, "Did you mean 'LayerNorm'"),
        ({**LOHA, "layers_to_transform": [7]}, "layers_to_transform: '7'"),
    ],
)  # fmt: skip
def test_of_all_kinds_of_adapters(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        put(config)


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, 2 * LAYERS),
        ({"target_modules": "all-linear", "exclude_modules": ["value"]}, 5 * LAYERS),
        ({"target_modules": r".*\.query"}, LAYERS),
        ({"layers_to_transform": [1, 3]}, 4),
        ({"layers_to_transform": 1, "layers_pattern": "layer"}, 2),
        ({"rank_pattern": {"layer.0.attention.self.query": 4, "query": 8}}, 8),
        ({"alpha_pattern": {".*value": 1.5}}, 8),
        ({"modules_to_save": ["LayerNorm"], "trainable_token_indices": [1, 2]}, 8),
        ({"init_lora_weights": "pissa_niter_4", "megatron_config": None}, 8),
        ({"use_bdlora": {"target_modules_bd_a": ["query"], "match_strict": False, "nblocks": 2}}, 8),
    ],
)  # fmt: skip
def test_what_meets_something_is_taken(more: dict[str, Any], count: int) -> None:
    assert len(put({**LORA, **more})) == count


def test_layers_without_anything_before_them_need_their_name() -> None:
    llama = {"peft_type": "LORA", "target_modules": ["q_proj"], "layers_to_transform": [0]}
    assert put({**llama, "layers_pattern": "layers"}, "llama") == ["layers.0.self_attn.q_proj"]
    with pytest.raises(UserError, match="PEFT cannot put LORA into LlamaModel"):
        put(llama, "llama")


def test_the_order_of_keys_in_a_pattern_is_kept() -> None:
    """PEFT takes the first that fits; the order of fields means nothing."""
    pattern = {"value": 4, "query": 8}
    assert canonical(json.dumps({"r": 2, "rank_pattern": pattern, "peft_type": "LORA"})) == json.dumps(
        {"peft_type": "LORA", "r": 2, "rank_pattern": pattern}
    )


@pytest.mark.parametrize("text", ['{"peft_type": "LORA", "lora_alpha": NaN}', '{"a": ' + "[" * 100_000 + "}"])
def test_json_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UserError, match=r"config is not JSON"):
        canonical(text)


def test_defaults_of_an_architecture_that_a_variant_lacks_are_left_out() -> None:
    assert targets_of("", tiny_llm("bert"), {"bert": ["query", "absent"]}) == ["query"]


SILENT = {"alora_invocation_tokens", "auto_mapping", "megatron_config", "loftq_config", "velora_config"}
"""Fields with lists or tables that name nothing of the model."""
WORDS = {"module", "modules", "layer", "layers", "pattern", "parameter", "parameters", "index", "indices"}
INNER = ("list", "dict", "tuple", "set")


def test_no_field_of_the_installed_peft_is_forgotten() -> None:
    """A new list or pattern of names must get a kind, or be put among those that name nothing."""
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    open_fields = set()
    for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if kind.value in _ELSEWHERE or issubclass(cls, PromptLearningConfig):
            continue
        hints = get_type_hints(cls)
        for field in fields(cls):
            shown = str(hints[field.name]).lower()
            holds = any(f"{kind}[" in shown or f"'{kind}'" in shown or f"[{kind}" in shown for kind in INNER)
            named = WORDS & set(field.name.split("_")) and any(kind in shown for kind in ("str", *INNER))
            if (holds or named) and kind_of(field.name) is None:
                open_fields.add(field.name)
    assert open_fields - SILENT == set()
