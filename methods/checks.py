"""Conformance checks of a method, each with a name, for use in the tests of its author.

```python
from methods.checks import check_method, parametrize_checks

@parametrize_checks(MyMethod)             # pytest reports each check as a test
def test_my_method(check):
    check()

check_method(MyMethod)                    # all checks at once; raises the first failure
```

The checks train the method for a few steps on small random inputs. They need no data, no network and no
language model, and take about a second. A check that fails raises `AssertionError` with one line that says
which rule of `methods.base` the method breaks. Symbols of shape comments are those of `methods.base`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Items, Method, observes, precomputes
from methods.declarations import check_frozen_layers, check_tables
from methods.under_test import (
    BATCH,
    LAYERS,
    OUT_DIM,
    Check,
    CheckResult,
    MethodUnderTest,
    all_states,
    list_checks,
    run_checks,
)

QUERIES = 64


def hyper_parameters(test: MethodUnderTest) -> None:
    """`reads` is valid; `Config` is a frozen dataclass whose defaults fit their types and go into JSON."""
    _ = test.config


def tables(test: MethodUnderTest) -> None:
    """`grid`, `paper` and `schedule` name settings that exist, with valid values."""
    check_tables(test.cls)


def layers_exist(test: MethodUnderTest) -> None:
    """`layers` names distinct layers of the language model, or raises `UserError`."""
    _ = test.inputs


def training(test: MethodUnderTest) -> None:
    """It builds and trains: `[M, d]` of finite floats, `param_groups` lists what trains, finite gradients."""
    _ = test.trained


def gradients(test: MethodUnderTest) -> None:
    """Every parameter of `param_groups` gets a gradient other than zero."""
    # in several steps, not in one: a factor that starts at zero, as in LoRA, hides its partner's gradient
    dead = sorted(set(test.trained.listed) - test.trained.with_gradient)
    test.require(not dead, f"{', '.join(dead)} never gets a gradient other than zero")


def movement(test: MethodUnderTest) -> None:
    """Training changes every parameter of `param_groups` and no other."""
    trained = test.trained
    for name, parameter in trained.parameters.items():
        listed = any(parameter is other for other in trained.listed.values())
        changed = name in trained.changed
        test.require(changed or not listed, f"{name} is in param_groups, but training does not change it")
        test.require(listed or not changed, f"{name} is frozen, but training changes it")


def fault(test: MethodUnderTest) -> None:
    """`fault` returns None or one line of text."""
    message = test.attempt("fault", test.trained.method.fault)
    one_line = message is None or (isinstance(message, str) and message != "" and "\n" not in message)
    test.require(one_line, f"fault must return None or one line of text, not {message!r}")


def items_differ(test: MethodUnderTest) -> None:
    """Not all items get the same embedding."""
    embedded = test.trained.after
    test.require(bool((embedded - embedded[0]).any()), "every item gets the same embedding")


def repeatable(test: MethodUnderTest) -> None:
    """In eval mode an embedding is not random."""
    again = test.embed(test.trained.method)
    _require_same(test, again, test.trained.after, "it is random in eval mode: two calls on one input differ")


def order(test: MethodUnderTest) -> None:
    """An item's embedding does not depend on its position in the batch."""
    rows = torch.randperm(BATCH)
    shuffled = test.embed(test.trained.method, _take(test.items, rows))
    message = "an item's embedding depends on the order of the batch"
    _require_same(test, shuffled, test.trained.after[rows], message)


def neighbours(test: MethodUnderTest) -> None:
    """An item's embedding does not depend on the other items of the batch."""
    alone = [test.embed(test.trained.method, _take(test.items, row[None])) for row in torch.arange(BATCH)]
    message = "an item's embedding depends on its neighbours in the batch"
    _require_same(test, torch.cat(alone), test.trained.after, message)


def padding(test: MethodUnderTest) -> None:
    """An item's embedding does not depend on how far its tokens are padded."""
    ids, mask = test.items.input_ids, test.items.attention_mask
    if ids is not None and mask is not None:
        padded = replace(
            test.items, input_ids=F.pad(ids, (0, 5)), attention_mask=F.pad(mask, (0, 5))
        )  # [M, T + 5] both
        embedded = test.embed(test.trained.method, padded)
        _require_same(test, embedded, test.trained.after, "an item's embedding depends on padding")


def layers_used(test: MethodUnderTest) -> None:
    """The embedding depends on every layer of axis `A`, since each costs time and disk."""
    catalogue, states, trained = test.inputs.states, test.items.states, test.trained
    if catalogue is None:
        return
    method, expected = trained.method, trained.after
    for index, layer in enumerate(test.cls.layers(test.config, LAYERS)):
        items = test.items
        if states is not None:
            items = replace(items, states=_rolled(states, index))
        if observes(test.cls):  # what it made of the states before training may be all that it uses
            with test.seeded(3):
                expected = test.embed(test.build()[0])
            with test.seeded(3):
                method, _ = test.build(states=_rolled(catalogue, index))
        same = torch.equal(test.embed(method, items), expected)
        test.require(not same, f"layers() asks for layer {layer}, but the embedding does not depend on it")


def _rolled(states: Tensor, index: int) -> Tensor:
    """The same `[M, A, D]`, but in the layer at `index` each item has the states of another item."""
    changed = states.clone()
    changed[:, index] = changed[:, index].roll(1, dims=0)
    return changed


def precomputed(test: MethodUnderTest) -> None:
    """`precompute` gives the same before and after training: the harness calls it once, before."""
    if not precomputes(test.cls) or test.items.states is None:
        return
    with test.seeded(1):
        method, _ = test.build()
    before, after = (test.precomputed(own, test.items).states for own in (method, test.trained.method))
    assert before is not None and after is not None
    message = "precompute gives other values after training; it may use constants and buffers alone"
    test.require(torch.equal(before, after), message)


def lower_layers(test: MethodUnderTest) -> None:
    """The layers of `frozen_layers` may run once, outside the method, with the same result."""
    items, llm, trained = test.items, test.context.llm, test.trained
    if llm is None or items.attention_mask is None:
        return
    lower = check_frozen_layers(test.cls, test.config, LAYERS)
    if not lower:
        return
    hidden = all_states(llm, items)[lower] * items.attention_mask[:, :, None]  # [M, T, D]
    twin, _ = test.build(lower)
    frozen = {name for name, parameter in trained.method.named_parameters() if not parameter.requires_grad}
    learned = {name: value for name, value in trained.method.state_dict().items() if name not in frozen}
    unexpected = twin.load_state_dict(learned, strict=False).unexpected_keys
    test.require(not unexpected, f"with Context.lower = {lower} it has no {', '.join(unexpected)}")
    embedded = test.embed(twin, replace(items, hidden=hidden, input_ids=None))
    _require_same(
        test,
        embedded,
        trained.after,
        f"frozen_layers() is {lower}, but the states after layer {lower} give another embedding than the"
        " tokens",
    )


def saving(test: MethodUnderTest) -> None:
    """The state dict is all that evaluation needs."""
    trained, file = test.trained, io.BytesIO()
    test.attempt("saving its state_dict", lambda: torch.save(trained.method.state_dict(), file))
    file.seek(0)
    state = test.attempt("loading weights only", lambda: torch.load(file, weights_only=True))
    twin, _ = test.build()
    test.attempt("load_state_dict in a new instance", lambda: twin.load_state_dict(state))
    _require_same(
        test,
        test.embed(twin),
        trained.after,
        "a new instance with the saved state_dict embeds otherwise; keep what training changes in parameters"
        " or persistent buffers",
    )


def extra_record(test: MethodUnderTest) -> None:
    """`extra_record` goes into JSON."""
    extra = test.attempt("extra_record", test.trained.method.extra_record)
    test.attempt("writing extra_record as JSON", lambda: json.dumps(extra))


def adaptation(test: MethodUnderTest) -> None:
    """Training changes how items rank for random queries; a common shift or scale would not."""
    queries = torch.randn(OUT_DIM, QUERIES)  # [d, q]
    # each [M, d] x [d, q] -> [M, q]
    before, after = ((table @ queries).argsort(0) for table in (test.trained.before, test.trained.after))
    adapted = not torch.equal(before, after)
    test.require(adapted, "it does not adapt: items rank the same before and after training")


def bf16(test: MethodUnderTest) -> None:
    """A step in bf16 works and stays finite, since the harness chooses the precision."""
    method, _ = test.build()
    items = test.precomputed(method, test.items)  # before training, in full precision
    with torch.autocast("cpu", torch.bfloat16):
        output = test.attempt("forward in bf16 autocast", lambda: method.train()(items))
    finite = bool(output.isfinite().all())
    test.require(finite, "forward in bf16 autocast gives nan or infinity")
    test.attempt("backward in bf16 autocast", output.float().mean().backward)


def random_seed(test: MethodUnderTest) -> None:
    """The method does not set torch's seed, since the harness chooses it."""
    draws = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        method, _ = test.build()
        test.run(method.train(), test.items)
        draws.append(torch.rand(()))
    message = "it sets the seed of torch's random numbers, which is the harness's to choose"
    test.require(not torch.equal(*draws), message)


CHECKS: dict[str, Callable[[MethodUnderTest], None]] = {
    function.__name__: function
    for function in (
        hyper_parameters, tables, layers_exist, training, gradients, movement, fault, items_differ,
        repeatable, order, neighbours, padding, layers_used, precomputed, lower_layers, saving, extra_record,
        adaptation, bf16, random_seed,
    )
}  # fmt: skip
"""Name -> check, in the order in which they run. The first line of a docstring states the rule."""


def method_checks(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """All checks of `cls`, not run yet. They share one training.

    `config` is an instance of `cls.Config`, by default its defaults; `seed` chooses the random inputs and
    weights; `expected_failures` maps names of checks that the method is known to fail to the reason. Raises
    `AssertionError` where `cls` is no method class, and ValueError for a name that is no check.
    """
    return list_checks(CHECKS, MethodUnderTest(cls, config, seed), expected_failures or {})


def check_method(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    on_failure: Literal["raise", "report"] = "raise",
) -> list[CheckResult]:
    """Run `method_checks` and return how each ended.

    Raises `AssertionError` at the first check that fails, or that passes although `expected_failures` names
    it; with `on_failure="report"` it runs all checks and raises nothing.
    """
    return run_checks(method_checks(cls, config, seed=seed, expected_failures=expected_failures), on_failure)


def parametrize_checks(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Any:
    """Decorate a pytest function with the argument `check`, so that each check is a test of its own.

    An expected failure is a strict `xfail` with its reason.
    """
    import pytest

    parameters = []
    for check in method_checks(cls, config, seed=seed, expected_failures=expected_failures):
        reason = check.expected_failure or ""
        xfail = pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
        parameters.append(pytest.param(check, id=check.name, marks=xfail if reason else ()))
    return pytest.mark.parametrize("check", parameters)


def _require_same(test: MethodUnderTest, embedded: Tensor, expected: Tensor, message: str) -> None:
    """Fail with `message` unless two computations of the same embeddings `[M, d]` agree."""
    distance, trained = float((embedded - expected).abs().max()), test.trained
    test.require(
        distance <= trained.limit,
        f"{message} (they differ by up to {distance:.2g}; the spread between items is {trained.spread:.2g})",
    )


def _take(items: Items, rows: Tensor) -> Items:
    """The items at `rows` `[m]`."""
    present = {field.name: getattr(items, field.name) for field in fields(items)}
    return Items(**{name: value[rows] for name, value in present.items() if value is not None})
