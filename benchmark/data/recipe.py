"""Recipes: what a dataset is made of and how it is prepared; docs/datasets.md explains every key.

Nothing heavy is imported here, so that listing datasets is quick.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from benchmark.data.formats import (
    DATA_VARIABLE,
    ROLES,
    check_columns,
    check_files,
    data_folder,
    detect,
    file_names,
    format_names,
    formats_in,
    parse_path,
    shortened,
)
from methods.errors import UserError, unknown
from methods.fields import hashed, later


@dataclass(frozen=True)
class FolderOptions:
    """What the command line adds to a folder; nothing where no option is given."""

    recipe: str = ""
    """The recipe whose options hold for the folder."""
    columns: tuple[tuple[str, str], ...] = ()
    """(name that this project uses, column of the files that has it)."""
    separator: str = ""
    """The character between the fields of a line."""

    def words(self) -> list[str]:
        """The options as a command line has them; empty where there is none."""
        mapped = ",".join(f"{name}={column}" for name, column in self.columns)
        given = {"recipe": self.recipe, "columns": mapped, "separator": self.separator}
        return [f"--{option}={value}" for option, value in given.items() if value]

    def over(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a recipe, with the columns and the separator of the command line before them."""
        merged = dict(options)
        if self.columns:
            merged["columns"] = {**merged.get("columns", {}), **dict(self.columns)}
        if self.separator:
            merged["separator"] = self.separator
        return merged


NO_OPTIONS = FolderOptions()
"""No option is given."""


_MOST = 2**31 - 1
"""The largest whole number that a recipe may give: counts are kept in 32 bits."""
Whole = Annotated[int, Field(strict=True, ge=0, le=_MOST)]
Positive = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Count = Literal["users", "items", "interactions"]


def _plain_name(name: str) -> str:
    """A category becomes a part of names of folders: nothing that leads elsewhere, on any system."""
    if len(name) > 100 or not re.fullmatch(r"\w(?:[\w.-]*[\w-])?", name):
        raise ValueError("it must be a plain name: letters, digits, '_', '-' and, inside, '.', at most 100")
    return name


def _folder_name(name: str) -> str:
    if not name.isprintable():
        raise ValueError("it must be the name of a folder")
    return name


def separator(text: str) -> str:
    """One byte, which Arrow needs, and none that a name or a quoted field has. Raises `ValueError`."""
    if len(text) != 1 or not text.isascii() or text.isalnum() or text in '"\r\n\0':
        raise ValueError('it must be one character, such as ";"')
    return text


_NOT_DATA = (
    "name", "summary", "edition", "licence", "source", "files", "expected", "settings", "notes", "given",
)  # fmt: skip
_NOT_OPTIONS = ("folder", "download", "categories")
_NOT_KEYS = ("name", "source", "files", "notes", "given")
UNUSED = "(unused) "
"""Begins the name of a column whose own name `columns` gives to another one."""


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of. The steps are applied in the order in which docs/datasets.md lists them."""

    name: str
    summary: str = ""
    edition: str = ""
    """Which edition of the data this is, such as "Amazon 2018"."""
    licence: str = ""
    """Whose terms hold, in a line."""
    source: Path | None = None
    """Folder with the files; None for a synthetic set, and for `files` that are looked for or fetched."""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What each file of a publisher's format is for -> its URLs, mirrors in order; empty for others."""
    format: str = "auto"
    text_fields: tuple[str, ...] = ()
    """Text columns in the order in which they are joined; empty means all of them, in file order."""
    core: Whole = 0
    """k of the iterative k-core on users and items; 0 is none."""
    recent: Annotated[int, Field(strict=True, ge=3, le=_MOST)] | None = None
    """Most recent interactions of a user that are kept; None keeps all."""
    no_text: Literal["drop", "keep"] = "drop"
    """Items without text: `drop` (before the core), or `keep` with the text "unknown item"."""
    repeats: Literal["keep", "first"] = "keep"
    """Repeated (user, item) pairs: `keep`, or keep the `first` only."""
    duplicate_reviews: Literal["keep", "drop"] = later("keep")
    """Exact repeats of user, item and timestamp: `keep`, or `drop` all but the first."""
    split: Literal["leave-one-out", "temporal"] = "leave-one-out"
    valid_share: Share = 0.1
    """Share of all interactions that the validation period of a temporal split spans."""
    test_share: Share = 0.1
    """The same for the test period, the last one."""
    target: Literal["successive", "first", "last", "random"] = later("first")
    """A user's target in each period of a temporal split: `successive` (each of his interactions), the
    `first`, the `last` or a `random` one. A recipe file with this split has `successive` where it names none.
    """
    tie_order: Literal["file", "random"] = later("file")
    """Order of a user's interactions of equal time: that of the `file`, or `random`."""
    seed: Annotated[int, Field(strict=True, ge=0, le=_MOST)] = later(0)
    """Seed of `target = "random"` and `tie_order = "random"`."""
    untouched: Literal["drop", "keep"] = "drop"
    """Items without interactions: `drop`, or `keep` in the catalogue (`core` must then be 0)."""
    quotes: Literal["standard", "none"] = "standard"
    """Double quotes in TSV and CSV: RFC 4180's meaning, or `none` (an ordinary character)."""
    separator: Annotated[str, AfterValidator(separator)] = later("")
    """Between the fields of a line of TSV and CSV, where it is neither the tab nor the comma."""
    columns: tuple[tuple[str, str], ...] = later(())
    """(name that this project uses, column of the files that has it), sorted."""
    short_users: Literal["error", "drop"] = "error"
    """Users with fewer than three interactions under leave-one-out."""
    bad_rows: Literal["error", "skip"] = "error"
    """Rows with too few or too many fields, an empty id or a timestamp that is no number."""
    bad_bytes: Literal["error", "replace"] = "error"
    """Bytes that are not UTF-8: `replace` puts U+FFFD in their place."""
    unknown_items: Literal["error", "drop"] = "error"
    """Interactions with an item that the items file lacks."""
    duplicate_items: Literal["error", "first"] = "error"
    """An item id on several rows of the items file: `first` keeps the first row."""
    long_texts: Literal["error", "cut"] = "error"
    """Item texts of more than `max_text` characters: `cut` keeps their beginning."""
    max_text: Positive = 10_000
    """Characters that an item's text may have."""
    clean: Literal["none", "html", "unisrec"] = later("none")
    """How publishers' texts are cleaned (`benchmark.data.cleaning`)."""
    negative_times: Literal["error", "drop"] = later("error")
    """Interactions before 1970 in publishers' files: `drop` leaves them out."""
    mixed_times: Literal["error", "mend"] = later("error")
    """Milliseconds where the edition has seconds, or the other way round: `mend` brings them to one unit."""
    expected: dict[Count, Positive] | None = None
    """Published counts (users, items, interactions) to compare with."""
    synthetic: dict[str, Any] = field(default_factory=dict)
    """Parameters of the generator (`benchmark.data.planted.Planted`)."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Protocol name or "all" -> harness settings that this dataset suggests."""
    notes: tuple[str, ...] = ()
    """What the lookup decided by itself; printed with the fingerprint."""
    given: tuple[str, ...] = ()
    """The options of the command line for the folder, to be repeated in a rerun."""

    def column(self, name: str) -> str:
        """The column of the files that has what this project calls `name`."""
        return dict(self.columns).get(name, name)

    def renamed(self, columns: Sequence[str]) -> tuple[str, ...]:
        """What this project calls the columns of a file; one whose name is taken is marked UNUSED."""
        mapped = {column: name for name, column in self.columns if column in columns}
        taken = set(mapped.values())
        return tuple(
            mapped.get(column, f"{UNUSED}{column}" if column in taken else column) for column in columns
        )

    def options(self) -> dict[str, Any]:
        """Everything that decides how the prepared data look, JSON-able (no names, no paths)."""
        chosen = {name: value for name, value in hashed(self).items() if name not in _NOT_DATA}
        if self.columns:
            chosen["columns"] = dict(self.columns)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


_KEYS: dict[str, Any] = {
    "folder": Annotated[str, AfterValidator(_folder_name)],
    "download": dict[str, Any],
    "categories": Annotated[tuple[Annotated[str, AfterValidator(_plain_name)], ...], Field(min_length=1)],
    "columns": dict[str, str],
}
"""Keys of a recipe file that are no options, and one that a file gives in another form than `Recipe` has."""
_TOML_WORDS = {
    "dict_type": "it must be a table",
    "tuple_type": "it must be a list, in brackets",
    "string_type": "it must be text in quotes",
}
"""Kind of a fault -> what is allowed, where the words of pydantic are Python's."""


@cache
def _checker(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KEYS.get(key) or get_type_hints(Recipe, include_extras=True)[key])


def check(key: str, value: Any, path: Path) -> None:
    """Raise `UserError` for a value of the wrong type or out of range."""
    if key == "format" and value not in format_names():
        raise unknown(f"value of format in {path}:", value, format_names())
    try:
        _checker(key).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        kind, given = fault["type"], fault["input"]
        if kind == "literal_error" and key == "expected":
            raise unknown(f"key of [expected] in {path}:", given, get_args(Count)) from error
        if kind == "literal_error":
            words = get_args(get_type_hints(Recipe)[key])
            raise unknown(f"value of {key} in {path}:", given, words) from error
        name = ".".join(map(str, (key, *fault["loc"])))
        reason = _TOML_WORDS.get(kind, fault["msg"]).removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:]
        raise UserError(f"{path}: {name} = {shortened(repr(given))} is not valid: {reason}.") from error


def load_toml(path: Path, category: str = "") -> dict[str, Any]:
    """The content of a recipe file, with `category` in place of `{category}`, if it is given.

    Raises `UserError` where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text.replace("{category}", category) if category else text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except RecursionError as error:
        raise UserError(
            f"{path} has tables or lists nested too deeply; a recipe needs two levels."
        ) from error
    except ValueError as error:  # also for a number of thousands of digits
        raise UserError(f"{path} is not valid TOML: {error}.") from error
    except OSError as error:  # of one recipe, which must not stop the others
        raise UserError(f"{path} cannot be read: {error.strerror}; check it.") from error


def checked(name: str, raw: dict[str, Any], path: Path, folder: Path | None) -> Recipe:
    """A recipe from the content of its file; `folder` replaces the place that the file names."""
    own = {item.name for item in fields(Recipe)} - set(_NOT_KEYS)
    _check_keys(raw, own | set(_NOT_OPTIONS), path)
    if "categories" in raw:
        raise UserError(
            f"{path} describes one dataset a category; name one, such as "
            f"{path.parent.name}-{raw['categories'][0]}."
        )
    download: dict[str, Any] = raw.get("download", {})
    source = folder or _source(raw, path)
    # Files that lie ready in one of the plain forms are read before a publisher's are fetched.
    if download and not (source and formats_in(source)):
        options = {key: value for key, value in download.items() if key != "files"}
        _check_keys(options, own - {"synthetic"}, path)
        chosen = {**raw, **download}
        urls = check_files(
            download.get("files"), chosen.get("format", "auto"), chosen.get("text_fields"), path
        )
        files = ", ".join(map(file_names, urls.values()))
        note = f"the publisher's files ({chosen.get('edition', 'no edition named')}): {files}"
        return _recipe(name, {**chosen, "files": urls, "source": source, "notes": (note,)}, path)
    kind = raw.get("format", "auto")
    if kind in ROLES:
        raise UserError(f'{path}: format = "{kind}" needs a table [download] that names its files.')
    if kind == "synthetic":
        return _recipe(name, raw, path)
    if source is None:
        raise _no_source(raw, path)
    kind = detect(source) if kind == "auto" else kind
    return _recipe(name, {**raw, "source": source, "format": kind}, path)


def _recipe(name: str, values: dict[str, Any], path: Path) -> Recipe:
    """The recipe of checked values; raises `UserError` where two of them contradict each other."""
    chosen = {key: value for key, value in values.items() if key not in _NOT_OPTIONS}
    chosen["text_fields"] = tuple(chosen.get("text_fields", ()))
    chosen["columns"] = tuple(sorted(chosen.get("columns", {}).items()))
    if chosen.get("split") == "temporal":
        # the field's own default is the value under which recipes without it are hashed
        chosen.setdefault("target", "successive")
    recipe = Recipe(name=name, **chosen)
    check_columns(recipe.columns, recipe.separator, recipe.format, recipe.text_fields, path)
    if recipe.valid_share + recipe.test_share >= 1:
        raise UserError(
            f"{path}: valid_share + test_share must stay below 1, so that something is left to train on."
        )
    if recipe.target != "first" and recipe.split != "temporal":
        raise UserError(
            f'{path}: target = "{recipe.target}" is for split = "temporal"; this is "{recipe.split}".'
        )
    if recipe.seed and "random" not in (recipe.target, recipe.tie_order):
        raise UserError(
            f'{path}: seed = {recipe.seed} has no effect; set target or tie_order = "random", or remove it.'
        )
    if recipe.untouched == "keep" and recipe.core:
        raise UserError(
            f'{path}: untouched = "keep" contradicts core = {recipe.core}; set core = 0 or drop them.'
        )
    if recipe.format == "synthetic" and recipe.untouched == "drop":
        raise UserError(
            f'{path}: format = "synthetic" needs untouched = "keep", as its ceiling counts every item.'
        )
    return recipe


def _check_keys(raw: dict[str, Any], allowed: set[str], path: Path) -> None:
    for key, value in raw.items():
        if key not in allowed:
            raise unknown(f"key in {path}:", key, sorted(allowed))
        check(key, value, path)


def _source(raw: dict[str, Any], path: Path) -> Path | None:
    """Folder of the files, where there is one: `folder` below the data folder, or the recipe's own."""
    if "folder" not in raw:
        return None if "download" in raw else path.parent.resolve()
    root = data_folder()
    source = root and parse_path(str(root / raw["folder"]))
    return source if source and source.is_dir() else None


def _no_source(raw: dict[str, Any], path: Path) -> UserError:
    root = data_folder()
    if root is None:
        return UserError(
            f"the files of '{path.parent.name}' are not part of this project: set {DATA_VARIABLE} to the "
            f"folder that holds '{raw['folder']}', or give that folder itself as the dataset."
        )
    return UserError(
        f"there is no folder {root / raw['folder']} ({DATA_VARIABLE}={root}, folder = '{raw['folder']}' in "
        f"{path}); put the files there or give their folder as the dataset."
    )
