"""How a setting is declared that came after records existed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

_LATER = "later"


def later(default: Any) -> Any:
    """A dataclass field that leaves the hashes of configurations alone for as long as it has its default.

    A new setting or hyper-parameter must not rename the records of runs that did what its default does.
    """
    return field(default=default, metadata={_LATER: True})


def hashed(config: Any) -> Mapping[str, Any]:
    """Fields and values of the dataclass `config` that name a configuration."""
    return {
        one.name: getattr(config, one.name)
        for one in fields(config)
        if not (one.metadata.get(_LATER) and getattr(config, one.name) == one.default)
    }
