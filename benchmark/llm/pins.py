"""The commits that short names without a commit of their own were resolved to, in a file of the user.

A branch, or a pull request of the hub, may move: what it led to is kept here once, so that a short name means
the same files from then on. The file is plain JSON: a project may keep it beside its results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.files import write_json
from benchmark.llm.model_folder import read_json
from benchmark.llm.sources import is_commit
from benchmark.process.locks import held
from methods.errors import UserError

VARIABLE = "ADAPTREC_PINS"
"""Names the file, where it is not that of the user."""


@dataclass(frozen=True)
class Pin:
    """What a short name was resolved to."""

    repo: str
    revision: str
    """The whole commit hash."""
    sha256: str
    """Of the weights, as a record's `llm_details.digest`."""
    created: str
    """When, UTC."""


def pins_file() -> Path:
    """$ADAPTREC_PINS, else `adaptrec/llm-pins.json` below $XDG_CONFIG_HOME or ~/.config."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "adaptrec" / "llm-pins.json"


def read_pins() -> dict[str, Pin]:
    """Short name -> its pin. Raises `UserError` for a file that holds something else."""
    path = pins_file()
    if not path.is_file():
        return {}
    return {name: _checked(path, name, value) for name, value in read_json(path).items()}


def _checked(path: Path, name: str, value: Any) -> Pin:
    try:
        pin = Pin(**value)
        if is_commit(pin.revision) and all(isinstance(part, str) for part in asdict(pin).values()):
            return pin
    except TypeError:
        pass
    raise UserError(
        f"{path}: the pin of '{name}' is not a repo, a revision of 40 hexadecimal digits, a sha256 and a"
        f" date; remove it, and make it anew by `adaptrec pin {name}`"
    )


def keep_pin(name: str, repo: str, revision: str, sha256: str) -> Path:
    """Write the pin of `name` into the file, in place of an earlier one: -> the file.

    Raises `OSError` or `UserError` where it cannot be written.
    """
    path = pins_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    pin = Pin(repo, revision, sha256, datetime.now(UTC).isoformat(timespec="seconds"))
    with held(path.with_suffix(".lock")):
        pins: Mapping[str, Pin] = read_pins() | {name: pin}
        write_json(path, {key: asdict(value) for key, value in pins.items()})
    return path
