"""The files of a model folder, which `adaptrec export` writes and `load_model` reads.

`config.json` says what the model is and holds the SHA-256 of every other file; it carries its own checksum.
Nothing in the folder is code or a pickle, and nothing outside it is needed for recommendations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from benchmark.config import first_fault
from benchmark.files import DamagedError, digest_of, read_checked, write_checked
from methods.errors import UserError

FORMAT = 1
"""Version of a model folder, raised when its content changes."""
CONFIG = "config.json"
RECOMMENDER = "recommender.safetensors"
"""SASRec's weights."""
METHOD = "method.safetensors"
"""What training changed of the method (`weights.`), and what it was built with (`context.`)."""
EMBEDDINGS = "items.safetensors"
"""`embeddings` `[R, d]` of the distinct inputs, as SASRec reads them, and `row` `[I]` of each item."""
ITEMS = "items.parquet"
"""`item_id` and `text` of each item `[I]`."""
CARD = "README.md"


@dataclass(frozen=True)
class ModelConfig:
    """The content of `config.json`; names are those of the run's record (docs/records.md)."""

    format: int
    adaptrec: str
    """Version that wrote the folder."""
    created: str
    dataset: str
    data: dict[str, Any]
    """Key, recipe and fingerprint of the prepared data."""
    method: str
    method_source: dict[str, Any]
    hyperparameters: dict[str, Any]
    protocol: str
    settings: dict[str, Any]
    seed: int
    best_epoch: int
    config_hash: str
    llm: str | None
    llm_details: dict[str, Any]
    pooling: str | None
    """Token that stands for a text; null where no texts are read."""
    total_steps: int
    """Optimiser steps of the longest possible run, which the method is built with."""
    metrics: dict[str, Any]
    packages: dict[str, str]
    files: dict[str, str]
    """Name -> SHA-256 of every other file that is read."""

    def write(self, folder: Path) -> None:
        """Write `config.json`."""
        write_checked(folder / CONFIG, asdict(self))

    @property
    def model_digest(self) -> str:
        """Names the weights: embedded items carry it, so that none is read by another model."""
        return self.files[METHOD][:16]


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder. Raises `UserError` where it has none, or a damaged one."""
    path = folder / CONFIG
    try:
        values = read_checked(path, [field.name for field in fields(ModelConfig)])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is no model folder: it has no {CONFIG}. `adaptrec export RECORD -o FOLDER` writes one."
        ) from error
    except DamagedError as error:
        raise UserError(
            f"{path} is not as `adaptrec export` wrote it: {error}; export the run again."
        ) from error
    if values["format"] != FORMAT:
        raise UserError(f"{path} has the format {values['format']!r}; this version reads format {FORMAT}.")
    try:
        return TypeAdapter(ModelConfig).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(
            f"{path} is not as `adaptrec export` wrote it: {first_fault(error)}; export the run again."
        ) from error


def checked_file(folder: Path, name: str, config: ModelConfig) -> Path:
    """The path of a file whose content is what the configuration states. Raises `UserError` for any other."""
    path = folder / name
    try:
        right = digest_of(path) == config.files.get(name)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; export the run again.") from error
    if not right:
        raise UserError(f"{path} does not match its digest in {CONFIG}; export the run again.")
    return path


def read_tensors(folder: Path, name: str, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(checked_file(folder, name, config))
    return tensors
