"""Convert a field of publishers' metadata, of any type, to plain text: the recipe's `clean`.

`none` joins lists and tables by spaces and changes nothing else. `html` decodes entities, drops tags, and the
contents of `script` and `style`, and empties a field that is a page's code (the 2018 edition has titles such
as `var aPageStart = (new Date()).getTime();`). `unisrec` does what UniSRec's `process_amazon.py` does (Hou et
al. 2022, github.com/RUCAIBox/UniSRec), so that texts are those of its published files: entities decoded,
double quotes and line ends dropped, one full stop at the end, a field of 2,000 characters or more emptied.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

UNISREC_LIMIT = 2_000
_CODE = re.compile(r"\bgetTime\b|\bfunction\s*\(|\bvar\s+\w+\s*=|[.#][\w-]+\s*\{[^}]*:")
"""JavaScript and CSS, as they stand in titles of the 2018 edition. Its page advises to look for `getTime`."""
_HIDDEN = ("script", "style")


def field_text(value: Any, clean: str, repairs: Counter[str]) -> str:
    """The text of one field of an item; repairs are counted."""
    if clean == "unisrec":
        return _sentence(value, repairs)
    text = " ".join(dict.fromkeys(_parts(value)))
    return _without_markup(text, repairs) if clean == "html" else text


def _parts(value: Any) -> Iterator[str]:
    """Every text in nested lists and tables, in order: categories are lists of paths in the 2014 edition."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (f"{key} {part}" for part in _parts(inner))
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _parts(inner)
    elif value is not None:
        yield str(value)


def _without_markup(text: str, repairs: Counter[str]) -> str:
    plain = text
    if "&" in plain:
        plain = html.unescape(html.unescape(plain))  # some are escaped twice: &amp;amp;
    if "<" in plain:
        reader = _Visible()
        reader.feed(plain)
        reader.close()
        plain = "".join(reader.parts)
    if _CODE.search(plain):
        repairs["fields of page code emptied"] += 1
        return ""
    if plain != text:
        repairs["fields freed of markup"] += 1
    return plain


class _Visible(HTMLParser):
    """Collects what a browser would show; a tag becomes a space."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append(" ")
        self._hidden += tag in _HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(" ")
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _sentence(value: Any, repairs: Counter[str]) -> str:
    written = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = re.sub(r'["\n\r]', "", html.unescape(written))
    text = text[:1] + text[1:].rstrip(".") + "."
    if len(text) >= UNISREC_LIMIT:
        repairs[f"fields of {UNISREC_LIMIT:,} characters or more emptied"] += 1
        return ""
    return text
