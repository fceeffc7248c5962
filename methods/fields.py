"""Declare settings that were added after records existed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

_LATER = "later"


def later(default: Any) -> Any:
    """A dataclass field that does not enter the hash of a configuration while it has its default.

    So a new setting or hyper-parameter leaves the names of earlier records as they are.
    """
    return field(default=default, metadata={_LATER: True})


def hashed(config: Any) -> Mapping[str, Any]:
    """Fields and values of the dataclass `config` that enter its hash."""
    return {
        one.name: getattr(config, one.name)
        for one in fields(config)
        if not (one.metadata.get(_LATER) and getattr(config, one.name) == one.default)
    }
