"""What a method declares, checked without building it: its class, `Config`, tables and layers.

`methods.checks.check_method` is the whole conformance test; this is its first half.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from methods.base import Method
from methods.errors import UserError

SCHEDULED = ("batch_size", "accumulation")
"""Harness settings that a `grid`, `paper` or `schedule` may name beside the method's own hyper-parameters."""
PROTOCOLS = ("paper", "fair")
"""Keys that a `schedule` may have."""
SHALLOW = (1, 2, 6)
"""Depths of language models that a method may refuse with a `UserError`."""


def require(cls: type, condition: bool, message: str) -> None:
    """Fail with `message` unless `condition` holds."""
    if not condition:  # not `assert`, which python -O leaves out
        raise AssertionError(f"{cls.__name__}: {message}")


def line(error: BaseException) -> str:
    """Kind and message of `error` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def check_class(cls: type[Method]) -> None:
    """Fail unless `cls` is a method that says what it reads and has hyper-parameters that can be read."""
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise AssertionError(f"{cls!r} is not a subclass of methods.base.Method")
    reads = getattr(cls, "reads", None)
    require(
        cls,
        reads in ("states", "tokens", "ids"),
        f"`reads` must be 'states', 'tokens' or 'ids', not {reads!r}",
    )
    own: Any = cls.Config
    frozen = is_dataclass(own) and isinstance(own, type) and own.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(cls, frozen, "Config must be a frozen dataclass: @dataclass(frozen=True)")


def check_config(cls: type[Method], config: Any) -> Any:
    """The configuration to test, after a look at the class it comes from."""
    own: Any = cls.Config
    try:
        default = own()
    except TypeError as error:
        raise AssertionError(f"{cls.__name__}: every field of Config needs a default: {error}") from error
    for name, value in asdict(default).items():
        _check_value(cls, name, value, "the default of Config")
    try:
        json.dumps(asdict(default))
    except TypeError as error:
        raise AssertionError(f"{cls.__name__}: Config goes into a JSON record: {error}") from error
    if config is None:
        return default
    require(cls, isinstance(config, own), f"config must be an instance of {own.__qualname__}, not {config!r}")
    for name, value in asdict(config).items():
        _check_value(cls, name, value, "config")
    return config


def _check_value(cls: type[Method], name: str, value: Any, where: str) -> None:
    """Fail unless the field `name` of Config takes `value` as it is."""
    values = {**asdict(cls.Config()), name: value}
    try:
        parsed = getattr(TypeAdapter(cls.Config).validate_python(values), name)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise AssertionError(f"{cls.__name__}: {where}: {name}={value!r} is not valid: {reason}") from error
    except Exception as error:
        raise AssertionError(f"{cls.__name__}: Config cannot be validated: {line(error)}") from error
    same = parsed == value
    require(cls, same, f"{where}: {name}={value!r} has another type than declared; it reads as {parsed!r}")


def check_tables(cls: type[Method]) -> None:
    """Fail unless `grid`, `paper` and `schedule` name settings that exist, with values that they take."""
    for name, choices in cls.grid.items():
        listed = isinstance(choices, tuple | list) and len(choices) > 0
        require(cls, listed, f"grid: {name} must have a tuple of values, not {choices!r}")
        for value in choices:
            _check_entry(cls, "grid", name, value)
    for key, values in cls.paper.items():
        pair = isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key)
        require(cls, pair, f"paper: the key {key!r} must be (language model, dataset)")
        for name, value in values.items():
            _check_entry(cls, f"paper {key}", name, value)
    for protocol, values in cls.schedule.items():
        require(cls, protocol in PROTOCOLS, f"schedule: {protocol!r} is no protocol; allowed: {PROTOCOLS}")
        for name, value in values.items():
            _check_entry(cls, f"schedule {protocol}", name, value)


def _check_entry(cls: type[Method], where: str, name: str, value: Any) -> None:
    own = [field.name for field in fields(cls.Config)]
    require(
        cls,
        name in own or name in SCHEDULED,
        f"{where}: there is no setting {name!r}; allowed: {own} and {SCHEDULED}",
    )
    if name in own:
        _check_value(cls, name, value, where)
    else:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(cls, whole, f"{where}: {name} must be a whole number from 1, not {value!r}")


def check_layers(cls: type[Method], config: Any, deepest: int) -> tuple[int, ...]:
    """The layers that `cls` asks of a model of `deepest` layers; shallower ones may be refused."""
    found: tuple[int, ...] = ()
    for depth, layers in _by_depth(cls, "layers", config, deepest):
        _check_numbers(cls, layers, depth)
        found = layers
    return found


def check_frozen_layers(cls: type[Method], config: Any, deepest: int) -> int:
    """How many layers of a model of `deepest` layers `cls` never trains; shallower ones may be refused."""
    found = 0
    for depth, frozen in _by_depth(cls, "frozen_layers", config, deepest):
        inside = type(frozen) is int and 0 <= frozen <= depth
        rule = f"a whole number in 0 to {depth}, not {frozen!r}"
        hint = "raise UserError where the language model has too few"
        require(
            cls, inside, f"frozen_layers() of a language model of {depth} layers must return {rule}; {hint}"
        )
        found = frozen
    return found


def _by_depth(cls: type[Method], name: str, config: Any, deepest: int) -> Iterator[tuple[int, Any]]:
    """What the class method `name` answers for models of some depths; the deepest must not be refused."""
    for depth in (*SHALLOW, deepest):
        try:
            found = getattr(cls, name)(config, depth)
        except UserError as error:
            require(cls, depth < deepest, f"{name}() refuses a language model of {depth} layers: {error}")
            continue
        except Exception as error:
            raise AssertionError(f"{cls.__name__}: {name}(config, {depth}) raised {line(error)}") from error
        yield depth, found


def _check_numbers(cls: type[Method], found: Any, depth: int) -> None:
    whole = isinstance(found, tuple) and all(type(layer) is int for layer in found)
    require(cls, whole, f"layers() must return a tuple of layer numbers, not {found!r}")
    some = len(found) > 0 or cls.reads == "tokens"  # which has the texts themselves
    require(cls, some, "layers() must name a layer to read, not ()")
    require(cls, len(set(found)) == len(found), f"layers() must be distinct, not {found}")
    hint = f"they lie in 0 to {depth}; raise UserError where the language model has too few"
    inside = all(0 <= layer <= depth for layer in found)
    require(cls, inside, f"layers() of a language model of {depth} layers must not be {found}: {hint}")
