"""What each method does for an item, counted by running it on a few of them in the model's true shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.config import PROTOCOLS, Settings, parse
from benchmark.llm.catalogue import LLM
from benchmark.llm.encoder import load_model, resolve_pooling
from benchmark.speed.count import Counter, counting
from benchmark.train.rows import bin_width
from methods import registry
from methods.base import Context, Items, Method, kinds, observes, reads_llm
from methods.errors import UserError
from studies.arithmetic.cost import Schedule, Work

EXAMPLE = 16
"""Items that are counted: a multiple of the rows that `methods.kernels.precision` pads to."""


def schedule(protocol: str) -> Schedule:
    """Of a protocol, for catalogues that are too large for `candidates = catalogue`."""
    known = {name: value for name, value in PROTOCOLS[protocol].items() if hasattr(Settings, name)}
    settings = parse(Settings, known, f"protocol {protocol}")
    return Schedule(
        batch=settings.batch_size,
        samples=settings.batch_size if settings.candidates == "batch" else settings.samples,
        width=settings.width,
        layers=settings.sasrec_layers,
        inner=settings.sasrec_inner,
        slots=bin_width(settings.window),
    )


def llm_forward(llm: LLM, tokens: int) -> float:
    """FLOP of one text's forward pass."""
    model = load_model(llm)
    ids, mask = _tokens(tokens)
    with torch.no_grad(), counting(torch.device("cpu"), "all") as counter:
        model(input_ids=ids, attention_mask=mask)
    return _an_item(counter)


def count(name: str, llm: LLM, tokens: int, protocol: str) -> Work:
    """Build the method `name` on `llm` with the protocol's hyper-parameters, and count."""
    cls = registry.get(name)
    chosen = {key: value for key, value in PROTOCOLS[protocol].items() if hasattr(cls.Config, key)}
    config = parse(cls.Config, chosen, f"protocol {protocol}")
    layers = cls.layers(config, llm.n_layers) if reads_llm(cls) else ()
    method = _build(cls, config, llm, len(layers), EXAMPLE)
    items = _items(method, len(layers), llm, tokens)
    forward, _ = _flops(method, items, False)
    training, kept = _flops(method, items, True)
    more = _trained(_build(cls, config, llm, len(layers), EXAMPLE + 1)) - _trained(method)
    everything = sum(parameter.numel() for parameter in method.parameters())
    return Work(
        method=name,
        reads=" and ".join(kinds(cls)),
        state_layers=len(layers),
        llm_width=llm.width,
        forward=forward,
        training=training,
        replayed="tokens" in kinds(cls),
        trained=_trained(method) - more * EXAMPLE,
        trained_per_item=more,
        frozen=everything - _trained(method),
        kept=kept,
    )


def _build(cls: type[Method], config: Any, llm: LLM, layers: int, items: int) -> Method:
    width = Settings().width
    about: dict[str, Any] = {"llm_layers": llm.n_layers, "llm_width": llm.width}
    if layers:
        about |= {"state_mean": torch.zeros(layers, llm.width), "state_std": torch.ones(layers, llm.width)}
    if layers and cls.reads_covariance(config):
        about["state_covariance"] = torch.eye(llm.width).expand(layers, -1, -1)  # [D, D] -> [A, D, D]
    if cls.reads_cooccurrences:
        about["cooccurrences"] = torch.eye(items).to_sparse()  # [I, I]
    if "tokens" in kinds(cls):
        about |= {"llm": load_model(llm), "pooling": resolve_pooling("auto", llm)}
    torch.manual_seed(0)
    method = cls(config, Context(width, items, 1000, **about))
    if observes(cls):
        with torch.no_grad():
            method.observe([torch.randn(EXAMPLE, layers, llm.width)])
    return method.train()


@torch.no_grad()
def _items(method: Method, layers: int, llm: LLM, tokens: int) -> Items:
    found, reads = {}, kinds(type(method))
    if "ids" in reads:
        found["ids"] = torch.arange(EXAMPLE)  # [M]
    if "states" in reads:
        found["states"] = method.precompute(torch.randn(EXAMPLE, layers, llm.width))  # [M, ...]
    if "tokens" in reads:
        found["input_ids"], found["attention_mask"] = _tokens(tokens)  # both [M, T]
    return Items(**found)


def _tokens(count: int) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask`, `[EXAMPLE, count]`: what they say does not matter."""
    return torch.full((EXAMPLE, count), 5), torch.ones(EXAMPLE, count, dtype=torch.long)


def _trained(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _flops(method: Method, items: Items, gradients: bool) -> tuple[float, float]:
    """FLOP an item, with the backward pass where asked; bytes an item that its graph keeps."""
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.set_grad_enabled(gradients),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        counting(torch.device("cpu"), "all") as counter,
    ):
        out = method(items)
        if gradients:
            out.sum().backward()
    return _an_item(counter), sum(saved.values()) / EXAMPLE


def _an_item(counter: Counter) -> float:
    """FLOP an item; raises `UserError` where some are not known: a figure without them would mislead."""
    counted = counter.counted()
    if counted.not_counted:
        raise UserError(
            f"the operations of {', '.join(counted.not_counted)} cannot be counted; leave it out."
        )
    return counted.total.flops / EXAMPLE
