"""Attention that trains quickly on a CPU.

PyTorch's kernel for CPUs has no dropout, and its backward pass takes several times as long as the matrix
products; with dropout PyTorch falls back to fp32 products and draws one random number per element.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.kernels.dropout import dropout as drop

NAME = "adaptrec"
"""Its name in transformers' table of attention functions."""


def quicken_attention(llm: nn.Module) -> None:
    """Let `llm` use `attend`, where its architecture supports attention functions of transformers."""
    from transformers import AttentionInterface, PreTrainedModel
    from transformers.masking_utils import AttentionMaskInterface

    if not isinstance(llm, PreTrainedModel) or not llm.is_backend_compatible():
        return
    if llm.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
    llm.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers calls attention: `[M, H, T, D / H]` three times -> `[M, T, H, D / H]`, and no weights.

    Plain products on a CPU with dropout or in 16 bits; elsewhere, and for arguments that plain products
    do not support, PyTorch's own attention, which is faster there.
    """
    plain = (
        query.device.type == "cpu"
        and (dropout > 0 or query.dtype != torch.float32)
        and query.shape[1] == key.shape[1]
        and attention_mask is not None
        and attention_mask.dtype == torch.bool
        and all(
            value is None for name, value in more.items() if name in ("position_bias", "softcap", "cache")
        )
    )
    if not plain:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return output
    assert attention_mask is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return products(query * scale, key, value, attention_mask, dropout).transpose(1, 2), None


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, share: float) -> Tensor:
    """`[M, H, T, D / H]` three times, and the mask `[M, 1, T, T]` of `mask`: -> like `query`.

    In the precision that autocast chooses for products; the softmax adds up in fp32 in any.
    """
    scores = query @ key.transpose(-1, -2)  # [M, H, T, D / H] x [M, H, D / H, T] -> [M, H, T, T]
    with torch.no_grad():  # a masked score gets the weight 0 and no gradient
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=scores.dtype)
    return drop(weights, share, share > 0) @ value  # -> [M, H, T, D / H]


def mask(**how: Any) -> Tensor:
    """The mask `[M, 1, T, T]`, True where a token may be seen.

    It is always made: whether it is needed could only be read from the device's memory, for each chunk.
    """
    from transformers.masking_utils import sdpa_mask

    made: Tensor = sdpa_mask(**{**how, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    return made
