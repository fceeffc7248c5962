"""adalora: low-rank updates whose ranks are allocated in training (Zhang et al. 2023, arXiv 2303.10512).

An update is `P diag(E) Q`. As PEFT's documentation asks, the loss includes the orthogonality term of `P` and
`Q`, which PEFT itself adds only to a model output with a loss, and `update_and_allocate` is called after each
optimiser step; without that call AdaLoRA is LoRA in another form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from methods.adapters import Adapted, AdapterConfig, targets_of
from methods.base import Context

_HISTORY = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Attributes of PEFT's rank allocator with the importance of each weight, which are in no state dict."""

NEVER = -1
"""Step number of an event that has not happened."""


@dataclass(frozen=True)
class AdaLoRAConfig(AdapterConfig):
    """Hyper-parameters of AdaLoRA; defaults are PEFT's but for the schedule, which PEFT leaves open."""

    init_rank: Annotated[int, Field(ge=2, le=65_536)] = 12
    """Rank that every update starts with."""
    target_rank: Annotated[int, Field(ge=1, validate_default=True)] = 8
    """Mean rank of the updates in the end; below `init_rank`."""
    orthogonality: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """Weight of the orthogonality term in the loss."""
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Smoothing of importances."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Smoothing of the uncertainty of importances."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the longest possible run's steps after which the budget begins to shrink."""
    budget_by: Annotated[float, Field(gt=0, le=1, validate_default=True)] = 0.05
    """Share of them at which the budget is reached; above `warmup`. Of 200 epochs that is the tenth, since a
    run stops early."""
    interval: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    """Steps from one allocation of ranks to the next."""

    @field_validator("target_rank", mode="after")
    @classmethod
    def _shrinks(cls, value: int, info: ValidationInfo) -> int:
        start = info.data.get("init_rank", value + 1)
        if value >= start:
            raise PydanticCustomError("rank", "must be below init_rank={start}", {"start": start})
        return value

    @field_validator("budget_by", mode="after")
    @classmethod
    def _follows(cls, value: float, info: ValidationInfo) -> float:
        start = info.data.get("warmup", 0.0)
        if value <= start:
            raise PydanticCustomError("share", "must be above warmup={start}", {"start": start})
        return value


class AdaLoRA(Adapted):
    """AdaLoRA: low-rank updates whose ranks are allocated in training, through PEFT (Zhang et al. 2023)."""

    Config: ClassVar[type[Any]] = AdaLoRAConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"dropout": (0.1, 0.2, 0.3)}

    def __init__(self, config: AdaLoRAConfig, context: Context) -> None:
        super().__init__(config, context)
        named = dict(self.llm.named_parameters())
        self._p = tuple(parameter for name, parameter in named.items() if ".lora_B." in name)  # each [D, r]
        self._q = tuple(parameter for name, parameter in named.items() if ".lora_A." in name)  # each [r, D]
        self._e = {_short(name): parameter for name, parameter in named.items() if ".lora_E." in name}
        self.start = config.init_rank * len(self._e)
        self.target = config.target_rank * len(self._e)
        self.due = _schedule(config, context)[1]
        self.steps = 0  # steps that the present weights have been trained
        # of the whole run; loading the best epoch's weights for the test does not reset them
        self.run_steps, self.reached, self.least = 0, NEVER, self.start

    def peft_config(self, context: Context) -> Any:
        """PEFT's own AdaLoRA, its schedule in steps."""
        from peft import AdaLoraConfig
        from peft.utils import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as DEFAULTS

        config: AdaLoRAConfig = self.config
        warmup, due = _schedule(config, context)
        return AdaLoraConfig(
            init_r=config.init_rank,
            target_r=config.target_rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets_of(config.targets, self.llm, DEFAULTS, self.top),
            orth_reg_weight=config.orthogonality,
            beta1=config.beta1,
            beta2=config.beta2,
            deltaT=config.interval,
            tinit=warmup,
            tfinal=context.total_steps - due,
            total_step=context.total_steps,
        )

    def aux_loss(self) -> Tensor:
        """Orthogonality: the weighted mean of `|P^T P - 1|` and `|Q Q^T - 1|` (Frobenius) over all P, Q."""
        flat = [*(p.T for p in self._p), *self._q]  # each [r, D]
        ones = torch.eye(self.config.init_rank, device=flat[0].device)  # [r, r]
        off = [torch.linalg.matrix_norm(q @ q.T - ones) for q in flat]
        return self.config.orthogonality * torch.stack(off).mean()  # type: ignore[no-any-return]

    def after_step(self, step: int) -> None:
        """Learn importances from this step's gradients, then mask the singular values of least importance."""
        self._tuner.update_and_allocate(step)
        self.steps = self.run_steps = step
        pattern = self._peft_config.rank_pattern  # None until singular values have been masked
        kept = sum(sum(mask) for mask in pattern.values()) if pattern else self.start
        self.least = min(self.least, kept)
        if self.reached == NEVER and kept <= self.target:
            self.reached = step

    def get_extra_state(self) -> dict[str, Any]:
        """The state of rank allocation, as tensors, numbers and plain containers."""
        allocator, pattern = self._tuner.rankallocator, self._peft_config.rank_pattern
        return {
            "steps": self.steps,
            "reached": self.reached,
            "least": self.least,
            "pattern": {name: list(mask) for name, mask in pattern.items()} if pattern else None,
            **{name: dict(getattr(allocator, name)) for name in _HISTORY},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of `get_extra_state`; the figures of the whole run are kept."""
        self.steps = state["steps"]
        self.run_steps = max(self.run_steps, self.steps)
        self.reached = state["reached"] if self.reached == NEVER else self.reached
        self.least = min(self.least, state["least"])
        self._peft_config.rank_pattern = state["pattern"]
        device = self._p[0].device
        for name in _HISTORY:
            values = {key: value.to(device) for key, value in state[name].items()}
            setattr(self._tuner.rankallocator, name, values)

    def extra_record(self) -> dict[str, Any]:
        """Ranks of the present (tested) weights, and when the run reached its budget."""
        ranks = {name: int(values.detach().count_nonzero()) for name, values in self._e.items()}
        total, n = sum(ranks.values()), len(ranks)
        met = self.reached != NEVER
        notes = []
        if not met:
            notes.append(
                f"the run ended after {self.run_steps} steps, before the budget was due at step {self.due}"
            )
        elif self.steps < self.reached:
            notes.append(
                f"the tested weights are those of step {self.steps}, before the budget was reached at step"
                f" {self.reached}"
            )
        return {
            **super().extra_record(),
            "ranks": ranks,
            "mean_rank": {"start": self.start / n, "target": self.target / n, "tested": total / n},
            "budget_due_at_step": self.due,
            "budget_reached_at_step": self.reached if met else None,
            "steps": {"run": self.run_steps, "tested": self.steps},
            "note": "; ".join(notes) or None,
        }

    def fault(self) -> str | None:
        """Whether the ranks never changed in the run."""
        if self.least < self.start:
            return None
        return (
            f"the ranks never moved from {self.config.init_rank} in {self.run_steps} steps: this was LoRA in"
            " another form; a smaller warmup and interval, or more epochs, let them move"
        )

    @property
    def _tuner(self) -> Any:
        model: Any = self.llm
        return model.base_model

    @property
    def _peft_config(self) -> Any:
        return self._tuner.peft_config[self._tuner.trainable_adapter_name]


def _schedule(config: AdaLoRAConfig, context: Context) -> tuple[int, int]:
    """Steps of `warmup` and of `budget_by`; PEFT needs one step to learn importances from before the last."""
    due = max(2, round(config.budget_by * context.total_steps))
    return min(round(config.warmup * context.total_steps), due - 1), due


def _short(name: str) -> str:
    """The name of an adapted module, without what PEFT wraps around it."""
    return name.removeprefix("base_model.model.").partition(".lora_E.")[0]
