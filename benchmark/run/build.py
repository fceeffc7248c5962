"""Build a run: its method, and the trainer of the recommender; and prepare what runs read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.config import NO_PROTOCOL, Settings
from benchmark.data.prepare import Prepared, describe
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.files import cache_folder
from benchmark.llm.catalogue import LLM
from benchmark.llm.encoder import FrozenMatrices
from benchmark.llm.states import States, load_states
from benchmark.llm.token_states import TokenStates
from benchmark.llm.tokens import TokenStatistics
from benchmark.measure import pick_device
from benchmark.model.chunks import Ints
from benchmark.model.items import ItemEncoder
from benchmark.model.parallel import log_main
from benchmark.model.recommender import Recommender
from benchmark.run.inputs import CACHE, Inputs, Sources, check_texts, distinguishes, load_inputs
from benchmark.run.precision import LOW, pick_precision
from benchmark.run.spec import (
    ResolvedRun,
    RunSpec,
    applicable,
    check_overrides,
    check_protocol,
    prepared_once,
    resolve_run,
)
from benchmark.train.batches import Sequences, total_steps
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Task, Trainer
from benchmark.train.rows import Rows, evaluation_rows, training_rows
from methods import registry
from methods.base import Context, Method, kinds
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_method(resolved: ResolvedRun, inputs: Inputs, total_steps: int) -> tuple[Method, Inputs]:
    """The run's method, and its inputs with what the method computed of them once.

    Raises `UserError` where it cannot be put on this language model.
    """
    n_items = len(resolved.prepared.texts)
    context = Context(resolved.settings.width, n_items, total_steps, **inputs.context)
    try:
        method = resolved.method(resolved.config, context)
    except RuntimeError as error:  # torch's, of whole numbers that should train
        if resolved.settings.quantize == "none" or "require gradients" not in str(error):
            raise
        raise UserError(
            f"'{resolved.spec.method}' trains weights of the language model itself, which "
            f"quantize={resolved.settings.quantize} leaves no gradients; take an adapter such as lora, or "
            "quantize=none."
        ) from error
    if inputs.catalogue is None:
        return method, inputs
    start = time.perf_counter()
    inputs.catalogue.hand_to(method)
    seconds = (inputs.prepare_seconds or 0) + time.perf_counter() - start
    return method, replace(inputs, prepare_seconds=seconds)


def build_trainer(
    resolved: ResolvedRun,
    checkpoint: Checkpoint,
    accelerator: Accelerator | None = None,
    sources: Sources = CACHE,
) -> tuple[Trainer, Inputs]:
    """The recommender of a run and its data on the device, ready to train."""
    accelerator = accelerator or make_accelerator(pick_precision(resolved.settings, pick_device()))
    settings, seed = resolved.settings, resolved.spec.seed
    inputs = load_inputs(resolved, accelerator.device, sources)
    task = _task(resolved, inputs.items.padding)
    steps = total_steps(task.train, task.sequences, settings, seed)
    n_items = len(resolved.prepared.texts)
    torch.manual_seed(seed)
    method, inputs = build_method(resolved, inputs, steps)
    low = LOW.get(accelerator.mixed_precision)
    llm = inputs.context.get("llm")
    frozen = FrozenMatrices(llm, low) if low is not None and llm is not None else None
    encoder = ItemEncoder(inputs.items, settings, accelerator.device, low, frozen)
    torch.manual_seed(seed * 100_003 + 1)  # every method gets the same SASRec, however many numbers it drew
    model = Recommender(method, encoder, n_items, len(task.sequences.trained), settings)
    return Trainer(model, task, settings, seed, accelerator, checkpoint, log_main), inputs


def make_accelerator(precision: str) -> Accelerator:
    """Accelerate on the GPUs there are, else on the CPU. Raises `UserError` for a process without a GPU."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    gpus, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and place >= gpus:
        raise UserError(f"process {place + 1} of this machine has no GPU: there are {gpus}; start no more.")
    # cuDNN's attention makes a plan for each new shape, 35 ms each way; chunks of texts have ever new shapes
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Accelerate keeps the precision of a process's first run, and refuses another
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def _task(resolved: ResolvedRun, padding: int) -> Task:
    """The rows of each split and the catalogue. Items with the same input share their encoding."""
    prepared, settings = resolved.prepared, resolved.settings
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    train = training_rows(
        offsets, end, settings.window, settings.sequences, settings.slide_window, settings.stride
    )
    task = Task(
        Sequences(prepared.items.astype(np.int64), _twins(resolved), prepared.trained, padding),
        _some_rows(train, prepared, "training"),
        *splits(resolved),
        offsets[:-1],
    )
    _check_negatives(task, settings, prepared.name)
    return task


def splits(resolved: ResolvedRun) -> tuple[Rows, Rows]:
    """The targets of validation and those of the test. Raises `UserError` where one has none."""
    prepared, window = resolved.prepared, resolved.settings.window
    offsets = prepared.offsets.astype(np.int64)
    valid = evaluation_rows(offsets, prepared.valid_at, window, prepared.valid_end)
    test = evaluation_rows(offsets, prepared.test_at, window, prepared.test_end)
    return _some_rows(valid, prepared, "validation"), _some_rows(test, prepared, "test")


def _some_rows(rows: Rows, prepared: Prepared, part: str) -> Rows:
    """The same rows. Raises `UserError` where there are none."""
    if not len(rows):
        raise UserError(
            f"dataset '{prepared.name}' has no {part} target: its users' sequences are too short."
        )
    return rows


def _check_negatives(task: Task, settings: Settings, name: str) -> None:
    """Raise `UserError` where no prediction has a negative."""
    users = np.unique(task.train.user[task.train.predictions > 0])
    if settings.candidates == "batch" and len(users) == 1:
        raise UserError(
            f"dataset '{name}' has one user in training, and candidates=batch takes other users' targets as "
            "negatives: no batch has any, so that nothing can be learnt; take candidates=catalogue."
        )
    if settings.candidates != "batch" and len(task.sequences.trained) == 1:
        raise UserError(
            f"dataset '{name}' has one item in training, so that there are no negatives and nothing can be "
            "learnt; give it more items."
        )


def _twins(resolved: ResolvedRun) -> Ints:
    """`[I]` the first item with the same text, or itself where items have embeddings of their own."""
    texts = resolved.prepared.texts
    if distinguishes(resolved):
        return np.arange(len(texts))
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, item) for item, text in enumerate(texts)])


def prepare_inputs(
    dataset: str,
    llm: str | None,
    methods: Sequence[str] | None,
    protocols: Sequence[str],
    overrides: tuple[str, ...],
    reading: FolderOptions = NO_OPTIONS,
) -> Iterator[str]:
    """Prepare a dataset and, where a language model is named, the states that `methods` need of it.

    Yields lines for the terminal.
    """
    for protocol in protocols:  # wrong names are errors also where no language model is named
        if protocol != NO_PROTOCOL:
            check_protocol(protocol)
    for name in methods or ():
        if name != registry.ALL:
            registry.entry(name)
    check_overrides(overrides, methods)
    prepared = prepared_once(dataset, reading)
    yield from (f"warning: {warning}" for warning in prepared.warnings)
    yield describe(prepared)
    if llm is not None:
        yield from prepare_runs(runs_of(dataset, llm, methods, protocols, overrides, reading))


def runs_of(
    dataset: str,
    llm: str,
    methods: Sequence[str] | None,
    protocols: Sequence[str],
    overrides: tuple[str, ...],
    reading: FolderOptions = NO_OPTIONS,
) -> Iterator[ResolvedRun]:
    """Each method under each protocol, with those of the `key=value` pairs that it takes."""
    for name, protocol in product(registry.chosen_names(methods), protocols):
        own = applicable(overrides, registry.load(name))
        yield resolve_run(RunSpec(dataset, llm, name, protocol, overrides=own, reading=reading))


def prepare_runs(runs: Iterable[ResolvedRun]) -> Iterator[str]:
    """Compute the states that `runs`, all of one dataset and language model, need, in one pass.

    Yields lines for the terminal.
    """
    readers = [reader for run in runs for reader in run.readers]
    layers: dict[tuple[str, str], set[int]] = {}
    statistics: TokenStatistics | None = None
    for resolved in readers:
        assert resolved.llm is not None
        wanted = layers.setdefault((resolved.settings.pooling, resolved.settings.states_dtype), set())
        wanted.update(resolved.cls.layers(resolved.config, resolved.llm.n_layers))
    for (pooling, dtype), wanted in layers.items():
        if wanted:
            model, data = readers[0].llm, readers[0].prepared
            assert model is not None
            order = sorted(wanted, reverse=True)
            states = load_states(data.texts, model, order, pooling, dtype, cache_folder(), pick_device())
            yield f"{data.name}: hidden states of {model.name}, layers {order}: {_source(states)}"
            if statistics is None:
                statistics = states.statistics
                yield from _text_lines(data, model, statistics)
    for resolved in readers:
        assert resolved.llm is not None
        check_texts(resolved, resolved.llm, statistics)
    announced: set[tuple[str, int]] = set()
    for resolved in readers:
        if "tokens" not in kinds(resolved.cls):
            continue
        assert resolved.llm is not None
        inputs = load_inputs(resolved, pick_device())
        if (lower := inputs.lower) is not None and (lower.key, lower.layer) not in announced:
            announced.add((lower.key, lower.layer))
            what = f"states of all tokens of {resolved.llm.name} behind layer {lower.layer}"
            yield f"{resolved.prepared.name}: {what}: {_source(lower)}"
        if statistics is None:
            statistics = inputs.texts
            yield from _text_lines(resolved.prepared, resolved.llm, statistics)
        # a method that does not fit the language model fails now, not when its turn comes
        build_method(resolved, inputs, total_steps=1_000)


def _source(states: States | TokenStates) -> str:
    return f"{'already there' if states.hit else 'computed'}; cold cost {states.seconds:.1f} s"


def _text_lines(data: Prepared, llm: LLM, statistics: TokenStatistics | None) -> Iterator[str]:
    """Lines for the terminal about the texts as tokens."""
    if statistics is None:
        return
    items = len(data.texts)
    yield f"{data.name}: texts as tokens of {llm.name}: {statistics.described(items)}"
    if warning := statistics.warning(items, llm.name, llm.max_tokens):
        yield f"warning: {warning}"
