"""The conformance checks of a method, each with a name, for its author's own tests.

```python
from methods.checks import check_method, parametrize_checks

@parametrize_checks(MyMethod)             # one test of pytest a check
def test_my_method(check):
    check()

check_method(MyMethod)                    # or all of them at once, the first failure raised
```

They train the method for a few steps on small random inputs. They need no data, no network and no language
model, take about a second, and know nothing of the harness. A check that fails raises `AssertionError` with
one line that says which promise of `methods.base` is not kept. Symbols of shape comments as there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Items, Method
from methods.declarations import check_class, check_frozen_layers, check_tables
from methods.trial import BATCH, LAYERS, OUT_DIM, Trial, all_states

QUERIES = 64


def hyper_parameters(trial: Trial) -> None:
    """`reads` is known; `Config` is a frozen dataclass whose defaults fit their types and go into JSON."""
    _ = trial.config


def tables(trial: Trial) -> None:
    """`grid`, `paper` and `schedule` name settings that exist, with values that they take."""
    check_tables(trial.cls)


def layers_exist(trial: Trial) -> None:
    """`layers` names distinct layers that the language model has, or refuses it with a `UserError`."""
    _ = trial.inputs


def training(trial: Trial) -> None:
    """It builds, and trains: `[M, d]` of finite floats, `param_groups` as promised, finite gradients."""
    _ = trial.training


def gradients(trial: Trial) -> None:
    """Every parameter that is promised to train gets a gradient other than zero."""
    # in several steps, not in one: a factor that starts at zero, as in LoRA, hides its partner's gradient
    dead = sorted(set(trial.training.promised) - trial.training.reached)
    trial.require(not dead, f"{', '.join(dead)} never gets a gradient other than zero")


def movement(trial: Trial) -> None:
    """What is promised to train moves; what is frozen does not."""
    done = trial.training
    for name, parameter in done.everything.items():
        promised, moved = any(parameter is one for one in done.promised.values()), name in done.moved
        trial.require(moved or not promised, f"{name} is promised to train, but it does not move")
        trial.require(promised or not moved, f"{name} is frozen, but it moves in training")


def fault(trial: Trial) -> None:
    """`fault` returns None or one line of text."""
    message = trial.attempt("fault", trial.training.method.fault)
    one_line = message is None or (isinstance(message, str) and message != "" and "\n" not in message)
    trial.require(one_line, f"fault must return None or one line of text, not {message!r}")


def items_differ(trial: Trial) -> None:
    """Two items do not all get the same embedding."""
    whole = trial.training.after
    trial.require(bool((whole - whole[0]).any()), "every item gets the same embedding")


def repeatable(trial: Trial) -> None:
    """In eval mode an embedding does not depend on chance."""
    again = trial.embed(trial.training.method)
    _agree(trial, again, trial.training.after, "it is random in eval mode: two calls on one input differ")


def order(trial: Trial) -> None:
    """An item's embedding does not depend on its place in the batch."""
    rows, done = torch.randperm(BATCH), trial.training
    shuffled = trial.embed(done.method, _take(trial.items, rows))
    _agree(trial, shuffled, done.after[rows], "an item's embedding depends on the order of the batch")


def neighbours(trial: Trial) -> None:
    """An item's embedding does not depend on the other items of the batch."""
    done = trial.training
    each = [trial.embed(done.method, _take(trial.items, row[None])) for row in torch.arange(BATCH)]
    _agree(trial, torch.cat(each), done.after, "an item's embedding depends on its neighbours in the batch")


def padding(trial: Trial) -> None:
    """An item's embedding does not depend on how far its tokens are padded."""
    ids, mask = trial.items.input_ids, trial.items.attention_mask
    if ids is not None and mask is not None:
        padded = Items(input_ids=F.pad(ids, (0, 5)), attention_mask=F.pad(mask, (0, 5)))  # [M, T + 5]
        embedded = trial.embed(trial.training.method, padded)
        _agree(trial, embedded, trial.training.after, "an item's embedding depends on padding")


def layers_used(trial: Trial) -> None:
    """Every layer on axis `A` counts: preparing one costs a user time and disk."""
    states, done = trial.items.states, trial.training
    if states is None:
        return
    for place, layer in enumerate(trial.cls.layers(trial.config, LAYERS)):
        changed = states.clone()
        changed[:, place] = changed[:, place].roll(1, dims=0)  # every item gets another one's states
        same = torch.equal(trial.embed(done.method, Items(states=changed)), done.after)
        trial.require(not same, f"layers() asks for layer {layer}, but the embedding does not depend on it")


def lower_layers(trial: Trial) -> None:
    """Layers that are promised never to train may run once, outside the method, with the same result."""
    items, llm, done = trial.items, trial.context.llm, trial.training
    if llm is None or items.attention_mask is None:
        return
    lower = check_frozen_layers(trial.cls, trial.config, LAYERS)
    if not lower:
        return
    hidden = all_states(llm, items)[lower] * items.attention_mask[:, :, None]  # [M, T, D]
    twin, _ = trial.build(lower)
    names = {name for name, parameter in done.method.named_parameters() if not parameter.requires_grad}
    learned = {name: value for name, value in done.method.state_dict().items() if name not in names}
    unknown = twin.load_state_dict(learned, strict=False).unexpected_keys
    trial.require(not unknown, f"with Context.lower = {lower} it has no {', '.join(unknown)}")
    embedded = trial.embed(twin, Items(hidden=hidden, attention_mask=items.attention_mask))
    far = float((embedded - done.after).abs().max())
    trial.require(
        far <= done.limit,
        f"frozen_layers() is {lower}, but an embedding from the states behind layer {lower} is another than"
        f" from the tokens (by up to {far:.2g})",
    )


def saving(trial: Trial) -> None:
    """The state dict is all that evaluation needs."""
    done, file = trial.training, io.BytesIO()
    trial.attempt("saving its state_dict", lambda: torch.save(done.method.state_dict(), file))
    file.seek(0)
    state = trial.attempt("loading weights only", lambda: torch.load(file, weights_only=True))
    twin, _ = trial.build()
    trial.attempt("load_state_dict in a new instance", lambda: twin.load_state_dict(state))
    far = float((trial.embed(twin) - done.after).abs().max())
    trial.require(
        far <= done.limit,
        f"a new instance with the saved state_dict embeds otherwise (by up to {far:.2g}); "
        "keep what training changes in parameters or persistent buffers",
    )


def extra_record(trial: Trial) -> None:
    """`extra_record` goes into JSON."""
    extra = trial.attempt("extra_record", trial.training.method.extra_record)
    trial.attempt("writing extra_record as JSON", lambda: json.dumps(extra))


def adaptation(trial: Trial) -> None:
    """Training reorders the items for random queries; a shift or scale common to all would not."""
    queries = torch.randn(OUT_DIM, QUERIES)  # [d, q]
    # each [M, d] x [d, q] -> [M, q]
    first, last = ((table @ queries).argsort(0) for table in (trial.training.before, trial.training.after))
    moved = not torch.equal(first, last)
    trial.require(moved, "it does not adapt: items rank the same before and after training")


def bf16(trial: Trial) -> None:
    """The harness chooses the precision: a step in bf16 works and stays finite."""
    method, _ = trial.build()
    with torch.autocast("cpu", torch.bfloat16):
        output = trial.attempt("forward in bf16 autocast", lambda: method.train()(trial.items))
    finite = bool(output.isfinite().all())
    trial.require(finite, "forward in bf16 autocast gives nan or infinity")
    trial.attempt("backward in bf16 autocast", output.float().mean().backward)


def random_seed(trial: Trial) -> None:
    """The harness chooses the seed: after the method has run, its random numbers are still the harness's."""
    draws = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        method, _ = trial.build()
        trial.run(method.train(), trial.items)
        draws.append(torch.rand(()))
    trial.require(
        not torch.equal(*draws),
        "it sets the seed of torch's random numbers, which is the harness's to choose",
    )


CHECKS: dict[str, Callable[[Trial], None]] = {
    function.__name__: function
    for function in (
        hyper_parameters, tables, layers_exist, training, gradients, movement, fault, items_differ,
        repeatable, order, neighbours, padding, layers_used, lower_layers, saving, extra_record, adaptation,
        bf16, random_seed,
    )
}  # fmt: skip
"""Name -> check, in the order in which they run; the first line of a docstring says what a check holds."""


@dataclass(frozen=True)
class Check:
    """One check of one method; calling it raises `AssertionError` where the method fails it."""

    name: str
    trial: Trial
    expected_failure: str | None = None
    """Why the method is known to fail it; None where it should pass."""

    def __call__(self) -> None:
        """Run the check. The global random number generators are the same afterwards."""
        with self.trial.seeded(2 + list(CHECKS).index(self.name)):
            CHECKS[self.name](self.trial)


@dataclass(frozen=True)
class Result:
    """How a check ended."""

    name: str
    status: Literal["passed", "failed", "failed as expected", "passed unexpectedly"]
    message: str = ""
    """What was wrong, or why the failure was expected."""


def method_checks(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Check]:
    """Every check of `cls`, not run yet; they share one training.

    `config` is an instance of `cls.Config`, its defaults when left out; `seed` chooses the random inputs and
    weights; `expected_failures` has names of checks that the method is known to fail, with the reason. Raises
    `AssertionError` where `cls` is no method class, and ValueError for a name that is no check.
    """
    check_class(cls)
    known = expected_failures or {}
    for name, reason in known.items():
        if name not in CHECKS or not reason.strip():
            raise ValueError(f"expected_failures: {name!r} needs a reason and must be one of {list(CHECKS)}")
    trial = Trial(cls, config, seed)
    return [Check(name, trial, known.get(name)) for name in CHECKS]


def check_method(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    on_failure: Literal["raise", "report"] = "raise",
) -> list[Result]:
    """Run `method_checks` and return how each ended.

    Raises `AssertionError` with the first failure, or where a check passes that is expected to fail;
    `on_failure="report"` runs all of them and raises nothing.
    """
    results = []
    for check in method_checks(cls, config, seed=seed, expected_failures=expected_failures):
        result, error = _result(check)
        if on_failure == "raise" and result.status == "failed":
            assert error is not None
            raise error
        if on_failure == "raise" and result.status == "passed unexpectedly":
            raise AssertionError(f"{cls.__name__}: {check.name} passes; take it out of expected_failures")
        results.append(result)
    return results


def _result(check: Check) -> tuple[Result, AssertionError | None]:
    expected = check.expected_failure
    try:
        check()
    except AssertionError as error:
        if expected is not None:
            return Result(check.name, "failed as expected", expected), error
        return Result(check.name, "failed", str(error)), error
    return Result(check.name, "passed" if expected is None else "passed unexpectedly", expected or ""), None


def parametrize_checks(
    cls: type[Method],
    config: Any = None,
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Any:
    """A decorator for a test of pytest with the argument `check`: one test a check.

    An expected failure is a strict `xfail` with its reason.
    """
    import pytest

    def marks(check: Check) -> list[Any]:
        reason = check.expected_failure
        return (
            [] if reason is None else [pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)]
        )

    checks = method_checks(cls, config, seed=seed, expected_failures=expected_failures)
    return pytest.mark.parametrize(
        "check", [pytest.param(check, id=check.name, marks=marks(check)) for check in checks]
    )


def _agree(trial: Trial, other: Tensor, whole: Tensor, message: str) -> None:
    """Fail with `message` unless two computations of the same embeddings `[M, d]` agree."""
    far, done = float((other - whole).abs().max()), trial.training
    trial.require(
        far <= done.limit, f"{message} (by up to {far:.2g}; the spread between items is {done.spread:.2g})"
    )


def _take(items: Items, rows: Tensor) -> Items:
    """The items at `rows` `[m]`."""
    present = {field.name: getattr(items, field.name) for field in fields(items)}
    return Items(**{name: value[rows] for name, value in present.items() if value is not None})
