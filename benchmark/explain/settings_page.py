"""The page of all settings, made from the classes that declare them.

python -m benchmark.explain.settings_page > docs/settings.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from benchmark.config import PROTOCOLS, Settings
from benchmark.results.published import best_values
from methods import registry
from methods.base import Method
from methods.controls.base import Control

HEAD = """\
# Settings and hyper-parameters

Made by `python -m benchmark.explain.settings_page > docs/settings.md`; a test fails where this page is
out of date.

`--set name=value` changes any of them. Values are taken in this order, the later ones winning: the default,
the protocol, the method's published schedule, what the dataset's recipe suggests (`[settings.all]`, then
`[settings.<protocol>]`), `--set`. The run record holds all of them as they were used.

Controls are not trained. They have no protocol (records and tables say `none`) and take few settings of the
harness: `window` and, where they read hidden states, `pooling`, `max_tokens` and `states_dtype`. What `--set`
gives them is fixed; validation chooses the others among the values searched.
"""
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
_TYPES = {bool: "`True`, `False`", int: "whole number", float: "number", str: "text"}


def render() -> str:
    """The page, in Markdown. Methods of other packages are left out: they document themselves."""
    parts = [HEAD, "## Of the harness\n", _harness()]
    for name, entry in registry.entries().items():
        if entry.external:
            continue
        cls = registry.load(name)
        if issubclass(cls, Control) and not fields(cls.Config):
            continue
        searched = {key: _values(values) for key, values in _searched(cls).items()}
        own = {field.name for field in fields(cls.Config)}
        parts += [f"## Of `{name}`\n", f"{entry.summary}\n"]
        parts.append(_table(cls.Config, {"searched": searched}) if own else "No hyper-parameters.\n")
        if outside := [f"`{key}` {values}" for key, values in searched.items() if key not in own]:
            parts.append(f"Settings of the harness that the paper searched for it: {'; '.join(outside)}.\n")
        if best := list(best_values(name).values()):
            ranges = (f"`{key}` {_values(sorted({values[key] for values in best}))}" for key in best[0])
            parts.append(f"The paper's best values, which `--tune paper` takes: {'; '.join(ranges)}.\n")
        schedule = {} if issubclass(cls, Control) else cls.schedule
        for protocol, values in schedule.items():
            parts.append(f"Its published schedule under `{protocol}`: {_pairs(values)}.\n")
    return "\n".join(parts)


def _searched(cls: type[Method] | type[Control]) -> Mapping[str, Iterable[object]]:
    """Hyper-parameter -> the values that are tried; those of a control are in its trials."""
    if not issubclass(cls, Control):
        return cls.grid
    trials = cls.trials()
    return {key: dict.fromkeys(trial[key] for trial in trials) for key in trials[0]}


def _harness() -> str:
    given = {
        protocol: {key: _value(value) for key, value in values.items()}
        for protocol, values in PROTOCOLS.items()
    }
    own = {field.name for field in fields(Settings)}
    others = [
        f"`{protocol}` sets {_pairs({key: value for key, value in values.items() if key not in own})}"
        for protocol, values in PROTOCOLS.items()
        if set(values) - own
    ]
    return f"{_table(Settings, given)}\nOf the methods that have it, {'; '.join(others)}.\n"


def _table(cls: type[Any], more: Mapping[str, Mapping[str, str]]) -> str:
    """A row for each field of the dataclass; `more` holds further columns, name -> field -> text."""
    hints, meanings = get_type_hints(cls, include_extras=True), _meanings(cls)
    rows = [["setting", "default", *more, "allowed", "meaning"]]
    rows.append(["---"] * len(rows[0]))
    for field in fields(cls):
        extra = [column.get(field.name, "") for column in more.values()]
        name, default = f"`{field.name}`", _value(field.default)
        rows.append([name, default, *extra, _allowed(hints[field.name]), meanings[field.name]])
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _meanings(cls: type[Any]) -> dict[str, str]:
    """The string under each field, of base classes too: Python does not keep it, the source does."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        meanings[line.target.id] = " ".join(text.split())
    return meanings


def _allowed(hint: Any) -> str:
    """The values that a type admits, `Annotated[int, Field(ge=1)]` or `Literal[...]`, in words."""
    if get_origin(hint) is Literal:
        return _values(get_args(hint))
    base, *notes = get_args(hint) or (hint,)
    limits = [
        words.format(_number(getattr(bound, name)))
        for note in notes
        for bound in note.metadata
        for name, words in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    return " ".join([_TYPES[base], *limits])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _value(value: object) -> str:
    return f"`{value}`"


def _values(values: Iterable[object]) -> str:
    return ", ".join(map(_value, values))


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in values.items())


if __name__ == "__main__":
    print(render(), end="")
