"""The source of a method that another package brought, so that a reader of its figures can read it too."""

from __future__ import annotations

import importlib.util

from benchmark.results.record import RunRecord
from methods import registry
from methods.code import code_digest, read_module
from methods.errors import UserError


def sources_of(record: RunRecord) -> dict[str, str]:
    """Module -> its source, for the modules of the method's package that the digest of its code covers.

    Raises `UserError` where the method is not installed here, or is not the code that made the record.
    """
    cls = registry.load(record.method)
    if record.made_by_other(code_digest(cls)):
        raise UserError(
            f"the method '{record.method}' was edited since its run {record.config_hash}-s{record.seed}; "
            "install the version that made the record, or run it again."
        )
    package = cls.__module__.partition(".")[0]
    found: dict[str, str] = {}
    waiting = [base.__module__ for base in cls.__mro__ if base.__module__.partition(".")[0] == package]
    while waiting:
        module = waiting.pop()
        if module in found or (read := read_module(module)) is None:
            continue
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        if source is not None:
            found[module] = source
            waiting += read[1]
    if not found:
        raise UserError(
            f"the source of the method '{record.method}' cannot be found; install it from source."
        )
    return found
