"""ONNX files of the two sides of a model: histories to user vectors, and inputs of items to item vectors.

A score is the dot product of a user vector and an item vector. The files are checked against PyTorch when
they are written.

Symbols in shape comments: `B` users, `L` items of the longest history, `M` items, `A` layers read, `T`
tokens, `D` width of the language model, `d` that of the recommender.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.measure import one_line
from benchmark.model.recommender import Recommender
from benchmark.serve.embed import TextEmbedder
from benchmark.serve.model import LoadedModel
from methods.base import Items, kinds, precomputes
from methods.errors import UserError

USER, ITEM = "user_tower.onnx", "item_tower.onnx"
TOLERANCE = 1e-4
"""Largest difference from PyTorch of a number of a vector, whose length is about one."""
OPSET = 20


class UserTower(nn.Module):
    """Embeddings of the items of histories, padded behind their end, to user vectors."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """`[B, L, d]` as SASRec reads them, `[B]` their number, from 1: -> `[B, d]`."""
        column = torch.arange(history.shape[1], device=history.device)  # [L]
        segments = torch.where(column < length[:, None], 0, -1)  # [L] < [B, 1] -> [B, L]
        positions = column.expand(history.shape[0], -1)  # [L] -> [B, L]
        first = torch.arange(history.shape[0], device=history.device) * history.shape[1]  # [B]
        states = self.recommender.sasrec(history, positions, segments, first + length - 1)  # [B, d]
        return self.recommender.scored(states)


class ItemTower(nn.Module):
    """What the method reads of new items to item vectors, as scored."""

    def __init__(self, embedder: TextEmbedder, recommender: Recommender) -> None:
        super().__init__()
        self.method, self.recommender = embedder.method, recommender

    def forward(self, *inputs: Tensor) -> Tensor:
        """`[M, A, D]` states, or `[M, T]` tokens and their mask: -> `[M, d]`."""
        if len(inputs) == 2:
            items = Items(input_ids=inputs[0], attention_mask=inputs[1])
        else:
            states = self.method.precompute(inputs[0]) if precomputes(type(self.method)) else inputs[0]
            items = Items(states=states)
        return self.recommender.scored(self.method(items).float())


def write_onnx(model: LoadedModel, folder: Path, llm: str | None = None) -> list[str]:
    """Write the towers of a model on the CPU into `folder`: -> lines about those that cannot be had.

    `llm` is that of `TextEmbedder`. Raises `UserError` where ONNX is not installed, or the user tower does
    not give the vectors of PyTorch.
    """
    _require_onnx()
    window, width = model.recommender.settings.window, model.recommender.settings.width
    users, long = torch.export.Dim("users", min=1), torch.export.Dim("items", min=1, max=max(window, 2))
    some = min(window, 5)
    history, length = torch.randn(3, some, width), torch.tensor([1, some, 1])  # [B, L, d], [B]
    _write(
        UserTower(model.recommender),
        {"history": history, "length": length},
        {"history": {0: users, 1: long} if window > 1 else {0: users}, "length": {0: users}},
        folder / USER,
        [{"history": torch.randn(2, window, width), "length": torch.tensor([window, 1])}],
    )
    try:
        embedder = model.embedder(llm)
        inputs, shapes = _item_inputs(embedder, model.texts[:3])
        other, _ = _item_inputs(embedder, model.texts[-2:])
        _write(ItemTower(embedder, model.recommender), inputs, shapes, folder / ITEM, [other])
    except UserError as error:
        return [f"no {ITEM}: {error}"]
    return []


def _item_inputs(embedder: TextEmbedder, texts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inputs of the item tower of some texts, and which of their dimensions vary."""
    items = torch.export.Dim("items", min=1)
    if kinds(embedder.cls) == ("states",):
        states = embedder.raw_states(texts)  # [M, A, D]
        return {"states": states}, {"inputs": ({0: items},)}
    if kinds(embedder.cls) != ("tokens",):
        raise UserError(f"method '{embedder.config.method}' reads {' and '.join(kinds(embedder.cls))}.")
    tokens = embedder.tokens(texts)
    ids, mask = tokens.batch(torch.arange(len(texts)), int(tokens.lengths[:-1].max()))  # both [M, T]
    width = torch.export.Dim("tokens", min=1, max=embedder.llm.max_tokens)
    shape = {0: items, 1: width}
    return {"input_ids": ids, "attention_mask": mask}, {"inputs": (shape, shape)}


def _write(
    tower: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict[str, Any],
    path: Path,
    others: Sequence[dict[str, Tensor]],
) -> None:
    """Write a tower and compare it with PyTorch, also on `others`, which have other shapes."""
    tower.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # the exporter names every package that it could do without
        try:
            torch.onnx.export(
                tower, tuple(inputs.values()), path, input_names=list(inputs), output_names=["vector"],
                dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False, opset_version=OPSET,
            )  # fmt: skip
        except Exception as error:  # the exporter has many kinds, for models that it does not know
            path.unlink(missing_ok=True)
            raise UserError(f"PyTorch cannot export it ({one_line(error, 200)}).") from error
        finally:
            logging.disable(level)
    for some in (inputs, *others):
        _compare(tower, some, path)


@torch.no_grad()
def _compare(tower: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    apart = (tower(*inputs.values()) - torch.from_numpy(found)).abs().max().item()
    if not apart <= TOLERANCE:
        path.unlink()
        raise UserError(f"ONNX gives other vectors than PyTorch, by up to {apart:.2g}.")


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--onnx needs {error.name}, which is not installed; `pip install 'adaptrec[onnx]'` does it."
        ) from error
