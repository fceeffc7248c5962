"""ia3: trained scales inside a frozen language model (Liu et al. 2022, arXiv 2205.05638).

A vector `l` that is 1 at the start multiplies the outputs of some linear maps `W` `[out, in]`, and the inputs
of those that end a feed-forward layer:

    y = l * (W x + b)        y = W (l * x) + b

In the paper these are the maps to keys and to values, and the second map of each feed-forward layer. PEFT's
names for BERT and RoBERTa also match the map behind attention, whose input is then scaled too; this default
is kept. DistilBERT and ModernBERT, of which PEFT has no default, get the paper's three maps; ModernBERT's map
to keys and values is that to queries too. The paper's other parts (losses for answers in words, training on
many tasks) belong to text generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from methods.adapters import Adapted, TargetsConfig, targets_of
from methods.base import Context
from methods.errors import UserError
from methods.peft_names import meets

TARGETS: Mapping[str, tuple[str, ...]] = {
    "distilbert": ("k_lin", "v_lin", "ffn.lin2"),
    "modernbert": ("Wqkv", "mlp.Wo"),
}
FEEDFORWARD: Mapping[str, tuple[str, ...]] = {"distilbert": ("ffn.lin2",), "modernbert": ("mlp.Wo",)}
"""Of architectures that PEFT has no default for."""


@dataclass(frozen=True)
class IA3Config(TargetsConfig):
    """Hyper-parameters of IA3."""

    targets: str = ""
    """Modules that get a vector: names with commas between them, or all-linear. Empty: PEFT's default for the
    architecture; for DistilBERT k_lin,v_lin,ffn.lin2 and for ModernBERT Wqkv,mlp.Wo."""
    feedforward: str = ""
    """Those of them whose inputs are scaled: names with commas between them. Empty: the second maps of
    feed-forward layers among the targets; none in an architecture that PEFT has no default for."""


class IA3(Adapted):
    """IA3: trained scales of keys, values and inner states, through PEFT (Liu et al. 2022)."""

    Config: ClassVar[type[Any]] = IA3Config
    by_default: ClassVar[bool] = False

    def peft_config(self, context: Context) -> Any:
        """PEFT's own IA3."""
        from peft import IA3Config as PeftConfig
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as ENDS
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as DEFAULTS

        llm: Any = self.llm
        targets = targets_of(self.config.targets, llm, {**TARGETS, **DEFAULTS}, self.top)
        ends = {**FEEDFORWARD, **ENDS}.get(llm.config.model_type, ())
        return PeftConfig(target_modules=targets, feedforward_modules=self._feedforward(targets, ends))

    def _feedforward(self, targets: Any, default: Any) -> list[str]:
        """Those of `targets` whose inputs are scaled, `default` where the user names none."""
        named = [name.strip() for name in self.config.feedforward.split(",") if name.strip()]
        if isinstance(targets, str):  # all-linear: PEFT finds them by their names
            return named or list(default)
        for name in named:
            if not meets(name, targets):
                raise UserError(f"'{name}' in feedforward is none of the targets: {', '.join(targets)}.")
        return [target for target in targets if any(meets(name, [target]) for name in named or default)]
