"""SASRec over packed bins against each row on its own, and against PyTorch's own Transformer layers."""

from __future__ import annotations

import pytest
import torch
from core_worlds import PLAIN, make_world, recommender, with_settings
from torch import Tensor, nn

from benchmark.model.recommender import SASRec, causal_mask
from benchmark.train.rows import pack, training_rows

WIDTH = PLAIN.width


def model(window: int = 6, **changes: object) -> SASRec:
    torch.manual_seed(3)
    made = SASRec(with_settings(window=window, **changes)).double()
    for parameter in made.parameters():  # away from the small starting values, norms and biases included
        nn.init.normal_(parameter, std=0.4)
    return made.eval()


def alone(sasrec: SASRec, x: Tensor) -> Tensor:
    """One row without packing or padding: `[L, d]` -> `[L, d]`."""
    places = torch.arange(len(x))
    return sasrec(x[None], places[None], torch.zeros(1, len(x), dtype=torch.long), places)


def reference(sasrec: SASRec, x: Tensor, heads: int) -> Tensor:
    """The same weights in torch's TransformerEncoderLayer: `[L, d]` -> `[L, d]`."""
    x = nn.functional.layer_norm(
        x + sasrec.position.weight[: len(x)], (WIDTH,), sasrec.norm.weight, sasrec.norm.bias, 1e-12
    )
    mask = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=torch.double)
    for block in sasrec.blocks:
        layer = nn.TransformerEncoderLayer(
            WIDTH, heads, PLAIN.sasrec_inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12,
            batch_first=True, norm_first=False, dtype=torch.double,
        ).train()  # in training mode torch takes its plain path, not the fused one  # fmt: skip
        copies = {
            "self_attn.in_proj_": block.qkv, "self_attn.out_proj.": block.out, "linear1.": block.expand,
            "linear2.": block.contract, "norm1.": block.attention_norm, "norm2.": block.feed_norm,
        }  # fmt: skip
        layer.load_state_dict(
            {name + kind: getattr(m, kind) for name, m in copies.items() for kind in ("weight", "bias")}
        )
        x = layer(x[None], src_mask=mask)[0]
    return x


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2), (3, 4)])
def test_agrees_with_torchs_own_transformer(layers: int, heads: int) -> None:
    sasrec = model(sasrec_layers=layers, sasrec_heads=heads)
    for length in (1, 2, 6):
        x = torch.randn(length, WIDTH, dtype=torch.double)
        torch.testing.assert_close(alone(sasrec, x), reference(sasrec, x, heads))


class RecBoleLayer(nn.Module):
    """A layer as RecBole writes it: a map each for queries, keys and values, hidden scores 10,000 lower."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, PLAIN.sasrec_inner
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dense, self.dense_1, self.dense_2 = (
            nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH),
        )  # fmt: skip
        self.norm, self.norm_2 = (nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` `[B, L, d]`, `mask` `[B, 1, L, L]` to be added to scores: -> `[B, L, d]`."""

        def split(y: Tensor) -> Tensor:  # [B, L, d] -> [B, heads, L, d / heads]
            return y.view(*y.shape[:2], self.heads, -1).permute(0, 2, 1, 3)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) / (WIDTH / self.heads) ** 0.5 + mask  # [B, heads, L, L]
        mixed = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).reshape(x.shape)
        x = self.norm(self.dense(mixed) + x)
        fed = self.dense_1(x)
        fed = fed * 0.5 * (1.0 + torch.erf(fed / 2**0.5))
        return self.norm_2(self.dense_2(fed) + x)


def recbole(sasrec: SASRec, x: Tensor, lengths: Tensor, heads: int) -> Tensor:
    """RecBole's forward pass with the same weights: `x` `[B, L, d]`, padded on the right, -> `[B, d]`."""
    real = torch.arange(x.shape[1]) < lengths[:, None]  # [L] < [B, 1] -> [B, L]
    seen = torch.tril(real[:, None, None, :].expand(-1, -1, x.shape[1], -1))  # [B, 1, L, L]
    mask = torch.where(seen, 0.0, -10_000.0).double()
    x = nn.functional.layer_norm(
        x + sasrec.position.weight[: x.shape[1]], (WIDTH,), sasrec.norm.weight, sasrec.norm.bias, 1e-12
    )
    for block in sasrec.blocks:
        layer = RecBoleLayer(heads).double()
        parts = {"dense": block.out, "dense_1": block.expand, "dense_2": block.contract}
        parts |= {"norm": block.attention_norm, "norm_2": block.feed_norm}
        values = {
            f"{name}.{kind}": getattr(m, kind) for name, m in parts.items() for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            thirds = getattr(block.qkv, kind).chunk(3)
            values |= {
                f"{name}.{kind}": part for name, part in zip(("query", "key", "value"), thirds, strict=True)
            }
        layer.load_state_dict(values)
        x = layer(x, mask)
    return x[torch.arange(len(x)), lengths - 1]


@pytest.mark.parametrize(("layers", "heads"), [(1, 2), (2, 4)])
def test_agrees_with_a_plain_version_of_recboles(layers: int, heads: int) -> None:
    sasrec = model(sasrec_layers=layers, sasrec_heads=heads)
    x, lengths = torch.randn(4, 6, WIDTH, dtype=torch.double), torch.tensor([6, 1, 3, 5])
    ours = torch.stack([alone(sasrec, row[:length])[-1] for row, length in zip(x, lengths, strict=True)])
    torch.testing.assert_close(ours, recbole(sasrec, x, lengths, heads), rtol=0, atol=2e-6)


def test_the_published_shape() -> None:
    """2 layers, 2 heads, width 256, feed-forward 256, 50 positions: counted by hand."""
    from benchmark.config import Settings

    block = 4 * (256 * 256 + 256) + 2 * (256 * 256 + 256) + 2 * 2 * 256
    expected = 50 * 256 + 2 * 256 + 2 * block
    assert sum(p.numel() for p in SASRec(Settings()).parameters()) == expected


@pytest.mark.parametrize("width", [6, 64])
def test_packed_rows_read_as_each_row_alone(width: int) -> None:
    sasrec = model()
    world = make_world(1, n_users=20)
    rows = training_rows(world.offsets, world.train_end, 6, "packed")
    packed = pack(rows, width)
    table = torch.randn(world.n_items, WIDTH, dtype=torch.double)
    x = table[torch.from_numpy(world.items[packed.source.clip(0)])]
    found = sasrec(x, *(torch.from_numpy(part) for part in (packed.position, packed.segment, packed.slot)))
    expected = torch.cat(
        [
            alone(sasrec, table[torch.from_numpy(world.items[start : start + length])])[first:]
            for start, length, first in zip(rows.start, rows.length, rows.first, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected)


def test_later_items_other_rows_and_padding_change_nothing() -> None:
    """Gradients are exact zeros wherever a state must not look."""
    sasrec = model()
    segments = torch.tensor([[0, 0, 0, 1, 1, -1, -1], [2, 3, 3, 3, 3, 3, -1]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 0]])
    x = torch.randn(2, 7, WIDTH, dtype=torch.double, requires_grad=True)
    states = sasrec(x, positions, segments, torch.arange(14)).view(2, 7, WIDTH)
    for b in range(2):
        for s in range(7):
            if segments[b, s] < 0:
                continue
            (gradient,) = torch.autograd.grad(states[b, s].square().sum(), x, retain_graph=True)
            reached = gradient.abs().sum(-1) > 0
            allowed = torch.zeros(2, 7, dtype=torch.bool)
            allowed[b, : s + 1] = segments[b, : s + 1] == segments[b, s]
            assert (reached == allowed).all(), (b, s)


def test_changing_a_later_item_leaves_earlier_states_alone() -> None:
    sasrec = model()
    x = torch.randn(6, WIDTH, dtype=torch.double)
    changed = x.clone()
    changed[4] = torch.randn(WIDTH, dtype=torch.double)  # not a shift, which LayerNorm would undo
    before, after = alone(sasrec, x), alone(sasrec, changed)
    torch.testing.assert_close(before[:4], after[:4], rtol=0, atol=0)
    assert (before[4:] != after[4:]).any(-1).all()


def test_wider_bins_change_nothing() -> None:
    sasrec = model()
    world = make_world(4)
    rows = training_rows(world.offsets, world.train_end, 6, "packed")
    table = torch.randn(world.n_items, WIDTH, dtype=torch.double)

    def states(width: int) -> Tensor:
        packed = pack(rows, width)
        x = table[torch.from_numpy(world.items[packed.source.clip(0)])]
        return sasrec(x, *(torch.from_numpy(part) for part in (packed.position, packed.segment, packed.slot)))

    torch.testing.assert_close(states(6), states(64))
    torch.testing.assert_close(states(7), states(500))


def test_the_mask_is_causal_within_rows() -> None:
    mask = causal_mask(torch.tensor([[5, 5, 6, -1]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_acts_in_training_only(rate: float) -> None:
    sasrec = model(sasrec_dropout=rate)
    x = torch.randn(6, WIDTH, dtype=torch.double)
    assert torch.equal(alone(sasrec, x), alone(sasrec, x))
    sasrec.train()
    assert torch.equal(alone(sasrec, x), alone(sasrec, x)) == (rate == 0)


def test_user_states_of_a_batch_come_from_its_table() -> None:
    """The recommender gathers the right embedding into each slot."""
    world, settings = make_world(6), with_settings(batch_size=1000)
    from benchmark.train.batches import build_batch

    bare = recommender(settings, world).eval()
    rows = world.task(settings).train
    batch = build_batch(rows, world.sequences, settings, None)
    table = bare.embed(batch.share)
    states = bare.users(table, batch.inputs, batch.positions, batch.segments, batch.slots)
    vectors = bare.method.embedding.weight
    expected = torch.cat(
        [
            alone(bare.sasrec, vectors[torch.from_numpy(world.items[start : start + length])])[first:]
            for start, length, first in zip(rows.start, rows.length, rows.first, strict=True)
        ]
    )
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
