"""The contract of a method: item inputs in, item embeddings out, and nothing else.

A method never sees users, sequences, targets or scores; it never chooses the loss, the negatives, the
batch, the seed, the device or the precision; it never times, prints, writes or steps an optimiser.

Symbols in shape comments: `M` items of a step, `A` layers read, `T` tokens, `D` the language model's width,
`d` the recommender's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods.pooling import Pooling

Kind = Literal["states", "tokens", "ids"]
Reads = Kind | tuple[Kind, ...]


@dataclass(frozen=True)
class Items:
    """The inputs of `M` items; only the fields of the kinds that the method's `reads` names are set."""

    ids: Tensor | None = None
    """`[M]` int64, index of each item in the catalogue ("ids")."""
    states: Tensor | None = None
    """`[M, A, D]` fp32, hidden states of the frozen language model in the order of `layers()` ("states"); or
    what `Method.precompute` made of them, `[M, ...]`."""
    input_ids: Tensor | None = None
    """`[M, T]` int64, tokens of the item texts ("tokens")."""
    attention_mask: Tensor | None = None
    """`[M, T]`, 1 where a token is real, padding on the right ("tokens")."""
    hidden: Tensor | None = None
    """`[M, T, D]`, states after the frozen lower layers; set instead of `input_ids` where `Context.lower` is
    not 0 ("tokens")."""

    def __len__(self) -> int:
        for field in (self.ids, self.states, self.input_ids, self.hidden):
            if field is not None:
                return len(field)
        raise ValueError("Items holds no input")


@dataclass(frozen=True)
class Context:
    """All that a method may know when it is built."""

    out_dim: int
    """`d`, the width of an item embedding."""
    n_items: int
    """Items in the catalogue."""
    total_steps: int
    """Optimiser steps of the longest possible run (early stopping may end it sooner)."""
    llm_layers: int = 0
    """`n`, Transformer layers of the language model."""
    llm_width: int = 0
    """`D`, its width."""
    state_mean: Tensor | None = None
    """`[A, D]`, mean of the catalogue's states in each layer of `Method.layers`; None where it names none."""
    state_std: Tensor | None = None
    """`[A, D]`, their standard deviation."""
    state_covariance: Tensor | None = None
    """`[A, D, D]`, their covariance; None unless `Method.reads_covariance`."""
    cooccurrences: Tensor | None = None
    """`[I, I]` sparse fp32 on the CPU, symmetric: how often two items stand side by side in a training
    sequence. None unless `Method.reads_cooccurrences`."""
    llm: nn.Module | None = None
    """The language model itself, in eval mode, every weight trainable (`reads = "tokens"`)."""
    pooling: Pooling = "first"
    """The token that stands for a text (`reads = "tokens"`)."""
    lower: int = 0
    """How many of the lowest layers the harness has run: items then have `Items.hidden`, the states after
    layer `lower`, and the method runs the layers above. 0 where items have tokens. At most
    `Method.frozen_layers`."""


@dataclass(frozen=True)
class NoConfig:
    """No hyper-parameters."""


class Method(nn.Module):
    """Base class of every adaptation method. Subclass it in one file; see CONTRIBUTING.md.

    Class attributes:
        reads: the kinds of input that the method gets: `"states"`, `"tokens"` or `"ids"`, or a tuple of them.
        reads_cooccurrences: whether it gets `Context.cooccurrences`; it then knows more than texts and ids.
        Config: a frozen dataclass of hyper-parameters. Types are checked and ranges declared with
            `Annotated[int, Field(ge=1)]` or `Literal[...]`; a comment line under a field is its help.
        grid: hyper-parameter (or harness setting such as `batch_size`) -> values that the paper searched.
        paper: (language model, dataset) -> published best values, for a method of another package. Built-in
            methods leave it empty: their values are in results/paper/hyperparameters.csv.
        schedule: protocol -> harness settings that the published schedule fixes for this method.
        by_default: whether a grid that names no method includes it.
        replayable: whether `forward` and `aux_loss` run the same operations at each training step, on inputs,
            parameters and buffers alone: no Python number that changes, no branch on a tensor's values, no
            copy to or from the host. The steps of a reader of states or ids then become CUDA graphs.
    """

    reads: ClassVar[Reads]
    reads_cooccurrences: ClassVar[bool] = False

    Config: ClassVar[type[Any]] = NoConfig

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    paper: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}
    schedule: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    by_default: ClassVar[bool] = True
    replayable: ClassVar[bool] = False

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def layers(cls, config: Any, n_layers: int) -> tuple[int, ...]:
        """Layers that a reader of states needs, in the order of axis `A`; `n_layers` is the top one.

        A reader of tokens gets their statistics alone (`Context.state_mean`, `state_std`) and may name none.
        Raises `UserError` where the language model has too few.
        """
        return (n_layers,)

    @classmethod
    def frozen_layers(cls, config: Any, n_layers: int) -> int:
        """How many of the lowest layers a reader of tokens never trains, embeddings below them included.

        The harness may then run these once for the whole catalogue, without dropout (see `Context.lower`).
        Raises `UserError` where the language model has too few.
        """
        return 0

    @classmethod
    def reads_covariance(cls, config: Any) -> bool:
        """Whether the method is built with `Context.state_covariance`: where its `init` is `zca`."""
        return getattr(config, "init", None) == "zca"

    def observe(self, states: Iterable[Tensor]) -> None:
        """See the states of the whole catalogue once, before training: chunks of `[c, A, D]` fp32 on the CPU.

        The chunks come in the order of the catalogue and are made anew in each iteration, so that several
        passes are possible and the whole need not fit into memory. Keep what comes of it in persistent
        buffers or as the start of parameters: a saved model must not need the states again. A method that
        overrides this gets the states of `layers()`, whatever else it reads.
        """

    def precompute(self, states: Tensor) -> Tensor:
        """What is fixed during a run, computed once for each item: `[c, A, D]` fp32 -> `[c, ...]`.

        `forward` then gets the rows of the result as `Items.states`. It runs on the CPU after `observe`,
        without gradients, and must treat each item alone, by constants and buffers, not by parameters.
        """
        return states

    def forward(self, items: Items) -> Tensor:
        """Embed items: -> `[M, d]`."""
        raise NotImplementedError

    def aux_loss(self) -> Tensor | None:
        """A scalar to add to the step's loss (such as AdaLoRA's orthogonality term), or None."""
        return None

    def after_step(self, step: int) -> None:
        """Called after optimiser step `step` (from 1) and before the gradients are cleared."""

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of the trainable parameters; `lr` is the run's learning rate."""
        return [{"params": list(trainable(self)), "lr": lr}]

    def extra_record(self) -> dict[str, Any]:
        """Entries of the run's record that only the method knows, such as the final ranks of AdaLoRA."""
        return {}

    def fault(self) -> str | None:
        """After training: why the method did not do what its name says, in one line, or None.

        A fault makes the run `failed`. The harness itself checks what trains and what does not.
        """
        return None


def kinds(cls: Any) -> tuple[Kind, ...]:
    """The kinds of input that a method or control reads."""
    reads: Reads = cls.reads
    return (reads,) if isinstance(reads, str) else reads


def observes(cls: type) -> bool:
    """Whether a method sees the states of the whole catalogue before training; no for a control."""
    return issubclass(cls, Method) and cls.observe is not Method.observe


def precomputes(cls: type[Method]) -> bool:
    """Whether a method turns the states of each item into something else once, before training."""
    return cls.precompute is not Method.precompute


def reads_states(cls: type) -> bool:
    """Whether a method or control needs pooled states: in each step, or to observe them once."""
    return "states" in kinds(cls) or observes(cls)


def reads_llm(cls: type) -> bool:
    """Whether a method or control needs a language model."""
    return "tokens" in kinds(cls) or reads_states(cls)


def all_read(cls: type) -> list[str]:
    """What a method or control reads of the catalogue and of the training sequences, as records state it."""
    found: list[str] = list(kinds(cls))
    if observes(cls):
        found.append("observed states")
    if getattr(cls, "reads_cooccurrences", False):
        found.append("cooccurrences")
    return found


def trainable(module: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters of `module` that are trained."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def states_of(items: Items) -> Tensor:
    """`items.states`, `[M, A, D]`. Raises TypeError where the items have none."""
    if items.states is None:
        raise TypeError("this method reads states; it was given none")
    return items.states


def _parts(states: Tensor, chunk: int) -> Iterator[Tensor]:
    return (states[begin : begin + chunk] for begin in range(0, len(states), chunk))


def state_statistics(states: Tensor, chunk: int = 65_536) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over items, in float64 sums: `[I, A, D]` -> two of `[A, D]` float32.

    A dimension that never varies gets the deviation 1, so that division leaves it at zero.
    """
    total = torch.zeros(states.shape[1:], dtype=torch.float64)  # [A, D]
    square = torch.zeros_like(total)  # [A, D]
    for part in _parts(states, chunk):
        total += part.double().sum(0).cpu()  # [c, A, D] -> [A, D]
    mean = total / len(states)
    for part in _parts(states, chunk):
        square += (part.double().cpu() - mean).square().sum(0)  # [c, A, D] -> [A, D]
    std = (square / len(states)).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return mean.float(), std.float()


def state_covariance(states: Tensor, mean: Tensor, chunk: int = 16_384) -> Tensor:
    """Covariance over items in each layer, float64 sums: `[I, A, D]`, `[A, D]` -> `[A, D, D]` float32."""
    total = torch.zeros(states.shape[1], states.shape[2], states.shape[2], dtype=torch.float64)  # [A, D, D]
    for part in _parts(states, chunk):
        centred = (part.double().cpu() - mean.double()).transpose(0, 1)  # [c, A, D] -> [A, c, D]
        total += centred.transpose(1, 2) @ centred  # [A, D, c] x [A, c, D] -> [A, D, D]
    return (total / len(states)).float()
