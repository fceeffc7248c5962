"""Check what a method class declares, without building it: its class, `Config`, tables and layers.

`methods.checks.check_method` is the whole conformance test; these functions are its first half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from methods.base import Method, reads_states
from methods.controls.base import Control
from methods.errors import UserError
from methods.plugins import one_line

T = TypeVar("T")
SCHEDULED = ("batch_size", "accumulation")
"""Harness settings that `grid`, `paper` and `schedule` may name besides the method's hyper-parameters."""
PROTOCOLS = ("paper", "fair", "tuned")
"""Keys that a `schedule` may have."""
SHALLOW = (1, 2, 6)
"""Depths of language models that a method may refuse with a `UserError`."""


def require(cls: type, condition: bool, message: str) -> None:
    """Raise `AssertionError` with `message` unless `condition` holds."""
    if not condition:  # not `assert`, which python -O leaves out
        raise AssertionError(f"{cls.__name__}: {message}")


def attempt(cls: type, what: str, action: Callable[[], T]) -> T:
    """The result of `action`; an exception becomes an `AssertionError` that names `what` raised it."""
    try:
        return action()
    except Exception as error:
        raise AssertionError(f"{cls.__name__}: {what} raised {one_line(error)}") from error


def check_class(cls: type[Method] | type[Control]) -> None:
    """Raise `AssertionError` unless `cls` is a method or control with valid `reads` and a frozen `Config`."""
    if not (isinstance(cls, type) and issubclass(cls, Method | Control)):
        raise AssertionError(
            f"{cls!r} is not a subclass of methods.base.Method or methods.controls.base.Control"
        )
    reads = getattr(cls, "reads", None)
    several = issubclass(cls, Method)
    allowed = ("states", "tokens", "ids") if several else ("states", "ids")
    named = reads if several and isinstance(reads, tuple) and reads else (reads,)
    valid = all(kind in allowed for kind in named) and len(set(named)) == len(named)
    listed = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
    listed += ", or a tuple of different ones of them" if several else ""
    require(cls, valid, f"`reads` must be {listed}, not {reads!r}")
    own: Any = cls.Config
    frozen = is_dataclass(own) and isinstance(own, type) and own.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(cls, frozen, "Config must be a frozen dataclass: @dataclass(frozen=True)")


def check_config(cls: type[Method] | type[Control], config: Any) -> Any:
    """Check the defaults of `cls.Config` and `config`: -> `config`, or the defaults where it is None."""
    own: Any = cls.Config
    default = attempt(cls, "Config(), in which every field needs a default,", own)
    given = default if config is None else config
    require(cls, isinstance(given, own), f"config must be an instance of {own.__qualname__}, not {given!r}")
    for values, where in ((default, "the default of Config"), (given, "config")):
        for name, value in asdict(values).items():
            check_value(cls, name, value, where)
    attempt(cls, "writing the defaults of Config as JSON", lambda: json.dumps(asdict(default)))
    return given


def check_value(cls: type[Method] | type[Control], name: str, value: Any, where: str) -> None:
    """Raise `AssertionError` unless the field `name` of Config takes `value` without converting it."""
    values = {**asdict(cls.Config()), name: value}
    try:
        adapter = attempt(cls, "reading the types of Config", lambda: TypeAdapter(cls.Config))
        parsed = getattr(adapter.validate_python(values), name)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise AssertionError(f"{cls.__name__}: {where}: {name}={value!r} is not valid: {reason}") from error
    same = parsed == value
    require(cls, same, f"{where}: {name}={value!r} has another type than declared; it reads as {parsed!r}")


def check_tables(cls: type[Method]) -> None:
    """Raise `AssertionError` unless `grid`, `paper` and `schedule` name settings and values that exist."""
    settings: list[tuple[str, Mapping[str, Any]]] = []
    for name, choices in cls.grid.items():
        listed = isinstance(choices, tuple | list) and len(choices) > 0
        require(cls, listed, f"grid: {name} must have a tuple of values, not {choices!r}")
        settings += [("grid", {name: value}) for value in choices]
    for key, values in cls.paper.items():
        pair = isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key)
        require(cls, pair, f"paper: the key {key!r} must be (language model, dataset)")
        settings.append((f"paper {key}", values))
    for protocol, values in cls.schedule.items():
        require(cls, protocol in PROTOCOLS, f"schedule: {protocol!r} is no protocol; allowed: {PROTOCOLS}")
        settings.append((f"schedule {protocol}", values))
    own = [field.name for field in fields(cls.Config)]
    for where, values in settings:
        for name, value in values.items():
            known = name in own or name in SCHEDULED
            require(cls, known, f"{where}: there is no setting {name!r}; allowed: {own} and {SCHEDULED}")
            if name in own:
                check_value(cls, name, value, where)
            else:
                whole = type(value) is int and value >= 1
                require(cls, whole, f"{where}: {name} must be a whole number from 1, not {value!r}")


def check_layers(cls: type[Method] | type[Control], config: Any, deepest: int) -> tuple[int, ...]:
    """The layers that `cls` asks of a language model of `deepest` layers; it may refuse shallower ones."""
    layers: tuple[int, ...] = ()
    for depth, layers in _by_depth(cls, "layers", config, deepest):
        whole = isinstance(layers, tuple) and all(type(layer) is int for layer in layers)
        require(cls, whole, f"layers() must return a tuple of layer numbers, not {layers!r}")
        some = len(layers) > 0 or not reads_states(cls)  # a reader of tokens may need no states
        require(cls, some, "layers() must name a layer to read, not ()")
        require(cls, len(set(layers)) == len(layers), f"layers() must be distinct, not {layers}")
        inside = all(0 <= layer <= depth for layer in layers)
        hint = f"they lie in 0 to {depth}; raise UserError where the language model has too few"
        message = f"layers() of a language model of {depth} layers must not be {layers}: {hint}"
        require(cls, inside, message)
    return layers


def check_frozen_layers(cls: type[Method], config: Any, deepest: int) -> int:
    """How many of `deepest` layers `cls` never trains; it may refuse shallower language models."""
    frozen = 0
    for depth, frozen in _by_depth(cls, "frozen_layers", config, deepest):
        message = (
            f"frozen_layers() of a language model of {depth} layers must return a whole number in 0 to"
            f" {depth}, not {frozen!r}; raise UserError where the language model has too few"
        )
        require(cls, type(frozen) is int and 0 <= frozen <= depth, message)
    return frozen


def _by_depth(
    cls: type[Method] | type[Control], name: str, config: Any, deepest: int
) -> Iterator[tuple[int, Any]]:
    """Depth of a language model -> what the class method `name` returns; the deepest must not be refused."""
    for depth in (*SHALLOW, deepest):
        try:
            yield depth, getattr(cls, name)(config, depth)
        except UserError as error:
            require(cls, depth < deepest, f"{name}() refuses a language model of {depth} layers: {error}")
        except Exception as error:
            what = f"{name}(config, {depth}) raised {one_line(error)}"
            raise AssertionError(f"{cls.__name__}: {what}") from error
