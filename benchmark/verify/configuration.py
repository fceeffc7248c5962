"""L2: settings are those that the harness and the method declare, and the hashes of a record follow.

What a method of this project declares is read from its source: nothing is imported. A method of another
package is not loaded. The checks return what they could not see of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from benchmark.config import (
    CONTROL_SETTINGS,
    NO_PROTOCOL,
    PROTOCOLS,
    SETTINGS,
    Settings,
    config_hash,
    parse,
    protocol_hash,
)
from benchmark.llm.catalogue import identity_of, short_names
from benchmark.llm.sources import is_commit
from benchmark.verify.format import shown
from benchmark.verify.opened import BundledRun
from benchmark.verify.strict_json import json_in
from methods import BUILTIN, CONTROLS
from methods.declared import class_nodes, declared_config, declared_value
from methods.fields import hashed

STATED = 1
"""The generation from which on a record states all settings and hyper-parameters that enter its hashes."""


@dataclass(frozen=True)
class KnownMethod:
    """A method or control of this project."""

    target: str
    """`module:Class`."""
    config: type[Any]
    """A dataclass like its `Config`."""
    harness: tuple[str, ...]
    """The settings of the harness that concern it."""


@cache
def known_method(name: str) -> KnownMethod | None:
    """What the method or control of this name declares; None where this project has none."""
    if (target := {**BUILTIN, **CONTROLS}.get(name)) is None:
        return None
    harness = SETTINGS
    if name in CONTROLS and (reads := declared_value(class_nodes(*target.split(":")), "reads")):
        harness = CONTROL_SETTINGS[ast.literal_eval(reads[1])]
    return KnownMethod(target, declared_config(target), harness)


def _known(run: BundledRun) -> KnownMethod | None:
    """The method of a run; None where it is one of another package."""
    record = run.record
    name, known = shown(record.method), known_method(record.method)
    external = bool(record.method_source.get("external"))
    if known and external:
        raise run.fail(f"its method is marked as one of another package, and {name} is one of this project.")
    if known and record.untrained != (record.method in CONTROLS):
        raise run.fail(f"its method {name} cannot have the protocol {shown(record.protocol)}.")
    if not known and not external:
        raise run.fail(
            f"its method {name} is none of this version of AdaptRec, nor marked as one of another package; "
            "check it with the version that made it."
        )
    return known


def llm(run: BundledRun) -> None:
    """Its language model has the name in its details, and a short name is of the weights known by it."""
    name, details = run.record.llm, run.record.llm_details
    if details.get("name") != name or bool(details) != bool(name):
        raise run.fail(
            f"its language model is {shown(name)}, and its details are those of {shown(details.get('name'))}."
        )
    entry = short_names().get(name) if name else None
    for what, expected in _of_short_name(entry, details) if entry else ():
        if not str(details.get(what)).startswith(expected):
            raise run.fail(
                f"its language model {shown(name)} has the {what} {shown(details.get(what))}; the short name "
                f"means {expected}."
            )


def _of_short_name(entry: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Field of the details of a model -> how it begins where the model is that of the entry of llms.toml."""
    if "random" in entry:
        yield "source", "random"
        yield "digest", hashlib.sha256(json.dumps(entry["random"], sort_keys=True).encode()).hexdigest()
        return
    if "sha256" in entry:
        yield "digest", entry["sha256"]
    if "sha256" not in entry or details.get("source") != "folder":  # a folder states no commit
        yield "revision", entry["revision"] if is_commit(entry["revision"]) else entry.get("commit", "")


def settings(run: BundledRun) -> str | None:
    """Protocol, settings and hyper-parameters are those that the harness and the method declare."""
    record, known = run.record, _known(run)
    if record.protocol not in {NO_PROTOCOL, *PROTOCOLS}:
        raise run.fail(f"its protocol {shown(record.protocol)} is none of {', '.join(PROTOCOLS)}.")
    harness = known.harness if known else SETTINGS
    stated = not (record.untrained and known is None)  # which of them concern it, its class says
    _check_names(run, "setting", record.settings, harness, hashed(Settings()) if stated else ())
    parsed = parse(Settings, record.settings, f"{run.name}: its settings")
    for name, value in record.settings.items():
        if (own := json.dumps(value)) != (usual := json.dumps(getattr(parsed, name))):
            raise run.fail(f"its {name} is {shown(own)}, which the harness writes as {shown(usual)}.")
    if known is None:
        return f"the hyper-parameters of {shown(record.method)}, which is of another package"
    declared = {field.name for field in fields(known.config)}
    _check_names(run, "hyper-parameter", record.hyperparameters, declared, hashed(known.config()))
    for name, _, text in (pair.partition("=") for pair in record.overrides):
        if name not in {*harness, *declared}:
            raise run.fail(f"it overrides {shown(name)}, which {shown(record.method)} does not have.")
        if not _is_written(text, value := {**record.hyperparameters, **record.settings}.get(name)):
            raise run.fail(f"it overrides {shown(name)} with {shown(text)}, and its value is {shown(value)}.")
    return None


def _is_written(text: str, value: Any) -> bool:
    """Whether `--set` makes this value of a text, as far as the type of the value tells."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or text == "auto":
        return True
    if isinstance(value, str):
        # `peft` writes its configuration in one order
        return text == value or (isinstance(read := json_in(text), dict) and read == json_in(value))
    with suppress(ValueError):
        return float(text) == value
    return False


def _check_names(
    run: BundledRun,
    what: str,
    stated: Collection[str],
    declared: Collection[str],
    enter: Collection[str],
) -> None:
    """All that is stated is declared, and what of it must `enter` the hashes is stated."""
    if unknown := sorted({*stated} - {*declared}):
        raise run.fail(
            f"it has the {what} {shown(unknown[0])}, which {shown(run.record.method)} does not have."
        )
    missing = sorted({*enter} & {*declared} - {*stated})
    if missing and run.record.generation >= STATED:
        raise run.fail(f"it does not state its {what} {shown(missing[0])}.")


def hashes(run: BundledRun) -> str | None:
    """The hashes of configuration and protocol, and so its path, are those of what the record states."""
    record, known = run.record, _known(run)
    data = str(record.data.get("key"))
    own = _hashed(Settings, record.settings)
    again = protocol_hash(data, record.protocol, {} if record.untrained else own)
    if record.protocol_hash != again:
        raise run.fail(f"its protocol hash is {shown(record.protocol_hash)}, and its settings give {again}.")
    if known is None:
        return f"the configuration hash of {shown(record.method)}, which is of another package"
    if record.untrained:
        given = [pair.partition("=")[0] for pair in record.overrides]
        fixed = {name: value for name, value in record.hyperparameters.items() if name in given}
        values = {"settings": own, "fixed": fixed}
    else:
        values = {"settings": own, "config": _hashed(known.config, record.hyperparameters)}
    llm = identity_of(record.llm_details) if record.llm else None
    again = config_hash(data, llm, record.protocol, record.method, known.target, values)
    if record.config_hash != again:
        raise run.fail(
            f"its configuration hash is {shown(record.config_hash)}, and its data, language model, settings "
            f"and hyper-parameters give {again}."
        )
    return None


def _hashed(cls: type[Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """What enters the hash, of the names that the record states: older records lack those that came later."""
    names = {field.name for field in fields(cls)} & stated.keys()
    config = cls(**{name: stated[name] for name in names})
    return {name: value for name, value in hashed(config).items() if name in names}
