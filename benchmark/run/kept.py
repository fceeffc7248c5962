"""The kept model of a run: one safetensors file beside the record, of which `adaptrec export` makes a folder.

It holds all that recommending and embedding new texts take besides the record: neither the raw nor the
prepared data, nor the cache, is read again. Names of its tensors begin with their part:

- `weights.`: what training changed of the recommender and the method, at the chosen epoch;
- `items.`: the catalogue as SASRec reads it, `embeddings` `[R, d]` of distinct inputs and `row` `[I]` of each
  item, and `ids` and `texts` as JSON in bytes;
- `context.`: what the method was built with (`methods.base.Context`), and `states_centre` `[A, D]`, about
  which 16-bit states were stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.data.prepare import Prepared
from benchmark.files import digest_of, temporary_folder
from benchmark.llm.encoder import resolve_pooling
from benchmark.model.parallel import is_main
from benchmark.results.record import AGAIN, RunRecord, model_path
from benchmark.run.inputs import Inputs
from benchmark.run.spec import ResolvedRun
from benchmark.train.batches import total_steps
from benchmark.train.checkpoint import trained_part
from benchmark.train.evaluate import encode_catalogue
from benchmark.train.loop import Trainer
from methods.errors import UserError

FORMAT = 1
"""Version of the file, raised when its content changes."""
WEIGHTS, ITEMS, CONTEXT = "weights.", "items.", "context."
STATISTICS = ("state_mean", "state_std", "state_covariance")


@dataclass(frozen=True)
class Kept:
    """What such a file holds; names in the mappings lack their part."""

    weights: dict[str, Tensor]
    embeddings: Tensor
    """`[R, d]`"""
    row: Tensor
    """`[I]`"""
    item_ids: list[str]
    texts: list[str]
    context: dict[str, Tensor]
    facts: dict[str, Any]
    """`total_steps`, the largest number of optimiser steps, and the `pooling` of texts, null without any."""


def write_kept(path: Path, resolved: ResolvedRun, trainer: Trainer, inputs: Inputs) -> str | None:
    """Write the kept model of a run whose best weights are loaded: -> SHA-256 of the file.

    All processes must call it; the main one writes, and the others return None.
    """
    items = _items(trainer, resolved.prepared)
    if not is_main():
        return None
    tensors = {f"{WEIGHTS}{name}": value for name, value in _weights(trainer).items()}
    tensors |= {f"{ITEMS}{name}": value for name, value in items.items()}
    tensors |= {f"{CONTEXT}{name}": value for name, value in _context(inputs).items()}
    steps = total_steps(trainer.task.train, trainer.task.sequences, trainer.settings, trainer.seed)
    llm = resolved.llm
    facts = {
        "format": FORMAT,
        "total_steps": steps,
        "pooling": resolve_pooling(resolved.settings.pooling, llm) if llm and not llm.server else None,
    }
    return save_tensors(path, tensors, {"facts": json.dumps(facts)})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write safetensors atomically, whatever the layout of the tensors: -> SHA-256 of the file."""
    from safetensors.torch import save_file

    # a copy of each: the format refuses tensors that share memory
    whole = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with temporary_folder(path.parent, path.name) as part:
        file = part / "part"
        save_file(whole, file, metadata)
        digest = digest_of(file)
        file.chmod(0o644)
        file.replace(path)
    return digest


def _items(trainer: Trainer, prepared: Prepared) -> dict[str, Tensor]:
    """The catalogue, encoded as for the test, by all processes together."""
    model = trainer.model.eval()
    with torch.no_grad(), model.encoder.full_precision():
        catalogue = trainer.retry.run(
            lambda: encode_catalogue(model, trainer.task.sequences, trainer.device, trainer.process)
        )
    return {
        "embeddings": catalogue.embeddings,
        "row": catalogue.row,
        "ids": _packed(prepared.item_ids),
        "texts": _packed(prepared.texts),
    }


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    """The state dict without what is frozen, and without the state that only further training needs."""
    weights = trained_part(trainer.model)
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def _context(inputs: Inputs) -> dict[str, Tensor]:
    found = {name: inputs.context[name] for name in STATISTICS if name in inputs.context}
    if (counts := inputs.context.get("cooccurrences")) is not None:
        found |= {
            "cooccurrence_items": counts.indices(),
            "cooccurrence_counts": counts.values(),
        }  # [2, n], [n]
    if inputs.catalogue is not None:
        states = inputs.catalogue.states
        found["states_centre"] = states.mean if states.stored_mean is None else states.stored_mean  # [A, D]
    return found


def _packed(strings: Sequence[str]) -> Tensor:
    """Strings as JSON in bytes `[b]`."""
    return torch.frombuffer(bytearray(json.dumps(list(strings)).encode()), dtype=torch.uint8)


def _unpacked(data: Tensor) -> list[str]:
    strings: list[str] = json.loads(data.numpy().tobytes())
    return strings


def read_kept(record_path: Path, record: RunRecord) -> Kept:
    """The kept model of a run. Raises `UserError` where there is none, or it is not that of the record."""
    from safetensors import safe_open

    path = model_path(record_path)
    if record.untrained:
        raise UserError(f"{record_path} is of the control '{record.method}', which has no weights to keep.")
    if record.model_sha256 is None or not path.exists():
        raise UserError(
            f"{record_path} has no kept weights beside it; the command that made it, with --keep-model, "
            "trains once more and keeps them: `adaptrec run ... --keep-model`."
        )
    if digest_of(path) != record.model_sha256:
        raise UserError(f"{path} is not the file that its record names by its digest. {AGAIN}")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["facts"])
    if facts.pop("format") != FORMAT:
        raise UserError(f"{path} was written by another version of AdaptRec. {AGAIN}")
    items = part(tensors, ITEMS)
    return Kept(
        part(tensors, WEIGHTS),
        items["embeddings"],
        items["row"],
        _unpacked(items["ids"]),
        _unpacked(items["texts"]),
        part(tensors, CONTEXT),
        facts,
    )


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
