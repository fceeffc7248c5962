"""L1: every text of a record has the form of its field, and is plain where it has no other.

`form.names` asks more of the names that stand in tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmark.verify.format import shown
from benchmark.verify.opened import BundledRun, OpenBundle

LONGEST = 2_000
"""Characters of a plain text."""
MARKUP = "<>"
"""What HTML begins and ends with."""


class TextForm(NamedTuple):
    """What a field may hold."""

    what: str
    pattern: re.Pattern[str]


def _form(what: str, pattern: str) -> TextForm:
    return TextForm(what, re.compile(pattern, re.DOTALL))


SHA256 = _form("SHA-256", "[0-9a-f]{64}")
HASH = _form("hash of 12 hexadecimal digits", "[0-9a-f]{12}")
CODE = _form("digest of code", r"[0-9a-f]{16}(\+[0-9a-f]{16})?")
VERSION = _form("version", r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}|not installed")
PACKAGE = _form("name of a package", r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
WORD = _form("word of small letters and digits", "[a-z0-9]{1,16}")
ANYTHING = _form("text", ".*")
"""Source of a method, which is there to be read."""
PRINTED = _form("text on a line", r"[^\x00-\x1f\x7f-\x9f]*")
"""What a library printed, or what the authors of a language model put before a text. Outputs escape it."""
_SEARCHES = ("tuning", "trial_of.search", "fusion.tuning")
FORMS: dict[str, TextForm] = {
    **dict.fromkeys(("ranks_sha256", "top_sha256", "model_sha256", "data.fingerprint.sha256"), SHA256),
    **{f"llm_details.{name}": SHA256 for name in ("digest", "config_digest", "tokenizer_digest")},
    "llm_details.intended.dense.sha256": SHA256,
    "liveness.frozen_digest": SHA256,
    **dict.fromkeys(("config_hash", "protocol_hash", "data.key"), HASH),
    **{f"{search}.{name}": HASH for search in _SEARCHES for name in ("untuned", "trials.config_hash")},
    "method_source.code": CODE,
    "fusion.code": CODE,
    "method_source.version": VERSION,
    "method_source.distribution": PACKAGE,
    "environment.python": VERSION,
    "environment.packages.": VERSION,
    "environment.packages": PACKAGE,
    "environment.device": WORD,
    "environment.precision": WORD,
    "environment.git_commit": _form("commit", "[0-9a-f]{40}|[0-9a-f]{64}"),
    "created": _form("time", r"[0-9T:.+Z-]{1,40}"),
    "stopped": _form("reason to stop", "patience|epochs"),
    "method_source.text": ANYTHING,
    **{
        f"{search}.source": _form("name of a dataset, of at most 80 characters", r"[\w./@+~:,()= -]{1,80}")
        for search in _SEARCHES
    },
    "environment.device_name": _form(
        "name of a device, of at most 120 characters", r"[^\x00-\x1f\x7f-\x9f<>]{1,120}"
    ),
    **{f"{search}.trials.error": PRINTED for search in _SEARCHES},
    "llm_details.intended.prompt": _form("prompt", r"[^\x00-\x09\x0b-\x1f\x7f-\x9f]*"),
    "data.recipe.separator": _form("separator", ".?"),
    "data.recipe.given": _form("option", r"--separator=.|[^\x00-\x1f\x7f-\x9f<>]*"),
}
"""Field -> its form. A field ends with a dot where its name is data; the names themselves have the form of
the field without it."""


def texts(bundle: OpenBundle) -> None:
    """Digests, versions, dates and the like have their form, and all other text is plain."""
    for run in bundle.runs:
        for field, text in _texts(run.record.model_dump(), ""):
            _check(run, field, text)


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """(field, text) of all texts in a value, names of fields included."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        is_data = f"{field}." in FORMS
        for name, inner in value.items():
            yield field, name
            yield from _texts(inner, f"{field}." if is_data else f"{field}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, field)


def _check(run: BundledRun, field: str, text: str) -> None:
    what = shown(field.removesuffix("."))
    if (form := FORMS.get(field)) is not None:
        if not form.pattern.fullmatch(text):
            raise run.fail(f"its {what} is {shown(text)}, which is no {form.what}.")
    elif len(text) > LONGEST:
        raise run.fail(f"its {what} has {len(text):,} characters; at most {LONGEST:,} are read.")
    elif wrong := next((one for one in text if one in MARKUP or not one.isprintable()), ""):
        raise run.fail(f"its {what} is no plain text: {shown(text)} has {wrong!a}.")
