"""What conformance checks share, and a method trained for a few steps on small random inputs.

Symbols of shape comments as in `methods.base`; `I` items of the catalogue.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import (
    Context,
    Items,
    Method,
    kinds,
    observes,
    precomputes,
    reads_llm,
    reads_states,
    state_covariance,
    state_statistics,
    trainable,
)
from methods.controls.base import Control
from methods.declarations import attempt, check_class, check_config, check_layers, require
from methods.pooling import pool

T = TypeVar("T")

CATALOGUE, BATCH, OUT_DIM = 64, 24, 32
LAYERS, WIDTH, TOKENS, VOCABULARY = 6, 48, 12, 101
"""Of the language model, which has as many layers as `minilm`, and of its texts."""
STEPS, LEARNING_RATE = 8, 1e-3
CHUNK = 20
"""Items of a chunk that a method observes: the last chunk is smaller."""
TOLERANCE = 1e-3
"""Largest difference between two computations of one embedding, as a share of the spread between items."""


@dataclass(frozen=True)
class CheckResult:
    """How a check ended."""

    name: str
    status: Literal["passed", "failed", "failed as expected", "passed unexpectedly"]
    message: str = ""
    """What is wrong, or the reason of the expected failure."""


class UnderTest:
    """A method or control with a configuration and random inputs. Each property is computed once.

    Every computation draws from its own seed, so that its result does not depend on which check runs first.
    """

    def __init__(self, cls: type[Method] | type[Control], config: Any, seed: int) -> None:
        check_class(cls)
        self.cls: Any = cls
        self._given_config, self.seed = config, seed

    @cached_property
    def config(self) -> Any:
        """The hyper-parameters."""
        return check_config(self.cls, self._given_config)

    @contextmanager
    def seeded(self, stream: int) -> Iterator[None]:
        """Seed torch for random stream `stream` and enable gradients; restore the global generators after."""
        python, numpy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(self.seed * 1_000 + stream)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)

    def attempt(self, what: str, action: Callable[[], T]) -> T:
        """The result of `action`; an exception becomes an `AssertionError` that names `what` raised it."""
        return attempt(self.cls, what, action)

    def require(self, condition: bool, message: str) -> None:
        """Raise `AssertionError` with `message` unless `condition` holds."""
        require(self.cls, condition, message)


@dataclass(frozen=True)
class Check:
    """One check of one method or control. Calling it raises `AssertionError` where that fails."""

    name: str
    function: Callable[[Any], None]
    test: UnderTest
    expected_failure: str | None = None
    """Why the check is known to fail; None where it should pass."""

    def __call__(self) -> None:
        """Run the check. The global random number generators are restored afterwards."""
        with self.test.seeded(2):
            self.function(self.test)

    def result(self) -> CheckResult:
        """Run the check and return how it ended."""
        name, reason = self.name, self.expected_failure
        try:
            self()
        except AssertionError as error:
            if reason:
                return CheckResult(name, "failed as expected", reason)
            return CheckResult(name, "failed", str(error))
        if reason:
            message = f"{self.test.cls.__name__}: {name} passes; remove it from expected_failures"
            return CheckResult(name, "passed unexpectedly", message)
        return CheckResult(name, "passed")


def list_checks(
    functions: Mapping[str, Callable[[Any], None]], test: UnderTest, expected_failures: Mapping[str, str]
) -> list[Check]:
    """A check of each function, not run yet. Raises ValueError for an expected failure that is no check."""
    for name, reason in expected_failures.items():
        if name not in functions or not reason.strip():
            names = list(functions)
            raise ValueError(f"expected_failures: {name!r} needs a reason and must be one of {names}")
    return [Check(name, function, test, expected_failures.get(name)) for name, function in functions.items()]


def run_checks(checks: Sequence[Check], on_failure: Literal["raise", "report"]) -> list[CheckResult]:
    """Run `checks`; parameters, result and errors as in `methods.checks.check_method`."""
    results = []
    for check in checks:
        results.append(check.result())
        if on_failure == "raise" and results[-1].status in ("failed", "passed unexpectedly"):
            raise AssertionError(results[-1].message)
    return results


@dataclass
class TrainedMethod:
    """A method after a few training steps, with what was observed during them."""

    method: Method
    before: Tensor
    """Embeddings before training, `[M, d]`."""
    after: Tensor
    """Embeddings after training, `[M, d]`."""
    listed: dict[str, nn.Parameter]
    """Name -> parameter that `param_groups` lists."""
    parameters: dict[str, nn.Parameter]
    """Name -> every parameter of the method and of the language model that it was given."""
    with_gradient: set[str] = field(default_factory=set)
    """Listed parameters that got a gradient other than zero in at least one step."""
    changed: set[str] = field(default_factory=set)
    """Parameters that differed from their initial values after at least one step."""

    @property
    def spread(self) -> float:
        """Mean standard deviation over items of the embeddings after training."""
        return float(self.after.std(0).mean())

    @property
    def limit(self) -> float:
        """The largest difference between two computations of an embedding that fp32 rounding explains."""
        return TOLERANCE * self.spread + 1e-5 * float(self.after.abs().max())


class MethodUnderTest(UnderTest):
    """A method, its inputs, and what its training shows."""

    cls: type[Method]

    @cached_property
    def inputs(self) -> RandomInputs:
        """The context of the method, the states of the catalogue, and `BATCH` items of the kinds it reads."""
        layers = check_layers(self.cls, self.config, LAYERS) if reads_llm(self.cls) else ()
        with self.seeded(0):
            return random_inputs(self.cls, layers, total_steps=100 * STEPS)

    @property
    def context(self) -> Context:
        """The context that the method is built with."""
        return self.inputs.context

    @property
    def items(self) -> Items:
        """The items, `[M]`, with states as the language model gave them."""
        return self.inputs.items

    def build(self, lower: int = 0, states: Tensor | None = None) -> tuple[Method, nn.Module]:
        """A new instance and the language model it was given (an empty module where it reads none).

        It observes `states` `[I, A, D]`, by default those of the catalogue.
        """
        llm = copy.deepcopy(self.context.llm)  # the method may change it
        context = replace(self.context, llm=llm, lower=lower)
        method = self.attempt("building it", lambda: self.cls(self.config, context))
        observed = self.inputs.states if states is None else states
        if observes(self.cls) and observed is not None:
            with torch.no_grad():
                self.attempt("observe", lambda: method.observe(torch.split(observed, CHUNK)))
        return method, llm or nn.Module()

    @torch.no_grad()
    def precomputed(self, method: Method, items: Items) -> Items:
        """The items as `forward` gets them: with what `precompute` makes of their states."""
        states = items.states
        if states is None or not precomputes(self.cls):
            return items
        rows: Any = self.attempt("precompute", lambda: method.precompute(states))
        one_each = isinstance(rows, Tensor) and rows.ndim >= 2 and len(rows) == len(states)
        self.require(one_each, "precompute must return a tensor with one row an item, [c, ...]")
        return replace(items, states=rows)

    def run(self, method: Method, items: Items) -> Tensor:
        """Call `method` on `items` and check type, shape and values: -> `[M, d]`."""
        mode = "training" if method.training else "eval"
        given = self.precomputed(method, items)
        output: Any = self.attempt(f"forward in {mode} mode", lambda: method(given))
        self.require(isinstance(output, Tensor), f"forward must return a tensor, not {type(output).__name__}")
        expected, shape = [len(items), self.context.out_dim], list(output.shape)
        self.require(shape == expected, f"forward must return [M, d] = {expected}, not {shape}")
        self.require(output.is_floating_point(), f"forward must return floating numbers, not {output.dtype}")
        self.require(bool(output.isfinite().all()), f"forward in {mode} mode gives nan or infinity")
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def embed(self, method: Method, items: Items | None = None) -> Tensor:
        """Embeddings in eval mode, `[M, d]` in fp32."""
        return self.run(method.eval(), items or self.items).float()

    @cached_property
    def trained(self) -> TrainedMethod:
        """The method after a few steps on a random linear functional of its embeddings."""
        with self.seeded(1):
            method, llm = self.build()
            listed = self._listed_parameters(method, llm)
            before = self.embed(method)
            parameters = {**dict(llm.named_parameters(prefix="llm")), **dict(method.named_parameters())}
            trained = TrainedMethod(method, before, before, listed, parameters)
            self._train(trained)
            trained.after = self.embed(method)
        return trained

    def _listed_parameters(self, method: Method, llm: nn.Module) -> dict[str, nn.Parameter]:
        """Name -> parameter of `param_groups`, which must list exactly what trains."""
        groups = self.attempt("param_groups", lambda: method.param_groups(LEARNING_RATE))
        listed = [parameter for group in groups for parameter in group["params"]]
        self.require(len(set(listed)) == len(listed), "param_groups names a parameter twice")
        self.require(len(listed) > 0, "it has no parameter to train")
        names = {parameter: name for name, parameter in method.named_parameters()}
        for parameter in listed:
            self.require(
                parameter in names,
                f"a parameter of shape {list(parameter.shape)} in param_groups is not registered in the"
                " module, so it would not be saved",
            )
            frozen = f"{names[parameter]} is in param_groups, but it is frozen (requires_grad is False)"
            self.require(parameter.requires_grad, frozen)
        for parameter, name in names.items():
            if "tokens" not in kinds(self.cls):  # only a language model may have frozen parameters
                self.require(parameter.requires_grad, f"{name} is frozen; make it a buffer or let it train")
            left_out = parameter.requires_grad and parameter not in set(listed)
            self.require(not left_out, f"{name} has requires_grad but is in no group of param_groups")
        registered = all(parameter in names for parameter in trainable(llm) if parameter in set(listed))
        self.require(registered, "the language model trains but is not a part of the module")
        return {names[parameter]: parameter for parameter in listed}

    def _train(self, trained: TrainedMethod) -> None:
        """Take the steps and note which parameters get gradients and which change."""
        method = trained.method.train()
        initial = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
        optimiser = torch.optim.Adam(method.param_groups(LEARNING_RATE))
        weights = torch.randn(BATCH, OUT_DIM)  # [M, d]
        for step in range(1, STEPS + 1):
            loss = (self.run(method, self.items).float() * weights).mean() + self._auxiliary_loss(method)
            self.attempt("backward", loss.backward)
            for name, parameter in trained.listed.items():
                if parameter.grad is not None:
                    finite = bool(parameter.grad.isfinite().all())
                    self.require(finite, f"{name} gets a gradient of nan or infinity")
                    trained.with_gradient |= {name} if parameter.grad.any() else set()
            optimiser.step()
            self.attempt("after_step", partial(method.after_step, step))
            optimiser.zero_grad()
            # after each step, not after the last: AdaLoRA resets a matrix whose rank it takes away
            trained.changed |= {
                name
                for name, now in trained.parameters.items()
                if not torch.equal(now.detach(), initial[name])
            }

    def _auxiliary_loss(self, method: Method) -> Tensor:
        loss = self.attempt("aux_loss", method.aux_loss)
        if loss is None:
            return torch.zeros(())
        scalar = isinstance(loss, Tensor) and loss.ndim == 0
        self.require(scalar, "aux_loss must return None or a scalar tensor")
        self.require(bool(loss.isfinite()), "aux_loss gives nan or infinity")
        return loss


@dataclass(frozen=True)
class RandomInputs:
    """What a method is built with and what it embeds."""

    context: Context
    items: Items
    """`BATCH` items, the first of the catalogue."""
    states: Tensor | None = None
    """`[I, A, D]` of the whole catalogue; None for a reader of tokens."""


def random_inputs(cls: type[Method], layers: tuple[int, ...], total_steps: int) -> RandomInputs:
    """Random inputs for a method that asks for `layers`."""
    reads = kinds(cls)
    context, states = Context(out_dim=OUT_DIM, n_items=CATALOGUE, total_steps=total_steps), None
    found: dict[str, Tensor] = {"ids": torch.randperm(CATALOGUE)[:BATCH]} if "ids" in reads else {}
    ids = found.get("ids", torch.arange(BATCH))  # [M]
    if reads_llm(cls):
        context = replace(context, llm_layers=LAYERS, llm_width=WIDTH)
    if "tokens" in reads:
        llm, tokens = _tiny_bert(), _random_tokens()
        found |= {name: value for name, value in vars(tokens).items() if value is not None}
        context = replace(context, llm=llm)
        if layers:
            context = _with_statistics(context, _pooled(llm, tokens, layers, context))
    if layers and reads_states(cls):
        states = _random_states(len(layers))  # [I, A, D]
        context = _with_statistics(context, states)
    if states is not None and "states" in reads:
        found["states"] = states[ids]  # [M, A, D]
    if cls.reads_cooccurrences:
        context = replace(context, cooccurrences=_random_counts())
    return RandomInputs(context, Items(**found), states)


def _random_states(layers: int) -> Tensor:
    """`[I, A, D]`: real states have a common mean larger than their spread, and both differ by dimension."""
    mean = 2 * torch.randn(layers, WIDTH)  # [A, D]
    spread = 0.3 * torch.randn(layers, WIDTH).mul(0.5).exp()  # [A, D]
    return mean + spread * torch.randn(CATALOGUE, layers, WIDTH)


def _random_counts() -> Tensor:
    """Symmetric counts of items that stand side by side, `[I, I]` sparse."""
    counts = torch.randint(0, 3, (CATALOGUE, CATALOGUE)).float()
    return (counts + counts.T).to_sparse()


@torch.no_grad()
def all_states(llm: nn.Module, items: Items) -> tuple[Tensor, ...]:
    """The states of all tokens after the embeddings and after each layer, each `[M, T, D]`."""
    output = llm(input_ids=items.input_ids, attention_mask=items.attention_mask, output_hidden_states=True)
    return output.hidden_states  # type: ignore[no-any-return]


def _with_statistics(context: Context, states: Tensor) -> Context:
    mean, std = state_statistics(states)
    covariance = state_covariance(states, mean)
    return replace(context, state_mean=mean, state_std=std, state_covariance=covariance)


def _pooled(llm: nn.Module, items: Items, layers: tuple[int, ...], context: Context) -> Tensor:
    """Pooled states of `layers`, `[M, A, D]`, of which a reader of tokens gets the statistics."""
    assert items.attention_mask is not None
    hidden, mask = all_states(llm, items), items.attention_mask
    return torch.stack([pool(hidden[layer], mask, context.pooling) for layer in layers], dim=1)  # [M, A, D]


def _tiny_bert() -> nn.Module:
    """A random BERT as transformers loads one: in eval mode, every weight trainable.

    With a larger `initializer_range` all tokens of a text end in the same state, which hides mistakes in the
    handling of tokens.
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
