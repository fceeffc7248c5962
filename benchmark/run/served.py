"""What a run may read of a server, which gives one vector of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.config import Settings
from benchmark.llm.catalogue import LLM
from methods.base import kinds
from methods.errors import UserError

if TYPE_CHECKING:
    from methods.base import Method
    from methods.controls.base import Control

WAYS_OUT = "take a method that reads the states of one layer, or the language model from a folder or the hub."


def check_served(
    name: str, cls: type[Method] | type[Control], config: Any, settings: Settings, llm: LLM
) -> None:
    """Raise `UserError` where a server cannot give what the method `name` reads, or what the settings ask."""
    gives = f"language model '{llm.name}' is a server, which gives one vector of a text"
    if "tokens" in kinds(cls):
        raise UserError(f"{gives}, and '{name}' reads its tokens; {WAYS_OUT}")
    try:
        layers = cls.layers(config, llm.n_layers)
    except UserError as error:
        raise UserError(f"{gives}, and '{name}' reads several layers; {WAYS_OUT}") from error
    if layers != (llm.n_layers,):
        raise UserError(f"{gives}, and '{name}' reads layers {[*layers]}; {WAYS_OUT}")
    for setting, value, default in (
        ("pooling", settings.pooling, "auto"),
        ("max_tokens", settings.max_tokens, 0),
        ("quantize", settings.quantize, "none"),
    ):
        if value != default:
            raise UserError(f"{gives}: it loads, cuts and pools itself; leave out {setting}={value}.")
