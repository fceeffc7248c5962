"""`check_method` finds what it promises to find: each broken method fails, with the message that says why."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import PROTOCOLS, ROW_SETTINGS, Settings
from methods import declarations
from methods.base import Context, Items, Method, states_of
from methods.checks import CHECKS, check_method, method_checks, parametrize_checks
from methods.errors import UserError


class Linear(Method):
    """A sound method: one linear layer on the top state."""

    reads = "states"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(context.llm_width, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        return self.linear(states_of(items)[:, 0])


class FirstToken(Method):
    """A sound reader of tokens: a frozen language model and one linear layer."""

    reads = "tokens"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        assert context.llm is not None
        self.llm = context.llm.requires_grad_(False)
        self.linear = nn.Linear(context.llm_width, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        read = self.llm(input_ids=items.input_ids, attention_mask=items.attention_mask)
        return self.linear(read.last_hidden_state[:, 0])


class Vectors(Method):
    """A sound reader of ids."""

    reads = "ids"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.table = nn.Embedding(context.n_items, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        return self.table(items.ids)


class LowRank(Linear):
    """Sound, and like LoRA: one factor starts at zero and hides the other's gradient at first."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.down = nn.Linear(context.llm_width, 4, bias=False)
        self.up = nn.Linear(4, context.out_dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, items: Items) -> Tensor:
        return super().forward(items) + self.up(self.down(states_of(items)[:, 0]))


class TopHalf(FirstToken):
    """Sound: it trains a part of the language model."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        layers = self.llm.encoder.layer
        layers[len(layers) // 2 :].requires_grad_(True)


class Centred(TopHalf):
    """Sound: it asks for the statistics of two layers, and takes the upper part from states too."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None
        self.register_buffer("mean", context.state_mean[0], persistent=False)
        assert context.state_mean.shape == (2, context.llm_width)
        self.llm.embeddings.requires_grad_(False)
        self.lower = context.lower

    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (n_layers, 0)

    @classmethod
    def frozen_layers(cls, config: Any, n_layers: int) -> int:
        return n_layers // 2

    def forward(self, items: Items) -> Tensor:
        if not self.lower:
            read = self.llm(input_ids=items.input_ids, attention_mask=items.attention_mask)
            return self.linear(read.last_hidden_state[:, 0] - self.mean)
        hidden, mask = items.hidden, items.attention_mask
        assert hidden is not None and mask is not None
        for layer in self.llm.encoder.layer[self.lower :]:
            hidden = layer(hidden, (1.0 - mask[:, None, None, :].to(hidden.dtype)) * -1e9)
        return self.linear(hidden[:, 0] - self.mean)


class StartsAgain(LowRank):
    """Sound, and like AdaLoRA: what was learned in one part is taken back in the end."""

    def after_step(self, step: int) -> None:
        if step > 5:
            nn.init.zeros_(self.up.weight)


@pytest.mark.parametrize("cls", [Linear, FirstToken, Vectors, LowRank, TopHalf, Centred, StartsAgain])
@pytest.mark.parametrize("seed", [0, 1])
def test_sound_methods_pass(cls: type[Method], seed: int) -> None:
    check_method(cls, seed=seed)


class CentredOnBatch(Linear):
    def forward(self, items: Items) -> Tensor:
        z = super().forward(items)
        return z - z.mean(0)


class RecurrentOverBatch(Linear):
    """The classic slip: a GRU that takes items for time."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.gru = nn.GRU(context.out_dim, context.out_dim)

    def forward(self, items: Items) -> Tensor:
        return self.gru(super().forward(items))[0]


class UnmaskedMean(FirstToken):
    def forward(self, items: Items) -> Tensor:
        read = self.llm(input_ids=items.input_ids, attention_mask=items.attention_mask)
        return self.linear(read.last_hidden_state.mean(1))


class ForgetsMask(FirstToken):
    def forward(self, items: Items) -> Tensor:
        return self.linear(self.llm(input_ids=items.input_ids).last_hidden_state[:, 0])


class FrozenBias(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.linear.bias.requires_grad_(False)

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": lr}]


class QuietlyFrozen(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.linear.bias.requires_grad_(False)


class LeftOut(Linear):
    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.linear.weight], "lr": lr}]


class Twice(Linear):
    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.linear.weight] * 2 + [self.linear.bias], "lr": lr}]


class Unregistered(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.loose = [nn.Parameter(torch.zeros(context.out_dim))]

    def forward(self, items: Items) -> Tensor:
        return super().forward(items) + self.loose[0]

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [*self.parameters(), *self.loose], "lr": lr}]


class Nothing(FirstToken):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.requires_grad_(False)


class Dead(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.spare = nn.Parameter(torch.ones(3))


class Detached(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, items: Items) -> Tensor:
        return super().forward(items) * self.gain.detach()


class Stuck(Linear):
    """A group of its own with a learning rate of nothing."""

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.linear.weight], "lr": lr}, {"params": [self.linear.bias], "lr": 0.0}]


class MovesFrozen(FirstToken):
    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.llm.embeddings.word_embeddings.weight.mul_(1.01)


class FlatOutput(Linear):
    def forward(self, items: Items) -> Tensor:
        return super().forward(items).flatten()


class KeepsLayers(Linear):
    def forward(self, items: Items) -> Tensor:
        return self.linear(states_of(items))


class WholeNumbers(Linear):
    def forward(self, items: Items) -> Tensor:
        return super().forward(items).long()


class ReturnsTuple(Linear):
    def forward(self, items: Items) -> Any:
        return super().forward(items), None


class NotANumber(Linear):
    def forward(self, items: Items) -> Tensor:
        return super().forward(items).log()


class Constant(Linear):
    def forward(self, items: Items) -> Tensor:
        z = super().forward(items)
        return z.mean(0).expand_as(z)


class AlwaysDrops(Linear):
    def forward(self, items: Items) -> Tensor:
        return nn.functional.dropout(super().forward(items), 0.1)


class KeepsOutsideState(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.steps = 0

    def after_step(self, step: int) -> None:
        self.steps = step

    def forward(self, items: Items) -> Tensor:
        return super().forward(items) * (1 + self.steps)


class RandomMap(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.map = torch.randn(context.out_dim, context.out_dim)  # in no state dict

    def forward(self, items: Items) -> Tensor:
        return super().forward(items) @ self.map


class OnlyShifts(Method):
    reads = "states"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.register_buffer("map", torch.randn(context.llm_width, context.out_dim))
        self.shift = nn.Parameter(torch.zeros(context.out_dim))

    def forward(self, items: Items) -> Tensor:
        return states_of(items)[:, 0] @ self.map + self.shift


class IgnoresLayer(Linear):
    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (n_layers, 0)


class Repeats(Linear):
    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (n_layers, n_layers)


class TooHigh(Linear):
    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (n_layers + 1,)


class FromTheEnd(Linear):
    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (-1,)


class TwoBelow(Linear):
    """Reads a layer that a shallow language model lacks, and does not say so."""

    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        return (n_layers - 2,)


class Choosy(Linear):
    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        raise UserError("only models of 13 layers")


class MixesTypes(Linear):
    def forward(self, items: Items) -> Tensor:
        z = super().forward(items)
        rows = torch.arange(len(z))[:, None].expand_as(z)
        return torch.zeros_like(z, dtype=torch.float32).scatter(0, rows, z)


class Seeds(Linear):
    def forward(self, items: Items) -> Tensor:
        torch.manual_seed(0)
        return nn.functional.dropout(super().forward(items), 0.1, self.training)


class InfiniteLoss(Linear):
    def aux_loss(self) -> Tensor:
        return self.linear.bias.sum() / 0


class VectorLoss(Linear):
    def aux_loss(self) -> Tensor:
        return self.linear.bias


class TrainsBelow(Centred):
    """A layer that is said to be frozen trains, so its states are not those of before."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.llm.encoder.layer[self.frozen_layers(config, context.llm_layers) - 1].requires_grad_(True)


class ForgetsLower(Centred):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.lower = 0


class OneOff(Centred):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.lower = context.lower and context.lower - 1


class FrozenBelowZero(FirstToken):
    @classmethod
    def frozen_layers(cls, config: Any, n_layers: int) -> int:
        return n_layers - 6


class LongFault(Linear):
    def fault(self) -> str | None:
        return "two\nlines"


class BadRecord(Linear):
    def extra_record(self) -> dict[str, Any]:
        return {"bias": self.linear.bias}


class WrongWidth(Linear):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(768, context.out_dim)


class NoReads(Linear):
    reads = "text"  # type: ignore[assignment]


@dataclass
class Thawed:
    size: int = 1


@dataclass(frozen=True)
class Needy:
    size: int


@dataclass(frozen=True)
class OutOfRange:
    size: Annotated[int, Field(ge=2)] = 1


@dataclass(frozen=True)
class WrongType:
    size: int = "3"  # type: ignore[assignment]


@dataclass(frozen=True)
class NoJson:
    sizes: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Sized:
    size: Annotated[int, Field(ge=1, le=9)] = 1


def declared(**attributes: Any) -> type[Method]:
    return type("Declared", (Linear,), attributes)


BROKEN: list[tuple[type[Method], str]] = [
    (CentredOnBatch, "depends on its neighbours in the batch"),
    (RecurrentOverBatch, "depends on the order of the batch"),
    (UnmaskedMean, "depends on padding"),
    (ForgetsMask, "depends on padding"),
    (FrozenBias, r"linear\.bias is in param_groups, but it is frozen"),
    (QuietlyFrozen, r"linear\.bias is frozen; make it a buffer"),
    (LeftOut, r"linear\.bias has requires_grad but is in no group"),
    (Twice, "names a parameter twice"),
    (Unregistered, "not registered in the module"),
    (Nothing, "no parameter to train"),
    (Dead, "spare never gets a gradient other than zero"),
    (Detached, "gain never gets a gradient other than zero"),
    (Stuck, r"linear\.bias is in param_groups, but training does not change it"),
    (MovesFrozen, r"word_embeddings\.weight is frozen, but training changes it"),
    (FlatOutput, r"must return \[M, d\] = \[24, 32\], not \[768\]"),
    (KeepsLayers, r"must return \[M, d\] = \[24, 32\], not \[24, 1, 32\]"),
    (WholeNumbers, "floating numbers, not torch.int64"),
    (ReturnsTuple, "must return a tensor, not tuple"),
    (NotANumber, "gives nan or infinity"),
    (Constant, "every item gets the same embedding"),
    (AlwaysDrops, "random in eval mode"),
    (KeepsOutsideState, "with the saved state_dict embeds otherwise"),
    (RandomMap, "with the saved state_dict embeds otherwise"),
    (OnlyShifts, "does not adapt"),
    (IgnoresLayer, "asks for layer 0, but the embedding does not depend on it"),
    (Repeats, "must be distinct"),
    (TooHigh, r"1 layers must not be \(2,\)"),
    (FromTheEnd, r"must not be \(-1,\)"),
    (TwoBelow, r"1 layers must not be \(-1,\).*raise UserError"),
    (Choosy, "refuses a language model of 6 layers: only models of 13"),
    (MixesTypes, "forward in bf16 autocast raised"),
    (Seeds, "sets the seed"),
    (VectorLoss, "aux_loss must return None or a scalar"),
    (InfiniteLoss, "aux_loss gives nan"),
    (TrainsBelow, "frozen_layers.. is 3, but the states after layer 3 give another embedding"),
    (ForgetsLower, "forward in eval mode raised ValueError"),
    (OneOff, "frozen_layers.. is 3, but the states after layer 3 give another embedding"),
    (FrozenBelowZero, "of 1 layers must return a whole number in 0 to 1, not -5; raise UserError"),
    (LongFault, "fault must return None or one line"),
    (declared(layers=classmethod(lambda cls, config, n: ())), "must name a layer to read"),
    (BadRecord, "extra_record as JSON raised TypeError"),
    (WrongWidth, "forward in eval mode raised RuntimeError"),
    (
        NoReads,
        "`reads` must be 'states', 'tokens' or 'ids', or a tuple of different ones of them, not",
    ),
    (declared(Config=Thawed), "frozen dataclass"),
    (declared(Config=dict), "frozen dataclass"),
    (declared(Config=Needy), "needs a default"),
    (declared(Config=OutOfRange), "size=1 is not valid: Input should be greater than or equal to 2"),
    (declared(Config=WrongType), "size='3' has another type"),
    (declared(Config=NoJson), "JSON"),
    (declared(grid={"sise": (1, 2)}, Config=Sized), "grid: there is no setting 'sise'"),
    (declared(grid={"size": (1, 99)}, Config=Sized), "grid: size=99 is not valid"),
    (declared(grid={"size": 3}, Config=Sized), "must have a tuple of values"),
    (declared(paper={"sci": {"size": 1}}, Config=Sized), "must be .language model, dataset."),
    (declared(paper={("bert", "sci"): {"size": 0}}, Config=Sized), "size=0 is not valid"),
    (declared(paper={("bert", "sci"): {"temperature": 1}}), "there is no setting 'temperature'"),
    (declared(schedule={"papr": {"batch_size": 32}}), "'papr' is no protocol"),
    (declared(schedule={"paper": {"batch_size": 0}}), "batch_size must be a whole number from 1"),
    (declared(schedule={"paper": {"candidates": "batch"}}), "there is no setting 'candidates'"),
]


@pytest.mark.parametrize(("cls", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_with_the_reason(cls: type[Method], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_method(cls)
    assert str(caught.value).startswith(f"{cls.__name__}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [int, Linear(None, Context(1, 1, 1, 1, 1)), "Linear", nn.Linear])
def test_what_is_no_method(cls: Any) -> None:
    with pytest.raises(AssertionError, match="not a subclass"):
        check_method(cls)


def test_a_given_config_is_what_is_tested() -> None:
    sized = declared(Config=Sized)
    check_method(sized, Sized(size=9))
    with pytest.raises(AssertionError, match="size=10 is not valid"):
        check_method(sized, Sized(size=10))
    with pytest.raises(AssertionError, match="must be an instance of Sized"):
        check_method(sized, {"size": 3})


def test_a_method_that_raises_is_named_with_its_error() -> None:
    def explode(self: Method, config: Any, context: Context) -> None:
        raise KeyError("weights")

    with pytest.raises(AssertionError, match="Declared: building it raised KeyError: 'weights'"):
        check_method(declared(__init__=explode))


@parametrize_checks(Linear)
def test_each_check_of_a_sound_method_passes(check: Any) -> None:
    check()


@parametrize_checks(CentredOnBatch, expected_failures={"neighbours": "it centres on the batch"})
def test_an_expected_failure_is_one_of_pytest(check: Any) -> None:
    check()


def test_each_check_is_reported_by_its_name() -> None:
    results = {result.name: result for result in check_method(CentredOnBatch, on_failure="report")}
    assert list(results) == list(CHECKS)
    assert {name for name, result in results.items() if result.status != "passed"} == {"neighbours"}
    assert "depends on its neighbours" in results["neighbours"].message


def test_an_expected_failure_has_a_reason_and_must_fail() -> None:
    results = check_method(CentredOnBatch, expected_failures={"neighbours": "it centres on the batch"})
    (known,) = (result for result in results if result.status != "passed")
    assert (known.status, known.message) == ("failed as expected", "it centres on the batch")
    with pytest.raises(AssertionError, match="Linear: neighbours passes; remove it from expected_failures"):
        check_method(Linear, expected_failures={"neighbours": "it centres on the batch"})
    with pytest.raises(ValueError, match="'neighbors' needs a reason and must be one of"):
        check_method(Linear, expected_failures={"neighbors": "a slip"})
    with pytest.raises(ValueError, match="'order' needs a reason"):
        check_method(Linear, expected_failures={"order": " "})


@pytest.mark.parametrize("seed", range(4))
def test_a_check_is_the_same_alone_and_after_others(seed: int) -> None:
    """Each draws its own random numbers, whatever ran before; and what is wrong shows under any seed."""
    alone = {check.name: check for check in method_checks(UnmaskedMean, seed=seed)}["padding"]
    with pytest.raises(AssertionError) as first:
        alone()
    results = {result.name: result for result in check_method(UnmaskedMean, seed=seed, on_failure="report")}
    assert results["padding"].message == str(first.value)


def states_of_generators() -> Iterator[object]:
    yield torch.get_rng_state().tolist()
    yield random.getstate()
    yield np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]


@pytest.mark.parametrize("cls", [Linear, CentredOnBatch, Seeds])
def test_global_random_state_is_left_alone(cls: type[Method]) -> None:
    before = list(states_of_generators())
    with contextlib.suppress(AssertionError):
        check_method(cls, seed=5)
    assert list(states_of_generators()) == before


def test_it_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        check_method(Linear)


def test_names_agree_with_the_harness() -> None:
    """`methods` may not import the harness, so what it knows of it is held here."""
    assert set(declarations.PROTOCOLS) == set(PROTOCOLS)
    assert set(declarations.SCHEDULED) <= {setting.name for setting in fields(Settings)}
    assert set(declarations.SCHEDULED) <= set(ROW_SETTINGS)
