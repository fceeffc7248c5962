"""What the configuration of a language model says of it: layers, width, kind, longest input.

Only transformers can read every configuration, and its import takes most of a second of each process. What it
found is therefore kept in the cache, by the configuration and the version of transformers. Nothing heavy is
imported before a function needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmark.config import digest
from benchmark.files import DamagedError, cache_folder, digest_of, read_checked, write_checked
from benchmark.llm.model_folder import read_json
from methods.errors import UserError

_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm"}
"""Model types that number positions from padding_idx + 1, so that fewer are left for tokens."""
ENCODERS = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "modernbert"}
"""Known to be encoders without asking transformers, whose table takes two seconds to import."""
MOST_LAYERS, MOST_WIDTH = 1_000, 100_000
"""Several times those of the largest models; beyond, a config is taken for damaged."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit report an enormous number."""


@dataclass(frozen=True)
class Architecture:
    """What a run needs to know of a configuration before it loads the model."""

    n_layers: int
    width: int
    family: Literal["encoder", "decoder"]
    vocabulary: int | None
    """How many tokens the model has; None where its configuration has no such number."""
    positions: int | None
    """How many tokens its positions leave room for; None where they set no limit."""


def architecture(values: Mapping[str, Any], where: object) -> Architecture:
    """That of a transformers config of plain `values`, from the cache where it was read before.

    Raises `UserError` for an unknown architecture, an invalid config, and a model that is no text encoder or
    decoder.
    """
    key = digest([values, version("transformers"), digest_of(Path(__file__))], 24)
    path = cache_folder() / "architectures" / f"{key}.json"
    with suppress(DamagedError, OSError):
        return Architecture(**read_checked(path, [field.name for field in fields(Architecture)]))
    config = build_config(values, where)
    layers, width = _shape(config, where)
    positions = getattr(config, "max_position_embeddings", None)
    read = Architecture(
        n_layers=layers,
        width=width,
        family=_family(config, where),
        vocabulary=getattr(config, "vocab_size", None),
        positions=positions - _reserved_positions(config)
        if isinstance(positions, int) and positions > 0
        else None,
    )
    with suppress(OSError):  # a cache that cannot be written: reported where it is needed
        write_checked(path, asdict(read))
    return read


def build_config(values: Mapping[str, Any], where: object) -> Any:
    """A transformers config from plain values; raises `UserError` for an unknown architecture."""
    from transformers import CONFIG_MAPPING

    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        remote = " (its own code, which is never run)" if "auto_map" in values else ""
        raise UserError(f"{where}: transformers does not know the model type '{model_type}'{remote}")
    try:
        own = {key: value for key, value in values.items() if key != "seed"}  # of random weights
        return CONFIG_MAPPING[model_type].from_dict(own)
    except Exception as error:  # each architecture has checks of its own
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: config.json is not a valid {model_type} config ({reason})") from error


def _shape(config: Any, where: object) -> tuple[int, int]:
    """Layers and width; raises `UserError` where it has none, or they cannot be right."""
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
    """Which of the two it is; raises `UserError` for anything else."""
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
    """How many of its positions no token gets."""
    return int(config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json states; nothing where there is none."""
    settings = folder / "tokenizer_config.json"
    return read_json(settings) if settings.is_file() else {}


def max_tokens(positions: int | None, folder: Path) -> int:
    """The smaller of what the model has `positions` for and what its tokenizer allows."""
    stated = tokenizer_settings(folder).get("model_max_length")
    limits = [int(stated)] if isinstance(stated, int | float) and -_NO_LIMIT < stated < _NO_LIMIT else []
    if positions is not None:
        limits.append(positions)
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
