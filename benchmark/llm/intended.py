"""How the authors of a sentence-transformers folder mean their model to be read.

Such a folder lists its parts in `modules.json`: the language model, a pooling, perhaps dense layers and a
normalisation; `sentence_bert_config.json` has the longest input, `config_sentence_transformers.json` the
prompts that are put before a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.files import digest_of
from benchmark.llm.model_folder import WEIGHTS, read_json, read_list
from methods.errors import UserError

MODULES = "modules.json"
LIMITS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
MODES = {"cls_token": "first", "cls": "first", "mean_tokens": "mean", "mean": "mean", "lasttoken": "last"}
"""Pooling of sentence-transformers -> ours."""
DENSE = "Dense"
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Activations of dense layers, by their classes in torch."""
DOCUMENT = ("document", "passage")
"""Names of the prompt of a text that is searched for, as an item is."""


@dataclass(frozen=True)
class Dense:
    """A dense layer that the folder lists."""

    path: str
    """Its own folder, below the model's."""
    width: int
    """Of what comes out."""
    activation: str
    """The name of the class in torch, such as `Tanh`."""
    sha256: str
    """Of its weights."""


@dataclass(frozen=True)
class Intended:
    """What a folder states of its use."""

    pooling: str
    """`first`, `last`, `mean`, or the authors' word for one that AdaptRec does not have."""
    prompt: str = ""
    """Stands before each item's text."""
    max_tokens: int | None = None
    """Longest input; None where it is not stated."""
    left_out: tuple[str, ...] = ()
    """Parts behind the pooling that are not applied, such as `Normalize`."""
    dense: tuple[Dense, ...] = ()
    """Dense layers behind the pooling, in their order (`benchmark.llm.dense`)."""


def intended(folder: Path, card_prompt: str = "") -> Intended | None:
    """What the folder states; None where it is not of sentence-transformers, or lists no parts.

    `card_prompt` is the prompt of a document where the model's card asks for one and no file states it.
    Raises `UserError` for a file that cannot be read or names no pooling.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = read_list(folder / MODULES)
    if not modules:
        return None
    parts: list[tuple[str, str]] = []
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise UserError(f"{folder / MODULES}: each module must be an object with a type and a path")
        parts.append((module["type"].rpartition(".")[2], str(module.get("path", ""))))
    pooling = next((path for kind, path in parts if kind == "Pooling"), None)
    if pooling is None:
        raise UserError(
            f"{folder / MODULES} names no Pooling; remove the file to read the model as a plain one"
        )
    behind = [part for part in parts if part[0] not in ("Transformer", "Pooling")]
    dense = _dense(folder, behind)
    prompts = _optional(folder / PROMPTS)
    longest = _optional(folder / LIMITS).get("max_seq_length")
    return Intended(
        pooling=_pooling(folder / pooling / "config.json"),
        prompt=_prompt(prompts, folder) or card_prompt,
        max_tokens=longest if isinstance(longest, int) and longest > 0 else None,
        left_out=tuple(dict.fromkeys(kind for kind, _ in behind if not (dense and kind == DENSE))),
        dense=dense,
    )


def _dense(folder: Path, parts: Sequence[tuple[str, str]]) -> tuple[Dense, ...]:
    """The dense layers among `parts`; none where one has no safetensors, or where another part stands before
    one: the authors mean all of them or none."""
    paths = [path for kind, path in parts if kind == DENSE]
    files = [folder / path / WEIGHTS for path in paths]
    first = [kind for kind, _ in parts[: len(paths)]]
    if first != [DENSE] * len(paths) or not all(file.is_file() for file in files):
        return ()
    return tuple(_one_dense(folder, path) for path in paths)


def _one_dense(folder: Path, path: str) -> Dense:
    config = folder / path / "config.json"
    stated = read_json(config)
    activation = str(stated.get("activation_function", "Identity")).rpartition(".")[2]
    if activation not in ACTIVATIONS or not isinstance(stated.get("out_features"), int):
        raise UserError(
            f"{config} states no out_features, or the activation '{activation}' of which AdaptRec has"
            f" {', '.join(ACTIVATIONS)}; remove the layer from {MODULES} to read the model without it"
        )
    return Dense(path, stated["out_features"], activation, digest_of(folder / path / WEIGHTS))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _pooling(path: Path) -> str:
    stated = read_json(path)
    flags = [name.removeprefix("pooling_mode_") for name, value in stated.items() if value is True]
    named = stated.get("pooling_mode")
    modes = [str(named)] if named else [name for name in flags if f"pooling_mode_{name}" in stated]
    if not modes:
        raise UserError(f"{path} states no pooling; give one by --set pooling=first, last or mean")
    return MODES.get(modes[0], modes[0]) if len(modes) == 1 else "+".join(modes)


def _prompt(stated: Mapping[str, Any], folder: Path) -> str:
    """The prompt of a document, else the default one, else nothing."""
    prompts = stated.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
        raise UserError(f"{folder / PROMPTS}: prompts must be names with texts")
    for name in (*DOCUMENT, stated.get("default_prompt_name")):
        if name in prompts:
            return str(prompts[name])
    return ""
