"""Random language models of the families that methods tune, small enough to train in a test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Items

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 4, 16, 24, 2, 40
FAMILIES = (
    "bert", "distilbert", "roberta", "mpnet", "modernbert", "deberta", "deberta-v2",
    "llama", "qwen3", "gemma3_text", "gpt2",
)  # fmt: skip
ENCODERS = FAMILIES[:7]
DROPOUT = 0.3


def tiny_llm(family: str, layers: int = LAYERS, dropout: float = DROPOUT, seed: int = 0) -> nn.Module:
    """As the harness loads one: no pooler, eval mode, every weight trainable."""
    from transformers import AutoConfig, AutoModel

    shape: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": 32,
    }  # fmt: skip
    drop: dict[str, Any] = {"attention_dropout": dropout}
    options: dict[str, Any] = {}
    if family in ("bert", "roberta", "electra", "mpnet", "deberta", "deberta-v2"):
        drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        options = {"add_pooling_layer": False} if family in ("bert", "roberta", "mpnet") else {}
        if family.startswith("deberta"):
            shape |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
        if family == "deberta-v2":  # as the larger ones, with a convolution behind the first layer
            shape |= {"position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True}
            shape |= {"conv_kernel_size": 3}
    elif family == "distilbert":
        shape = {"dim": WIDTH, "n_layers": layers, "n_heads": HEADS, "hidden_dim": INNER}
        shape |= {"max_position_embeddings": 32}
        drop |= {"dropout": dropout}
    elif family == "modernbert":
        drop |= {"embedding_dropout": dropout, "mlp_dropout": dropout}
        # global and local attention take turns, and the window is shorter than the texts
        shape |= {"global_attn_every_n_layers": 3, "local_attention": 4, "pad_token_id": 0}
    elif family == "gpt2":
        shape = {"n_embd": WIDTH, "n_layer": layers, "n_head": HEADS, "n_inner": INNER, "n_positions": 32}
        drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    else:
        shape |= {"num_key_value_heads": 1}
        if family != "llama":
            shape |= {"head_dim": WIDTH // HEADS}
        if family == "gemma3_text":  # local and global attention take turns
            shape |= {"sliding_window": 4, "sliding_window_pattern": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            family, vocab_size=VOCABULARY, initializer_range=0.3, use_cache=False, **shape, **drop
        )
        model: nn.Module = AutoModel.from_config(config, **options)
    return model.eval()


def tiny_texts(n: int = 6, longest: int = 9, seed: int = 0) -> Items:
    """Texts of 3 to `longest` tokens, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (n,), generator=draw)  # [M]
    lengths[0], lengths[-1] = longest, 3
    mask = (torch.arange(longest) < lengths[:, None]).long()  # [M, T]
    ids = torch.randint(3, VOCABULARY, mask.shape, generator=draw) * mask  # [M, T]
    return Items(input_ids=ids, attention_mask=mask)


@torch.no_grad()
def states_behind(llm: nn.Module, items: Items, layer: int) -> Tensor:
    """`[M, T, D]`, zero on padding, as the harness keeps them."""
    output = llm(input_ids=items.input_ids, attention_mask=items.attention_mask, output_hidden_states=True)
    assert items.attention_mask is not None
    return output.hidden_states[layer] * items.attention_mask[:, :, None]  # type: ignore[no-any-return]
