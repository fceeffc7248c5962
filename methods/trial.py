"""A method on small random inputs: built, embedded, trained for a few steps, for `methods.checks`.

Symbols of shape comments as in `methods.base`; `I` items of the catalogue.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, state_statistics, trainable
from methods.declarations import check_class, check_config, check_layers, line, require
from methods.pooling import pool

T = TypeVar("T")

CATALOGUE, BATCH, OUT_DIM = 64, 24, 32
LAYERS, WIDTH, TOKENS, VOCABULARY = 12, 48, 12, 101
STEPS, LEARNING_RATE = 8, 1e-3
TOLERANCE = 1e-3
"""How far two computations of one embedding may differ, as a share of the spread between items."""


@dataclass
class Training:
    """A method after a few training steps, and what was seen on the way."""

    method: Method
    before: Tensor
    """Embeddings before training, `[M, d]`."""
    after: Tensor
    """Embeddings after training, `[M, d]`."""
    promised: dict[str, nn.Parameter]
    """Name -> parameter of `param_groups`."""
    everything: dict[str, nn.Parameter]
    """Name -> each parameter of the method and of the language model that it was given."""
    reached: set[str] = field(default_factory=set)
    """Promised parameters that got a gradient other than zero in some step."""
    moved: set[str] = field(default_factory=set)
    """Parameters that differed from their start after some step."""

    @property
    def spread(self) -> float:
        """Mean standard deviation over items of the embeddings after training."""
        return float(self.after.std(0).mean())

    @property
    def limit(self) -> float:
        """The largest difference between two computations of an embedding that rounding in fp32 explains."""
        return TOLERANCE * self.spread + 1e-5 * float(self.after.abs().max())


class Trial:
    """A method class with its configuration and random inputs; what is asked of it is computed once.

    Each part draws from random numbers of its own, so that it is the same whichever check asks first. The
    global random number generators are left as they were.
    """

    def __init__(self, cls: type[Method], config: Any, seed: int) -> None:
        self.cls, self._given, self.seed = cls, config, seed

    @cached_property
    def config(self) -> Any:
        """The hyper-parameters under test."""
        check_class(self.cls)
        return check_config(self.cls, self._given)

    @cached_property
    def inputs(self) -> tuple[Context, Items]:
        """The surroundings of the method and `BATCH` items of the kind that it reads."""
        config = self.config
        layers = () if self.cls.reads == "ids" else check_layers(self.cls, config, LAYERS)
        with self.seeded(0):
            return trial_inputs(self.cls.reads, layers, total_steps=100 * STEPS)

    @property
    def context(self) -> Context:
        """The surroundings of the method."""
        return self.inputs[0]

    @property
    def items(self) -> Items:
        """The items of the trial, `[M]`."""
        return self.inputs[1]

    @contextmanager
    def seeded(self, part: int) -> Iterator[None]:
        """Random numbers of a part of the trial, with gradients on; the global generators are restored."""
        python, numpy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(self.seed * 1_000 + part)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)

    def build(self, lower: int = 0) -> tuple[Method, nn.Module]:
        """A new instance, and the language model it was given (an empty module where it reads none)."""
        llm = copy.deepcopy(self.context.llm)  # a method may change the one that it gets
        context = replace(self.context, llm=llm, lower=lower)
        return self.attempt("building it", lambda: self.cls(self.config, context)), llm or nn.Module()

    def run(self, method: Method, items: Items) -> Tensor:
        """`[M, d]`, its shape and values checked."""
        mode = "training" if method.training else "eval"
        output: Any = self.attempt(f"forward in {mode} mode", lambda: method(items))
        self.require(isinstance(output, Tensor), f"forward must return a tensor, not {type(output).__name__}")
        expected, got = [len(items), self.context.out_dim], list(output.shape)
        self.require(got == expected, f"forward must return [M, d] = {expected}, not {got}")
        self.require(output.is_floating_point(), f"forward must return floating numbers, not {output.dtype}")
        self.require(bool(output.isfinite().all()), f"forward in {mode} mode gives nan or infinity")
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def embed(self, method: Method, items: Items | None = None) -> Tensor:
        """Embeddings in eval mode, `[M, d]` in fp32."""
        return self.run(method.eval(), items or self.items).float()

    @cached_property
    def training(self) -> Training:
        """The method after a few steps on a random linear functional of its embeddings."""
        with self.seeded(1):
            method, llm = self.build()
            promised = self._promised(method, llm)
            before = self.embed(method)
            everything = {**dict(llm.named_parameters(prefix="llm")), **dict(method.named_parameters())}
            done = Training(method, before, before, promised, everything)
            self._train(done)
            done.after = self.embed(method)
        return done

    def _promised(self, method: Method, llm: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that the method says it trains: those of `param_groups`."""
        listed = self.attempt(
            "param_groups",
            lambda: [one for group in method.param_groups(LEARNING_RATE) for one in group["params"]],
        )
        self.require(len(set(listed)) == len(listed), "param_groups names a parameter twice")
        self.require(len(listed) > 0, "it has no parameter to train")
        names = {parameter: name for name, parameter in method.named_parameters()}
        for parameter in listed:
            where = f"a parameter of shape {list(parameter.shape)} in param_groups"
            self.require(
                parameter in names, f"{where} is not registered in the module, so it would not be saved"
            )
            frozen = f"{names.get(parameter)} is promised to train, but it is frozen (requires_grad is False)"
            self.require(parameter.requires_grad, frozen)
        for parameter, name in names.items():
            if self.cls.reads != "tokens":  # only a language model may have parts that stay as they are
                self.require(parameter.requires_grad, f"{name} is frozen; make it a buffer or let it train")
            left_out = parameter.requires_grad and parameter not in set(listed)
            self.require(not left_out, f"{name} has requires_grad but is in no group of param_groups")
        hidden = [one for one in trainable(llm) if one in set(listed) and one not in names]
        self.require(not hidden, "the language model trains but is not a part of the module")
        return {names[parameter]: parameter for parameter in listed}

    def _train(self, done: Training) -> None:
        """Take the steps and note what gets gradients and what moves."""
        method = done.method.train()
        start = {name: parameter.detach().clone() for name, parameter in done.everything.items()}
        optimiser = torch.optim.Adam(method.param_groups(LEARNING_RATE))
        weights = torch.randn(BATCH, OUT_DIM)  # [M, d]
        for step in range(1, STEPS + 1):
            loss = (self.run(method, self.items).float() * weights).mean() + self._auxiliary(method)
            self.attempt("backward", loss.backward)
            for name, parameter in done.promised.items():
                if parameter.grad is not None:
                    finite = bool(parameter.grad.isfinite().all())
                    self.require(finite, f"{name} gets a gradient of nan or infinity")
                    done.reached |= {name} if parameter.grad.any() else set()
            optimiser.step()
            number = step
            self.attempt("after_step", lambda number=number: method.after_step(number))  # type: ignore[misc]
            optimiser.zero_grad()
            # at some step, not in the end: AdaLoRA takes back what it learned in a matrix that it gives up
            done.moved |= {
                name for name, now in done.everything.items() if not torch.equal(now.detach(), start[name])
            }

    def _auxiliary(self, method: Method) -> Tensor:
        loss = self.attempt("aux_loss", method.aux_loss)
        if loss is None:
            return torch.zeros(())
        scalar = isinstance(loss, Tensor) and loss.ndim == 0
        self.require(scalar, "aux_loss must return None or a scalar tensor")
        self.require(bool(loss.isfinite()), "aux_loss gives nan or infinity")
        return loss

    def attempt(self, what: str, action: Callable[[], T]) -> T:
        """Run `action`; an exception becomes the method's failure."""
        try:
            return action()
        except Exception as error:
            raise AssertionError(f"{self.cls.__name__}: {what} raised {line(error)}") from error

    def require(self, condition: bool, message: str) -> None:
        """Fail with `message` unless `condition` holds."""
        require(self.cls, condition, message)


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
    """A random BERT as transformers loads one: in eval mode, every weight trainable.

    With larger weights all tokens of a text end in the same state, and nothing that is done wrong with tokens
    would show.
    """
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=WIDTH, max_position_embeddings=4 * TOKENS, initializer_range=0.08,
    )  # fmt: skip
    model: nn.Module = BertModel(config, add_pooling_layer=False)
    return model.eval()


def _random_tokens() -> Items:
    """Texts of 3 to `TOKENS` tokens, padded on the right with token 0."""
    length = torch.randint(3, TOKENS, (BATCH,))  # [M]
    length[0], length[1] = 3, TOKENS
    mask = (torch.arange(TOKENS) < length[:, None]).long()  # [M, T]
    return Items(input_ids=torch.randint(1, VOCABULARY, mask.shape) * mask, attention_mask=mask)
