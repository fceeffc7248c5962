"""Declare settings that were added after records existed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

_LATER = "later"
_OLD_NAMES = "old names"


def later(default: Any) -> Any:
    """A dataclass field that does not enter the hash of a configuration while it has its default.

    So a new setting or hyper-parameter leaves the names of earlier records as they are.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


def renamed(old_names: Mapping[str, str]) -> Mapping[str, Any]:
    """Metadata of a dataclass field some of whose values have a new name: new name -> the one that is hashed.

    So the configurations of earlier records keep their names.
    """
    return {_OLD_NAMES: old_names}


def hashed(config: Any) -> Mapping[str, Any]:
    """Fields and values of the dataclass `config` that enter its hash."""
    values: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if not (field.metadata.get(_LATER) and value == field.default):
            old_names = field.metadata.get(_OLD_NAMES, {})
            values[field.name] = old_names[value] if old_names and value in old_names else value
    return values
