"""Adapters that PEFT adds to a language model, and the modules that they adapt."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from methods.base import Context
from methods.errors import UserError, unknown
from methods.kernels.dropout import quicken
from methods.peft_names import EVERY_LINEAR, check_after, check_before, meets, named_in
from methods.tuned import TopConfig, Tuned, TunedConfig

KNOWN_TARGETS: Mapping[str, tuple[str, ...]] = {
    "distilbert": ("q_lin", "v_lin"),
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
}
"""Targets for architectures without a default in PEFT: the projections to queries and values, which are
PEFT's default for BERT, or the one projection that computes both."""


@dataclass(frozen=True)
class TargetsConfig(TopConfig):
    """What all adapters with a name of their own have in common."""

    targets: str = ""
    """Modules that get an adapter: names with commas between them, or all-linear. Empty: PEFT's default for
    the architecture; for DistilBERT q_lin,v_lin, for MPNet q,v and for ModernBERT Wqkv, of which PEFT has
    none."""


@dataclass(frozen=True)
class AdapterConfig(TargetsConfig):
    """What LoRA and AdaLoRA have in common."""

    alpha: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """Scale of the update, divided by the rank that it starts with; PEFT's default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout on what enters an adapter; the middle of the paper's grid."""


class Adapted(Tuned):
    """A frozen language model with trained adapters by PEFT. Subclasses say which."""

    def __init__(self, config: TunedConfig, context: Context) -> None:
        super().__init__(config, context)
        self.llm = adapt(self.llm, self.peft_config(context))
        quicken(self.llm)

    def peft_config(self, context: Context) -> Any:
        """PEFT's configuration of the adapters."""
        raise NotImplementedError

    def extra_record(self) -> dict[str, Any]:
        """Which modules of the language model have an adapter: PEFT's defaults may change."""
        llm: Any = self.llm
        return {"adapted_modules": sorted(llm.base_model.targeted_module_names)}


def adapt(llm: nn.Module, config: Any) -> nn.Module:
    """Put the adapters of `config` into `llm`, whose own weights are frozen then.

    Raises `UserError` where PEFT cannot, and for a name in `config` that has no effect.
    """
    from peft import get_peft_model

    named = dict(named_in(config))
    check_before(config, llm)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # PEFT corrects it
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # to PEFT
            warnings.filterwarnings("ignore", message=".*did not match any")  # an error below
            model: nn.Module = get_peft_model(llm, config)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each kind checks what it is given in its own way
        raise UserError(
            f"PEFT cannot put {config.peft_type.value} into {type(llm).__name__}: {_reason(error)}."
            f" Modules that can be adapted: {', '.join(_adaptable(llm))}."
        ) from error
    tuner: Any = model.base_model
    check_after(named, sorted(tuner.targeted_module_names))
    return model


def targets_of(names: str, llm: nn.Module, defaults: Mapping[str, Any], top: Sequence[nn.Module] = ()) -> Any:
    """The `target_modules` that the setting `targets` means; `defaults` are PEFT's, by architecture.

    Where some `top` layers are given, these are the paths of all modules in them that are meant. Raises
    `UserError` for a module that they or `llm` lack, and where nothing is named and there is no default.
    """
    chosen = _everywhere(names, llm, defaults)
    if not top:
        return chosen
    inside = {module for layer in top for module in layer.modules()}
    paths = [
        name for name, module in llm.named_modules() if module in inside and _is_meant(chosen, name, module)
    ]
    listed = [] if isinstance(chosen, str) else chosen
    missing = [name for name in listed if not meets(name, paths)]
    if not paths or (names and missing):
        raise UserError(
            f"none of the top {len(top)} layers has a module {', '.join(missing) or chosen}; raise"
            " top_layers, or choose others with targets=<names with commas between them>."
        )
    return paths


def _is_meant(chosen: Any, name: str, module: nn.Module) -> bool:
    """Whether `module` of path `name` is among the targets `chosen`, as PEFT reads them."""
    if chosen == EVERY_LINEAR:
        return _is_linear(module)
    if isinstance(chosen, str):
        return re.fullmatch(chosen, name) is not None
    return any(meets(target, [name]) for target in chosen)


def _everywhere(names: str, llm: nn.Module, defaults: Mapping[str, Any]) -> Any:
    """The `target_modules` in all layers."""
    llm_config: Any = llm.config
    kind = llm_config.model_type
    modules = [name for name, _ in llm.named_modules()]
    if not names:
        chosen = defaults.get(kind) or KNOWN_TARGETS.get(kind)
        if chosen is None:
            raise UserError(
                f"PEFT has no default for the architecture {kind}; name the modules that get an adapter:"
                f" targets=<names with commas between them> of {', '.join(_adaptable(llm))}, or"
                " targets=all-linear."
            )
        # not every variant of the architecture has all of them
        return chosen if isinstance(chosen, str) else [name for name in chosen if meets(name, modules)]
    if names == EVERY_LINEAR:
        return names
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if not meets(name, modules):
            raise unknown("module in targets:", name, [*_adaptable(llm), EVERY_LINEAR])
    return chosen


def _adaptable(llm: nn.Module) -> list[str]:
    """Last parts of the names of linear maps."""
    return sorted({name.rpartition(".")[2] for name, module in llm.named_modules() if _is_linear(module)})


def _is_linear(module: nn.Module) -> bool:
    """Whether it is a linear map, whatever class an architecture builds these from."""
    weight = getattr(module, "weight", None)
    return weight is not None and not isinstance(module, nn.Embedding) and weight.ndim == 2


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
