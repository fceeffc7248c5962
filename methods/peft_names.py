"""Check that every name in a PEFT configuration matches something: modules, layers, parameters, tokens.

PEFT ignores a name in a list that matches no module, so that a part of the configuration would have no
effect. Fields are recognised by their names, which are the same in all kinds of adapters; a test lists the
fields of the installed PEFT and fails for a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from torch import nn

from methods.errors import UserError, unknown

EVERY_LINEAR = "all-linear"
"""Means all linear maps, in `target_modules` only."""
BY_PATH = ("target_modules", "exclude_modules")
"""Lists whose names must be whole parts of a module's path; elsewhere the end of a path is enough."""
NOT_ADAPTED = ("exclude_modules", "modules_to_save")
"""Lists of modules that get no adapter."""


def named_in(config: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the fields of the PEFT configuration `config` that name something and are not empty,
    nested configurations included."""
    pairs = (
        config.items()
        if isinstance(config, Mapping)
        else ((field.name, getattr(config, field.name, None)) for field in fields(config))
    )
    for name, value in pairs:
        if is_dataclass(value) or (isinstance(value, Mapping) and name.startswith("use_")):
            yield from named_in(value)
        elif value not in (None, [], {}, set()) and kind_of(name) is not None:
            yield name, value


def kind_of(field: str) -> str | None:
    """What a field of a PEFT configuration names: `modules`, `keys` (modules with a value of their own),
    `prefixes` (the path before a layer's number), `layers`, `ranges`, `parameters`, `tokens`, or None."""
    exact = {
        "layers_to_transform": "layers",
        "layers_pattern": "prefixes",
        "layer_replication": "ranges",
        "target_parameters": "parameters",
        "target_svd_config": "parameters",
        "trainable_token_indices": "tokens",
        "token_indices": "tokens",
    }
    if field in exact:
        return exact[field]
    if "modules" in field.split("_"):
        return "modules"
    return "keys" if field.endswith("_pattern") else None


def check_before(config: Any, llm: nn.Module) -> None:
    """Raise `UserError` for a name in `config` that matches nothing in `llm`, which has no adapters yet."""
    modules = [name for name, _ in llm.named_modules() if name]
    named = dict(named_in(config))
    targets = named.get("target_modules")
    chosen = (
        modules
        if targets is None or isinstance(targets, str)
        else [name for name in modules if any(_is_part(target, name) for target in targets)]
    )
    for field, value in named.items():
        kind = kind_of(field)
        if kind == "modules":
            check_modules(field, value, modules)
        elif kind == "layers":
            _check_layers(field, value, named.get("layers_pattern"), chosen)
        elif kind in ("keys", "prefixes"):
            for text in _listed(value):
                _pattern(field, text)
        elif kind == "parameters":
            known = [name for name, _ in llm.named_parameters()]
            _each_meets(field, _listed(value), known, _ends, "parameter")
        elif kind == "ranges":
            _check_ranges(field, value, llm)
        elif kind == "tokens":
            if isinstance(value, Mapping):
                check_modules(field, list(value), modules)
            _check_tokens(field, value, llm)


def check_modules(field: str, value: Any, modules: Sequence[str]) -> None:
    """Raise `UserError` where `value`, names or a regular expression in `field`, matches no module."""
    if value == EVERY_LINEAR and field == "target_modules":
        return
    if not isinstance(value, str):
        _each_meets(field, _listed(value), modules, _is_part if field in BY_PATH else _ends, "module")
    elif not any(_pattern(field, value).fullmatch(name) for name in modules):
        raise unknown(
            f"module: no module's whole name fits the regular expression in {field}:", value, _parts(modules)
        )


def meets(name: str, modules: Iterable[str]) -> bool:
    """Whether `name`, as an entry of `target_modules`, matches one of `modules`."""
    return any(_is_part(name, module) for module in modules)


def check_after(named: Mapping[str, Any], adapted: Sequence[str]) -> None:
    """Raise `UserError` for a name that has no effect on the modules that PEFT has `adapted`.

    `named` holds the fields of `named_in` as they were given, before PEFT filled the configuration.
    """
    for field, value in named.items():
        kind = kind_of(field)
        if kind == "keys":
            _check_keys(field, list(value), adapted)
        elif kind == "layers":
            _check_layers(field, value, named.get("layers_pattern"), adapted)
        elif kind == "prefixes":
            for prefix in _listed(value):
                if not _layers([rf"(?:^|.*?\.){prefix}"], adapted):
                    raise unknown(f"name of layers in {field}:", prefix, _prefixes(adapted))
        elif kind == "modules" and field not in NOT_ADAPTED and not isinstance(value, str):
            same = _is_part if field in BY_PATH else _ends
            for name in _listed(value):
                if not any(same(name, module) for module in adapted):
                    raise UserError(
                        f"'{name}' in {field} has no effect: other fields leave all such modules without an "
                        f"adapter. Modules with one: {', '.join(_parts(adapted))}."
                    )


def _check_keys(field: str, keys: Sequence[str], adapted: Sequence[str]) -> None:
    """Each key must give a value to an adapted module: the first key that fits a module counts."""
    fits = {key: re.compile(rf"(.*\.)?({_pattern(field, key).pattern})$") for key in keys}
    used = {next((key for key in keys if fits[key].match(name)), None) for name in adapted}
    for key in keys:
        if key in used:
            continue
        if any(fits[key].match(name) for name in adapted):
            raise UserError(f"'{key}' in {field} has no effect: keys before it fit all its modules.")
        raise unknown(f"adapted module in {field}:", key, _parts(adapted))


def _check_layers(field: str, value: Any, prefixes: Any, adapted: Sequence[str]) -> None:
    patterns = [rf"(?:^|.*?\.){prefix}" for prefix in _listed(prefixes)] if prefixes else [r".*?\.[^.]*"]
    numbers = _layers(patterns, adapted)
    for layer in _listed(value) if numbers else ():  # PEFT itself raises where it finds no layer at all
        if layer not in numbers:
            raise unknown(f"layer with a module to adapt in {field}:", layer, sorted(numbers))


def _layers(before: Iterable[str], modules: Iterable[str]) -> set[int]:
    """Numbers of the layers of `modules`, each after one of `before`; the first number in a path counts."""
    patterns = [re.compile(rf"{prefix}\.(\d+)\.") for prefix in before]
    return {int(match[1]) for name in modules for pattern in patterns if (match := pattern.match(name))}


def _prefixes(modules: Iterable[str]) -> list[str]:
    return sorted({match[1] for name in modules if (match := re.match(r"(?:.*?\.)?([^.]+)\.\d+\.", name))})


def _check_ranges(field: str, value: Any, llm: nn.Module) -> None:
    count = int(getattr(llm.config, "num_hidden_layers", 0))
    for begin, end in value:
        if not 0 <= begin < end <= count:
            raise UserError(
                f"[{begin}, {end}] in {field} is no range of layers: give [first, one past the last] within "
                f"0 to {count}, the first below the second."
            )


def _check_tokens(field: str, value: Any, llm: Any) -> None:
    rows = int(llm.get_input_embeddings().num_embeddings)
    tokens = chain.from_iterable(value.values()) if isinstance(value, Mapping) else value
    for token in tokens:
        if not 0 <= token < rows:
            raise UserError(
                f"token {token} in {field} does not exist: the embedding has rows 0 to {rows - 1}."
            )


def _each_meets(
    field: str, names: Iterable[str], known: Sequence[str], same: Callable[[str, str], bool], what: str
) -> None:
    for name in names:
        if not any(same(name, path) for path in known):
            raise unknown(f"{what} in {field}:", name, _parts(known))


def _is_part(name: str, path: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _ends(name: str, path: str) -> bool:
    return bool(name) and path.endswith(name)


def _listed(value: Any) -> list[Any]:
    """One or several, sets in a fixed order."""
    if isinstance(value, (str, int)):
        return [value]
    return sorted(value) if isinstance(value, (set, frozenset)) else list(value)


def _pattern(field: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"'{text}' in {field} is no regular expression: {error}.") from error


def _parts(paths: Iterable[str]) -> list[str]:
    """Last parts of paths, without numbers."""
    return sorted({last for path in paths if not (last := path.rpartition(".")[2]).isdigit()})
