"""Whether a folder holds a whole language model: weights as safetensors, a config and a tokenizer.

No pickle is read. Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.files import digest_of
from methods.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
"""transformers puts the PEFT adapter that this file describes into the model that it loads."""
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json",
)  # fmt: skip
"""Any one of these makes a tokenizer."""
TOKENIZER_FILES = (
    *TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""All that a tokenizer may read; their digest is part of a cache key."""


def check_folder(folder: Path) -> list[Path]:
    """The weight files of a complete folder; raises `UserError` naming what is missing or broken."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} holds a PEFT adapter ({ADAPTER}), which would change the model that its name, weights "
            "and digest stand for. Merge it (peft: AutoPeftModel.from_pretrained(folder).merge_and_unload()"
            ".save_pretrained(new_folder), and the same for the tokenizer) and give the new folder; or move "
            "the adapter's files away to read the model without it"
        )
    files = weight_files(folder)
    for file in files:
        _check_safetensors(file)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer: it needs one of {', '.join(TOKENIZERS)}")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `UserError` where it is missing or not one."""
    value = _parsed(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def read_list(path: Path) -> list[Any]:
    """A JSON list from a file; raises `UserError` where it is missing or not one."""
    value = _parsed(path)
    if not isinstance(value, list):
        raise UserError(f"{path} is not a JSON list")
    return value


def _parsed(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} cannot be read as JSON ({reason})") from error


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256 of one file, or of the names and digests of several."""
    existing = [file for file in files if file.is_file()]
    if len(existing) == 1:
        return digest_of(existing[0])
    lines = "".join(f"{file.name} {digest_of(file)}\n" for file in sorted(existing))
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: those that the config names, or of the usual names.

    Raises `UserError` where one is missing.
    """
    if (stated := read_json(folder / "config.json").get("transformers_weights")) is not None:
        named = folder / str(stated)
        if not named.is_file():
            raise UserError(f"{folder} lacks {stated}, which its config.json names as transformers_weights")
        return _shards(named) if named.name.endswith(".json") else [named]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    fault = f"{folder} has no {WEIGHTS}"
    if pickled := [*sorted(folder.glob("*.bin")), *sorted(folder.glob("*.pt"))]:
        fault += (
            f": it has only {pickled[0].name}, and pickles are not loaded; convert it with save_pretrained"
        )
    raise UserError(fault)


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index} has no weight_map")
    files = [index.parent / str(name) for name in sorted(set(map(str, shards.values())))]
    for file in files:
        if not file.is_file():
            raise UserError(f"{index.parent} lacks {file.name}, which {index.name} names")
    return files


def _check_safetensors(path: Path) -> None:
    """Open the header, which also compares the promised size with the real one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error})") from error
