"""peft: any other adapter that PEFT offers, described by its own configuration instead of by code here."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from methods.adapters import Adapted
from methods.base import Context
from methods.errors import UserError, unknown
from methods.tuned import TunedConfig

_STORAGE = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
)
"""Fields of a saved configuration that do not describe the adapters."""
_ELSEWHERE = {
    "ADALORA": "its schedule and its loss need the method adalora: --method adalora",
    "ADAPTION_PROMPT": "it adds prompts to the layers of LLaMA alone",
    "POLY": "it needs the task that each text belongs to",
    "XLORA": "it needs adapters that have been trained before",
}
"""Kinds that need more than a text, and why."""


@dataclass(frozen=True)
class AnyPeftConfig(TunedConfig):
    """Hyper-parameters of an adapter described in PEFT's terms."""

    config: str = '{"peft_type": "IA3"}'
    """PEFT's configuration of the adapter in JSON, peft_type and any of its fields, or the path of a file
    that holds it, such as PEFT's own adapter_config.json; fields about where it is kept are left out."""

    @field_validator("config", mode="after")
    @classmethod
    def _canonical(cls, value: str) -> str:
        try:
            return canonical(value)
        except UserError as error:
            reason = str(error).rstrip(".")
            raise PydanticCustomError("peft", "{reason}", {"reason": reason}) from error


class AnyPeft(Adapted):
    """Any adapter of PEFT from its own configuration, such as OFT or tuned norms (Mangrulkar et al. 2022)."""

    Config: ClassVar[type[Any]] = AnyPeftConfig
    by_default: ClassVar[bool] = False

    def peft_config(self, context: Context) -> Any:
        """The configuration as it was given."""
        return build(json.loads(self.config.config))


def canonical(text: str) -> str:
    """One way to write the PEFT configuration in `text`, JSON or a file's path, for record and hash.

    Raises `UserError` where it is not one.
    """
    values = _parsed(text.strip())
    kind = values.pop("peft_type", None)
    values = {name: value for name, value in values.items() if name not in _STORAGE}
    described = {"peft_type": kind.upper() if isinstance(kind, str) else kind, **values}
    build(described)
    # the order of fields has no meaning, but that of the keys of a pattern has: the first that fits counts
    return json.dumps(dict(sorted(described.items())))


def build(described: dict[str, Any]) -> Any:
    """PEFT's own configuration of `described`. Raises `UserError` for what PEFT does not know or take."""
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = described["peft_type"]
    classes = {str(key.value): value for key, value in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    usable = {
        name: cls
        for name, cls in classes.items()
        if name not in _ELSEWHERE and not issubclass(cls, PromptLearningConfig)
    }
    if not isinstance(kind, str) or kind not in usable:
        if isinstance(kind, str) and kind in classes:
            why = _ELSEWHERE.get(kind, "it adds tokens to the text, which other methods read as it is")
            raise UserError(f"peft_type {kind} cannot be used here: {why}")
        raise unknown("peft_type", kind, sorted(usable))
    cls = usable[kind]
    values = {name: value for name, value in described.items() if name != "peft_type"}
    known = sorted(field.name for field in fields(cls) if field.init and field.name not in _STORAGE)
    for name in values:
        if name not in known:
            raise unknown(f"field of {kind}", name, [field for field in known if field != "peft_type"])
    _check_types(cls, values)
    try:
        return cls(**values)
    except Exception as error:  # each kind checks its fields in its own way
        raise UserError(f"refused by PEFT: {' '.join(str(error).split())}") from error


def _check_types(cls: Any, values: dict[str, Any]) -> None:
    """Raise `UserError` for a value of a wrong type: PEFT accepts it, and fails later.

    The values of a `Literal` are left to PEFT, whose lists lack forms such as `pissa_niter_4`.
    """
    hints, defaults = get_type_hints(cls), {field.name: field.default for field in fields(cls)}
    for name, value in values.items():
        if value == defaults[name] and type(value) is type(defaults[name]):
            continue  # PEFT itself saves this value, whatever the annotation says
        try:
            TypeAdapter(_types(hints[name])).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            allowed = str(hints[name]).replace("typing.", "").replace("NoneType", "None")
            shown = hints[name].__name__ if isinstance(hints[name], type) else allowed
            raise UserError(f"{name}={json.dumps(value)} is of a wrong type; PEFT takes: {shown}") from error
        if name.endswith("_pattern") and isinstance(value, dict):
            for key, number in value.items():
                if isinstance(number, bool) or not isinstance(number, int | float):
                    raise UserError(f"'{key}' in {name} must be a number, not {json.dumps(number)}")


def _types(hint: Any) -> Any:
    """`hint` with each literal replaced by its type."""
    if get_origin(hint) is Literal:
        return Union[tuple({type(literal) for literal in get_args(hint)})]  # noqa: UP007
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_types(option) for option in get_args(hint))]  # noqa: UP007
    return hint


def _parsed(text: str) -> dict[str, Any]:
    where = "config"
    if not text.startswith("{"):
        path = Path(text).expanduser()
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UserError(
                f"it is neither JSON ({{...}}) nor a file that can be read ({type(error).__name__})"
            ) from error
    try:
        values = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (RecursionError, ValueError) as error:  # nested without end, NaN, a number of 5,000 digits
        raise UserError(f"{where} is not JSON that can be used: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where} must hold a JSON object, not {type(values).__name__}")
    return values


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
