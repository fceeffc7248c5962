"""The conformance test of a method, for its author's own tests: `check_method(MyMethod)`.

It trains the method for a few steps on small random inputs and raises `AssertionError`, in one line, at the
first promise of `methods.base` that is not kept. It needs no data, no network and no language model, takes
about a second, and knows nothing of the harness. Symbols of shape comments as in `methods.base`.
"""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import Context, Items, Method, trainable
from methods.declarations import (
    check_class,
    check_config,
    check_frozen_layers,
    check_layers,
    check_tables,
    line,
    require,
)
from methods.trial import BATCH, LAYERS, OUT_DIM, all_states, trial_inputs

T = TypeVar("T")

STEPS, LEARNING_RATE, QUERIES = 8, 1e-3, 64
TOLERANCE = 1e-3
"""How far two computations of one embedding may differ, as a share of the spread between items."""


def check_method(cls: type[Method], config: Any = None, *, seed: int = 0) -> None:
    """Raise `AssertionError` unless `cls` keeps the contract of a method.

    `config` is an instance of `cls.Config`; its defaults when left out. `seed` chooses the random inputs and
    weights. The state of the global random number generators is the same afterwards.
    """
    check_class(cls)
    config = check_config(cls, config)
    check_tables(cls)
    with _random_state_kept(), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        subject = _subject(cls, config)
        method, llm = subject.build()
        promised = _promised(subject, method, llm)
        before = subject.embed(method)
        _check_training(subject, method, llm, promised)
        after = subject.embed(method)
        _check_evaluation(subject, method, after)
        _check_reading(subject, method, after)
        _check_lower(subject, method, after)
        _check_saving(subject, method, after)
        _check_adapting(subject, before, after)
        _check_precision(subject)
        _check_seed(subject)


@dataclass(frozen=True)
class _Subject:
    """A method under test and the inputs of its trial."""

    cls: type[Method]
    config: Any
    context: Context
    items: Items

    def build(self) -> tuple[Method, nn.Module]:
        """A new instance, and the language model it was given (an empty module where it reads none)."""
        llm = copy.deepcopy(self.context.llm)  # a method may change the one that it gets
        method = self.attempt("building it", lambda: self.cls(self.config, replace(self.context, llm=llm)))
        return method, llm or nn.Module()

    def run(self, method: Method, items: Items) -> Tensor:
        """`[M, d]`, its shape and values checked."""
        mode = "training" if method.training else "eval"
        output: Any = self.attempt(f"forward in {mode} mode", lambda: method(items))
        self.require(isinstance(output, Tensor), f"forward must return a tensor, not {type(output).__name__}")
        wanted = [len(items), self.context.out_dim]
        got = list(output.shape)
        self.require(got == wanted, f"forward must return [M, d] = {wanted}, not {got}")
        self.require(output.is_floating_point(), f"forward must return floating numbers, not {output.dtype}")
        self.require(bool(output.isfinite().all()), f"forward in {mode} mode gives nan or infinity")
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def embed(self, method: Method, items: Items | None = None) -> Tensor:
        """Embeddings in eval mode, `[M, d]` in fp32."""
        return self.run(method.eval(), items or self.items).float()

    def attempt(self, what: str, action: Callable[[], T]) -> T:
        """Run `action`; an exception becomes the method's failure."""
        try:
            return action()
        except Exception as error:
            raise AssertionError(f"{self.cls.__name__}: {what} raised {line(error)}") from error

    def require(self, condition: bool, message: str) -> None:
        """Fail with `message` unless `condition` holds."""
        require(self.cls, condition, message)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the global generators of torch (CPU), Python and numpy as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _subject(cls: type[Method], config: Any) -> _Subject:
    """Random inputs of the kind that `cls` reads."""
    layers = () if cls.reads == "ids" else check_layers(cls, config, LAYERS)
    return _Subject(cls, config, *trial_inputs(cls.reads, layers, total_steps=100 * STEPS))


def _promised(subject: _Subject, method: Method, llm: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the method says it trains: those of `param_groups`."""
    listed = subject.attempt(
        "param_groups",
        lambda: [parameter for group in method.param_groups(LEARNING_RATE) for parameter in group["params"]],
    )
    subject.require(len(set(listed)) == len(listed), "param_groups names a parameter twice")
    subject.require(len(listed) > 0, "it has no parameter to train")
    names = {parameter: name for name, parameter in method.named_parameters()}
    for parameter in listed:
        where = f"a parameter of shape {list(parameter.shape)} in param_groups"
        subject.require(
            parameter in names, f"{where} is not registered in the module, so it would not be saved"
        )
        frozen = f"{names.get(parameter)} is promised to train, but it is frozen (requires_grad is False)"
        subject.require(parameter.requires_grad, frozen)
    for parameter, name in names.items():
        if subject.cls.reads != "tokens":  # only a language model may have parts that stay as they are
            subject.require(parameter.requires_grad, f"{name} is frozen; make it a buffer or let it train")
        left_out = parameter.requires_grad and parameter not in set(listed)
        subject.require(not left_out, f"{name} has requires_grad but is in no group of param_groups")
    hidden = [
        parameter for parameter in trainable(llm) if parameter in set(listed) and parameter not in names
    ]
    subject.require(not hidden, "the language model trains but is not a part of the module")
    return {names[parameter]: parameter for parameter in listed}


def _check_training(
    subject: _Subject, method: Method, llm: nn.Module, promised: Mapping[str, nn.Parameter]
) -> None:
    """Take a few steps: what is promised gets gradients and moves, and nothing else does."""
    everything = {**dict(llm.named_parameters(prefix="llm")), **dict(method.named_parameters())}
    start = {name: parameter.detach().clone() for name, parameter in everything.items()}
    optimiser = torch.optim.Adam(method.param_groups(LEARNING_RATE))
    weights = torch.randn(BATCH, OUT_DIM)  # [M, d], a random linear functional of the embeddings
    reached: set[str] = set()
    moved: set[str] = set()
    method.train()
    for step in range(1, STEPS + 1):
        loss = (subject.run(method, subject.items).float() * weights).mean() + _auxiliary(subject, method)
        subject.attempt("backward", loss.backward)
        for name, parameter in promised.items():
            if parameter.grad is not None:
                subject.require(
                    bool(parameter.grad.isfinite().all()), f"{name} gets a gradient of nan or infinity"
                )
                reached |= {name} if parameter.grad.any() else set()
        optimiser.step()
        number = step
        subject.attempt("after_step", lambda number=number: method.after_step(number))  # type: ignore[misc]
        optimiser.zero_grad()
        # at some step, not in the end: AdaLoRA takes back what it learned in a matrix that it gives up
        moved |= {name for name, now in everything.items() if not torch.equal(now.detach(), start[name])}
    # in several steps, not in one: a factor that starts at zero, as in LoRA, hides its partner's gradient
    dead = sorted(set(promised) - reached)
    subject.require(not dead, f"{', '.join(dead)} never gets a gradient other than zero")
    for name, parameter in everything.items():
        is_promised = any(parameter is other for other in promised.values())
        subject.require(
            name in moved or not is_promised, f"{name} is promised to train, but it does not move"
        )
        subject.require(is_promised or name not in moved, f"{name} is frozen, but it moves in training")
    fault = subject.attempt("fault", method.fault)
    one_line = fault is None or (isinstance(fault, str) and fault != "" and "\n" not in fault)
    subject.require(one_line, f"fault must return None or one line of text, not {fault!r}")


def _auxiliary(subject: _Subject, method: Method) -> Tensor:
    loss = subject.attempt("aux_loss", method.aux_loss)
    if loss is None:
        return torch.zeros(())
    scalar = isinstance(loss, Tensor) and loss.ndim == 0
    subject.require(scalar, "aux_loss must return None or a scalar tensor")
    subject.require(bool(loss.isfinite()), "aux_loss gives nan or infinity")
    return loss


def _check_evaluation(subject: _Subject, method: Method, whole: Tensor) -> None:
    """An item's embedding is a function of the item: not of chance, order, neighbours or padding."""
    spread = float(whole.std(0).mean())
    differ = bool((whole - whole[0]).any())
    subject.require(differ, "every item gets the same embedding")
    limit = _limit(whole)

    def agree(other: Tensor, wanted: Tensor, message: str) -> None:
        far = float((other - wanted).abs().max())
        subject.require(
            far <= limit, f"{message} (by up to {far:.2g}; the spread between items is {spread:.2g})"
        )

    agree(subject.embed(method), whole, "it is random in eval mode: two calls on one input differ")
    order = torch.randperm(BATCH)
    shuffled = subject.embed(method, _take(subject.items, order))
    agree(shuffled, whole[order], "an item's embedding depends on the order of the batch")
    alone = torch.cat([subject.embed(method, _take(subject.items, row[None])) for row in torch.arange(BATCH)])
    agree(alone, whole, "an item's embedding depends on its neighbours in the batch")
    ids, mask = subject.items.input_ids, subject.items.attention_mask
    if ids is not None and mask is not None:
        padded = Items(input_ids=F.pad(ids, (0, 5)), attention_mask=F.pad(mask, (0, 5)))  # [M, T + 5]
        agree(subject.embed(method, padded), whole, "an item's embedding depends on padding")


def _limit(whole: Tensor) -> float:
    """The largest difference that rounding in fp32 explains."""
    return TOLERANCE * float(whole.std(0).mean()) + 1e-5 * float(whole.abs().max())


def _take(items: Items, rows: Tensor) -> Items:
    """The items at `rows` `[m]`."""
    present = {field.name: getattr(items, field.name) for field in fields(items)}
    return Items(**{name: value[rows] for name, value in present.items() if value is not None})


def _check_reading(subject: _Subject, method: Method, whole: Tensor) -> None:
    """Every layer on axis `A` counts: preparing one costs a user time and disk."""
    states = subject.items.states
    if states is None:
        return
    for place, layer in enumerate(subject.cls.layers(subject.config, LAYERS)):
        changed = states.clone()
        changed[:, place] = changed[:, place].roll(1, dims=0)  # every item gets another one's states
        same = torch.equal(subject.embed(method, Items(states=changed)), whole)
        subject.require(not same, f"layers() asks for layer {layer}, but the embedding does not depend on it")


def _check_lower(subject: _Subject, method: Method, whole: Tensor) -> None:
    """Layers that are promised never to train may run once, outside the method, with the same result."""
    items, llm = subject.items, subject.context.llm
    if llm is None or items.attention_mask is None:
        return
    lower = check_frozen_layers(subject.cls, subject.config, LAYERS)
    if not lower:
        return
    hidden = all_states(llm, items)[lower] * items.attention_mask[:, :, None]  # [M, T, D]
    above = replace(subject, context=replace(subject.context, lower=lower))
    twin, _ = above.build()
    names = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    learned = {name: value for name, value in method.state_dict().items() if name not in names}
    unknown = twin.load_state_dict(learned, strict=False).unexpected_keys
    subject.require(not unknown, f"with Context.lower = {lower} it has no {', '.join(unknown)}")
    far = float(
        (above.embed(twin, Items(hidden=hidden, attention_mask=items.attention_mask)) - whole).abs().max()
    )
    subject.require(
        far <= _limit(whole),
        f"frozen_layers() is {lower}, but an embedding from the states behind layer {lower} is another than"
        f" from the tokens (by up to {far:.2g})",
    )


def _check_saving(subject: _Subject, method: Method, whole: Tensor) -> None:
    """The state dict is all that evaluation needs."""
    file = io.BytesIO()
    subject.attempt("saving its state_dict", lambda: torch.save(method.state_dict(), file))
    file.seek(0)
    state = subject.attempt("loading weights only", lambda: torch.load(file, weights_only=True))
    twin, _ = subject.build()
    subject.attempt("load_state_dict in a new instance", lambda: twin.load_state_dict(state))
    far = float((subject.embed(twin) - whole).abs().max())
    subject.require(
        far <= _limit(whole),
        f"a new instance with the saved state_dict embeds otherwise (by up to {far:.2g}); "
        "keep what training changes in parameters or persistent buffers",
    )
    extra = subject.attempt("extra_record", method.extra_record)
    subject.attempt("writing extra_record as JSON", lambda: json.dumps(extra))


def _check_adapting(subject: _Subject, before: Tensor, after: Tensor) -> None:
    """Training reorders the items for random queries; a shift or scale common to all would not."""
    queries = torch.randn(OUT_DIM, QUERIES)  # [d, q]
    first, last = (
        (table @ queries).argsort(0) for table in (before, after)
    )  # each [M, d] x [d, q] -> [M, q]
    moved = not torch.equal(first, last)
    subject.require(moved, "it does not adapt: items rank the same before and after training")


def _check_precision(subject: _Subject) -> None:
    """The harness chooses the precision: a step in bf16 works and stays finite."""
    method, _ = subject.build()
    with torch.autocast("cpu", torch.bfloat16):
        output = subject.attempt("forward in bf16 autocast", lambda: method.train()(subject.items))
    finite = bool(output.isfinite().all())
    subject.require(finite, "forward in bf16 autocast gives nan or infinity")
    subject.attempt("backward in bf16 autocast", output.float().mean().backward)


def _check_seed(subject: _Subject) -> None:
    """The harness chooses the seed: after the method has run, its random numbers are still the harness's."""
    draws = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        method, _ = subject.build()
        subject.run(method.train(), subject.items)
        draws.append(torch.rand(()))
    subject.require(
        not torch.equal(*draws),
        "it sets the seed of torch's random numbers, which is the harness's to choose",
    )
