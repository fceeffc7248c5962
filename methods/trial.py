"""Small random inputs of each kind that a method may read, for `methods.checks`.

Symbols of shape comments as in `methods.base`; `I` items of the catalogue.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.base import Context, Items, Reads, state_statistics
from methods.pooling import pool

CATALOGUE, BATCH, OUT_DIM = 64, 24, 32
LAYERS, WIDTH, TOKENS, VOCABULARY = 12, 48, 12, 101


def trial_inputs(reads: Reads, layers: tuple[int, ...], total_steps: int) -> tuple[Context, Items]:
    """The surroundings of a method that asks for `layers`, and `BATCH` items."""
    context = Context(out_dim=OUT_DIM, n_items=CATALOGUE, total_steps=total_steps)
    if reads == "ids":
        return context, Items(ids=torch.randperm(CATALOGUE)[:BATCH])
    context = replace(context, llm_layers=LAYERS, llm_width=WIDTH)
    if reads == "tokens":
        llm, items = _tiny_bert(), _random_tokens()
        context = replace(context, llm=llm)
        return _with_statistics(context, _pooled(llm, items, layers, context)) if layers else context, items
    # real states have a common mean larger than their spread, and both differ between dimensions
    mean = 2 * torch.randn(len(layers), WIDTH)  # [A, D]
    spread = 0.3 * torch.randn(len(layers), WIDTH).mul(0.5).exp()  # [A, D]
    states = mean + spread * torch.randn(CATALOGUE, len(layers), WIDTH)  # [I, A, D]
    return _with_statistics(context, states), Items(states=states[:BATCH])


@torch.no_grad()
def all_states(llm: nn.Module, items: Items) -> tuple[Tensor, ...]:
    """The states of all tokens behind the embeddings and behind each layer, each `[M, T, D]`."""
    output = llm(input_ids=items.input_ids, attention_mask=items.attention_mask, output_hidden_states=True)
    return output.hidden_states  # type: ignore[no-any-return]


def _with_statistics(context: Context, states: Tensor) -> Context:
    mean, std = state_statistics(states)
    return replace(context, state_mean=mean, state_std=std)


def _pooled(llm: nn.Module, items: Items, layers: tuple[int, ...], context: Context) -> Tensor:
    """`[M, A, D]`, what the statistics of a reader of tokens are taken of."""
    assert items.attention_mask is not None
    hidden, mask = all_states(llm, items), items.attention_mask
    return torch.stack([pool(hidden[layer], mask, context.pooling) for layer in layers], dim=1)  # [M, A, D]


def _tiny_bert() -> nn.Module:
    """A random BERT as transformers loads one: in eval mode, every weight trainable."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=WIDTH, max_position_embeddings=4 * TOKENS, initializer_range=0.2,
    )  # fmt: skip
    model: nn.Module = BertModel(config, add_pooling_layer=False)
    return model.eval()


def _random_tokens() -> Items:
    """Texts of 3 to `TOKENS` tokens, padded on the right with token 0."""
    length = torch.randint(3, TOKENS, (BATCH,))  # [M]
    length[0], length[1] = 3, TOKENS
    mask = (torch.arange(TOKENS) < length[:, None]).long()  # [M, T]
    return Items(input_ids=torch.randint(1, VOCABULARY, mask.shape) * mask, attention_mask=mask)
