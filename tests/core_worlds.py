"""Small worlds for the tests of the core: random users, a recommender over them, plain versions of both."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmark.config import Settings
from benchmark.llm.encoder import load_model
from benchmark.llm.tokens import Tokens, load_tokens
from benchmark.model.chunks import Ints
from benchmark.model.items import ItemEncoder, ItemInputs
from benchmark.model.recommender import Recommender
from benchmark.run.spec import find_llm
from benchmark.train.batches import Sequences
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Task, Trainer
from benchmark.train.rows import Rows, evaluation_rows, training_rows
from methods import registry
from methods.base import Context, Items, state_statistics

CPU = torch.device("cpu")
PLAIN = Settings(width=8, sasrec_inner=12, sasrec_dropout=0.0, window=4, precision="no")
"""Small, without dropout: what one process computes twice is the same twice."""


@dataclass(frozen=True)
class World:
    """Users with leave-one-out splits over a small catalogue."""

    users: list[list[int]]
    n_items: int
    offsets: Ints
    items: Ints
    train_end: Ints

    @property
    def valid_at(self) -> Ints:
        return self.train_end

    @property
    def test_at(self) -> Ints:
        return self.train_end + 1

    @property
    def sequences(self) -> Sequences:
        train = [item for user in self.users for item in user[:-2]]
        return Sequences(self.items, np.arange(self.n_items), np.unique(train))

    def task(self, settings: Settings) -> Task:
        return Task(
            self.sequences,
            training_rows(self.offsets, self.train_end, settings.window, settings.sequences),
            evaluation_rows(self.offsets, self.valid_at, settings.window),
            evaluation_rows(self.offsets, self.test_at, settings.window),
            self.offsets[:-1],
        )


def make_world(seed: int, n_users: int = 12, n_items: int = 15, longest: int = 11) -> World:
    """Users of 3 to `longest` interactions; small catalogues make repeats and shared targets common."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, longest + 1, n_users)
    users = [generator.integers(0, n_items, length).tolist() for length in lengths]
    return world_of(users, n_items)


def world_of(users: list[list[int]], n_items: int) -> World:
    lengths = np.array([len(user) for user in users])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return World(users, n_items, offsets, np.array([i for user in users for i in user]), lengths - 2)


def states_for(n_items: int, layers: int = 1, seed: int = 0) -> Tensor:
    """`[I, A, 6]` made-up hidden states with a mean and spreads that differ by dimension."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n_items, layers, 6, generator=generator)
    return raw * torch.linspace(0.5, 2, 6) + torch.linspace(-1, 1, 6)


def recommender(
    settings: Settings, world: World, method: str = "id", seed: int = 0, **hyper: Any
) -> Recommender:
    """The harness's own recommender over `world`, without dropout."""
    cls = registry.get(method)
    torch.manual_seed(seed)
    n_trained = len(world.sequences.trained)
    if cls.reads == "ids":
        context = Context(settings.width, world.n_items, total_steps=10)
        inputs = ItemInputs(lambda ids, _: Items(ids=ids))
        return Recommender(
            cls(cls.Config(), context), ItemEncoder(inputs, settings, CPU), world.n_items, n_trained, settings
        )
    config = cls.Config(**{"dropout": 0.0, **hyper})
    states = states_for(world.n_items, len(cls.layers(config, 4)))
    mean, std = state_statistics(states)
    context = Context(settings.width, world.n_items, 10, 4, states.shape[-1], mean, std)
    inputs = ItemInputs(lambda ids, _: Items(states=states[ids]))
    encoder = ItemEncoder(inputs, settings, CPU)
    return spread(Recommender(cls(config, context), encoder, world.n_items, n_trained, settings))


TEXTS = ("brush", "soap", "tea", "lamp", "wooden brush for shoes", "a lamp of green glass", "tea with mint")


@cache
def random_tiny() -> nn.Module:
    """The language model `random-tiny`, to be copied."""
    return load_model(find_llm("random-tiny"))


@cache
def tokens_of(n_items: int) -> Tokens:
    """Of short texts."""
    texts = [f"{TEXTS[item % len(TEXTS)]} {item}" for item in range(n_items)]
    return load_tokens(texts, find_llm("random-tiny"))


def token_recommender(
    settings: Settings, world: World, method: str, seed: int = 0, lower: bool = False, **hyper: Any
) -> Recommender:
    """A recommender over `world` whose method runs a small random language model; its dropout is on.

    `lower` hands in the states behind the layers that the method never trains.
    """
    cls, llm, frozen = registry.get(method), find_llm("random-tiny"), random_tiny()
    tokens, config = tokens_of(world.n_items), cls.Config(**hyper)
    depth = cls.frozen_layers(config, llm.n_layers) if lower else 0
    model = copy.deepcopy(frozen)

    def read(items: Tensor, width: int) -> Items:
        ids, mask = tokens.batch(items, width)
        if not depth:
            return Items(input_ids=ids, attention_mask=mask)
        with torch.no_grad():
            states = frozen(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return Items(hidden=states[depth], attention_mask=mask)

    torch.manual_seed(seed)
    context = Context(
        settings.width, world.n_items, 10, llm.n_layers, llm.width, llm=model, pooling="first", lower=depth
    )
    encoder = ItemEncoder(ItemInputs(read, tokens.lengths), settings, CPU)
    return Recommender(cls(config, context), encoder, world.n_items, len(world.sequences.trained), settings)


def spread(model: Recommender) -> Recommender:
    """Larger weights than training starts from, so that no two numbers agree because both are near zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def with_settings(**changes: Any) -> Settings:
    return replace(PLAIN, **changes)


def pairs_of(rows: Rows, items: Ints) -> list[tuple[int, tuple[int, ...], int]]:
    """Every (user, prefix, target) that `rows` predict, by plain slicing, sorted."""
    found = []
    for user, start, length, first in zip(rows.user, rows.start, rows.length, rows.first, strict=True):
        row = items[start : start + length].tolist()
        found += [(int(user), tuple(row[: j + 1]), int(items[start + j + 1])) for j in range(first, length)]
    return sorted(found)


def plain_pairs(world: World, window: int) -> list[tuple[int, tuple[int, ...], int]]:
    """What the paper trains on: each item of the training part from at most `window` items before it."""
    return sorted(
        (user, tuple(items[max(0, j - window) : j]), items[j])
        for user, items in enumerate(world.users)
        for j in range(1, len(items) - 2)
    )


def trainer(
    model: Recommender, task: Task, settings: Settings, folder: Path, seed: int = 0
) -> tuple[Trainer, list[str]]:
    """The harness's trainer on the CPU in fp32, and the lines it says."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    lines: list[str] = []
    # of a run of another test in this process
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    return Trainer(model, task, settings, seed, accelerator, Checkpoint(folder), lines.append), lines


def trained_steps(
    model: Recommender, task: Task, settings: Settings, folder: Path, seed: int = 0
) -> list[dict[str, Tensor]]:
    """The gradients that each optimiser step of a run saw, by parameter."""
    made, _ = trainer(model, task, settings, folder, seed)
    steps: list[dict[str, Tensor]] = []

    def watch(*_: Any) -> None:
        steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    made.optimiser.optimizer.register_step_pre_hook(watch)
    made.fit()
    return steps
