"""From assumptions and counted work to disk, memory, seconds and money. Nothing is measured here.

Symbols: `I` items, `U` users, `B` predictions of a step, `C` drawn candidates, `A` layers read, `D` the
language model's width, `d` the recommender's, `T` tokens of a text, `G` GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Assumptions:
    """Everything that a figure depends on and that is not counted. Sizes are decimal: 1 GB is 10^9 bytes."""

    items: Count = 48_190_000
    """I, items of the catalogue (Amazon Reviews 2023, its publisher's page)."""
    users: Count = 54_510_000
    """U, from the same page."""
    interactions: Count = 571_540_000
    """From the same page."""
    text_tokens: Count = 46
    """T, tokens of an item's text on average (`scientific` with BERT's vocabulary: 203,729 / 4,385)."""
    chunk_tokens: Count = 65_536
    """Tokens of texts whose graph is in memory at one time, where chunks run forward twice."""
    epochs: Count = 10
    """Training epochs. `scientific` takes 20 to 90; a thousandfold larger set is taken to need fewer."""
    evaluated_users: Count = 100_000
    """Users ranked after each epoch, a sample."""
    state_bytes: Count = 2
    """Of a number of a hidden state (states_dtype=bfloat16)."""
    matrix_tflops: Positive = 989
    """Peak of a GPU in dense bf16 products (H100 SXM, NVIDIA's data sheet)."""
    fp32_tflops: Positive = 67
    """Its peak in fp32, in which the catalogue is scored."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of these peaks that is reached."""
    memory_gb: Positive = 80
    """Memory of a GPU."""
    memory_gb_s: Positive = 3350
    """Bandwidth of its memory."""
    host_gb_s: Positive = 50
    """Bandwidth from host memory to one GPU (PCIe 5.0 x16 has 64 on paper)."""
    disk_gb_s: Positive = 5
    """Sequential reading and writing of one machine's disk (NVMe)."""
    exchange_gb_s: Positive = 50
    """Bandwidth of a GPU to the others (400 Gbit/s between machines; within one it is several times that)."""
    step_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0
    """Least time of a step, however little it computes: launching its kernels and waiting for each other."""
    machine_gpus: Count = 8
    """GPUs of a machine, which share its disk."""
    gpu_hour: Positive = 3.0
    """Price of a GPU for an hour; clouds asked 2 to 4 dollars for an H100 in 2025."""
    disk_gb_month: Positive = 0.08
    """Price of a GB of block storage for a month."""


@dataclass(frozen=True)
class Schedule:
    """What a step is made of."""

    batch: int
    """B."""
    samples: int
    """C."""
    width: int
    """d."""
    layers: int
    """SASRec's blocks."""
    inner: int
    """Width of their feed-forward part."""
    slots: int
    """Slots of a bin, over which attention goes."""


@dataclass(frozen=True)
class Work:
    """What a method does for one item, counted on an example (`studies.arithmetic.work`)."""

    method: str
    reads: str
    state_layers: int
    """A, layers whose states are encoded once; a reader of tokens takes only their mean and spread."""
    llm_width: int
    forward: float
    """FLOP of embedding an item without gradients."""
    training: float
    """FLOP of embedding it and of the backward pass."""
    replayed: bool
    """Whether chunks run forward twice (gradient caching)."""
    trained: int
    """Trained parameters that the catalogue's size does not change."""
    trained_per_item: int
    """Trained parameters of each item."""
    frozen: int
    """Parameters in memory that are not trained."""
    kept: float
    """Bytes that an item's graph keeps for the backward pass, in fp32."""


@dataclass(frozen=True)
class MethodCost:
    """What one method costs on `gpus` GPUs. Bytes and seconds."""

    gpus: int
    states: float
    """Disk for hidden states of the catalogue."""
    resident: float
    """Memory of each GPU: weights, optimiser, a step, without the states."""
    table: float
    """One `[I, d]` matrix of fp32, which evaluation holds besides."""
    encode: float
    """Seconds of encoding the catalogue once."""
    products: float
    """Seconds of an epoch's matrix products."""
    fetch: float
    """Seconds of fetching an epoch's states from the host meanwhile; 0 where the GPU holds them."""
    least: float
    """Seconds that an epoch's steps take at least."""
    optimiser: float
    """Seconds of an epoch's optimiser steps: reading and writing all that trains, on each GPU."""
    exchange: float
    """Seconds of exchanging an epoch's gradients and item embeddings."""
    evaluation: float
    """Seconds of one evaluation."""
    total: float
    """Seconds of the whole run."""
    dollars: float
    """GPUs for so long, and the states' disk for a month."""

    @property
    def epoch(self) -> float:
        """Seconds of a training epoch."""
        return max(self.products, self.fetch, self.least) + self.optimiser + self.exchange


def predictions(a: Assumptions) -> int:
    """Training predictions of an epoch: a user of n interactions has n - 2 in training and predicts n - 3."""
    return max(a.interactions - 3 * a.users, 1)


def items_of_prediction(a: Assumptions, s: Schedule) -> float:
    """Items encoded for a prediction, if no two of a step are alike: targets, first items of rows, draws.

    A row of p predictions has p + 1 items; a step has B predictions and C drawn candidates. Draws of more
    items than there are stay the catalogue.
    """
    rows = a.users / predictions(a)
    return 1 + rows + min(s.samples, a.items) / s.batch


def recommender_flops(s: Schedule) -> float:
    """FLOP of SASRec and the loss for a prediction, forward and twice that backward.

    A block at one slot: four d x d matrices (queries, keys, values, output), two of d x inner, and scores and
    sums over the bin's slots. The loss: one row of scores against all candidates.
    """
    block = 2 * (4 * s.width**2 + 2 * s.width * s.inner + 2 * s.slots * s.width)
    return 3 * (s.layers * block + 2 * s.samples * s.width)


def prediction_flops(work: Work, a: Assumptions, s: Schedule) -> float:
    """FLOP of one training prediction."""
    item = work.training + (work.forward if work.replayed else 0)
    return items_of_prediction(a, s) * item + recommender_flops(s)


def states_bytes(work: Work, a: Assumptions) -> int:
    """`I x A x D` numbers, on disk and wherever they are kept."""
    return a.items * work.state_layers * work.llm_width * a.state_bytes


def resident_bytes(work: Work, a: Assumptions, s: Schedule) -> float:
    """Weights (4 bytes), for what trains gradient and Adam's two moments (12 more), a step's graph, and the
    scores of the loss three times (logits, their softmax, its gradient)."""
    trained = work.trained + work.trained_per_item * a.items
    step = items_of_prediction(a, s) * s.batch
    at_once = min(step, a.chunk_tokens / a.text_tokens) if work.replayed else step
    scores = 3 * 4 * s.batch * min(s.samples, a.items)
    return 4 * work.frozen + 16 * trained + work.kept * at_once + scores


def cost(work: Work, llm_forward: float, a: Assumptions, s: Schedule, gpus: int) -> MethodCost:
    """Disk, memory, seconds and money of `work` on `gpus` GPUs, for the code as it is: every GPU has all
    weights, and rows and items of a step are dealt to the GPUs.

    `llm_forward` is the FLOP of one text's forward pass.
    """
    rate = a.matrix_tflops * 1e12 * a.utilisation * gpus
    states, resident = states_bytes(work, a), resident_bytes(work, a, s)
    steps, trained = predictions(a) / s.batch, work.trained + work.trained_per_item * a.items
    disk = a.disk_gb_s * 1e9 * max(1, gpus // a.machine_gpus)
    table = 4.0 * a.items * s.width
    # states that leave no room for the rest come from the host, each as often as it is wanted
    room = "states" not in work.reads or states + resident + table <= a.memory_gb * 1e9
    from_host = float("inf") if room else a.host_gb_s * 1e9 * gpus
    wanted = predictions(a) * items_of_prediction(a, s) * states / a.items
    # an all-reduce sends and receives each gradient twice; embeddings are gathered, their gradients reduced
    moved = 2 * 4 * trained + 3 * 4 * items_of_prediction(a, s) * s.batch * s.width if gpus > 1 else 0
    score = a.evaluated_users * a.items * 2 * s.width / (a.fp32_tflops * 1e12 * a.utilisation * gpus)
    costs = MethodCost(
        gpus=gpus,
        states=states,
        resident=resident,
        table=table,
        encode=max(a.items * llm_forward / rate, states / disk) if states else 0.0,
        products=predictions(a) * prediction_flops(work, a, s) / rate,
        fetch=wanted / from_host,
        least=steps * a.step_ms / 1e3,
        # weight, gradient and two moments read, weight and moments written, the gradient cleared: 8 x 4 bytes
        optimiser=steps * 32 * trained / (a.memory_gb_s * 1e9),
        exchange=steps * moved / (a.exchange_gb_s * 1e9),
        evaluation=a.items * work.forward / rate + states / from_host + score,
        total=0.0,
        dollars=0.0,
    )
    total = costs.encode + a.epochs * (costs.epoch + costs.evaluation)
    dollars = gpus * total / 3600 * a.gpu_hour + states / 1e9 * a.disk_gb_month
    return replace(costs, total=total, dollars=dollars)


def most_items(work: Work, a: Assumptions, s: Schedule) -> float:
    """Items at which a GPU's memory is full: what each adds is its own trained parameters and, in evaluation,
    its row of one `[I, d]` matrix."""
    smallest = replace(a, items=s.samples)
    free = a.memory_gb * 1e9 - resident_bytes(work, smallest, s) - 4 * s.width * smallest.items
    return s.samples + free / (16 * work.trained_per_item + 4 * s.width)
