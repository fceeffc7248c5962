"""Recipes: what a dataset is made of and how it is prepared; docs/datasets.md explains every key.

Only the standard library is imported here, so that listing datasets is quick.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmark.data.formats import ROLES, detect, formats_in
from benchmark.data.paths import DATA_VARIABLE, data_folder, file_name, parse_path
from benchmark.data.recipe_checks import check, check_columns, check_files
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


def mapping_hint(needed: Iterable[str], have: Iterable[str]) -> str:
    """What to do about columns that have other names: an option to copy, the likely columns filled in."""
    import difflib
    import shlex

    columns = list(have)
    likely = ((name, difflib.get_close_matches(name, columns, n=1)) for name in needed)
    pairs = ",".join(f"{name}={near[0] if near else 'COLUMN'}" for name, near in likely)
    return f"name yours with --columns {shlex.quote(pairs)}, or in a table [columns] of recipe.toml"


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
    core: int = 0
    """k of the iterative k-core on users and items; 0 is none."""
    recent: int | None = None
    """Most recent interactions of a user that are kept; None keeps all."""
    no_text: str = "drop"
    """Items without text: `drop` (before the core), or `keep` with the text "unknown item"."""
    repeats: str = "keep"
    """Repeated (user, item) pairs: `keep`, or keep the `first` only."""
    duplicate_reviews: str = later("keep")
    """Exact repeats of user, item and timestamp: `keep`, or `drop` all but the first."""
    split: str = "leave-one-out"
    valid_share: float = 0.1
    """Share of all interactions that the validation period of a temporal split spans."""
    test_share: float = 0.1
    """The same for the test period, the last one."""
    target: str = later("first")
    """A user's target in each period of a temporal split: `successive` (each of his interactions), the
    `first`, the `last` or a `random` one. A recipe file with this split has `successive` where it names none.
    """
    tie_order: str = later("file")
    """Order of a user's interactions of equal time: that of the `file`, or `random`."""
    seed: int = later(0)
    """Seed of `target = "random"` and `tie_order = "random"`."""
    untouched: str = "drop"
    """Items without interactions: `drop`, or `keep` in the catalogue (`core` must then be 0)."""
    quotes: str = "standard"
    """Double quotes in TSV and CSV: RFC 4180's meaning, or `none` (an ordinary character)."""
    separator: str = later("")
    """Between the fields of a line of TSV and CSV, where it is neither the tab nor the comma."""
    columns: tuple[tuple[str, str], ...] = later(())
    """(name that this project uses, column of the files that has it), sorted."""
    short_users: str = "error"
    """Users with fewer than three interactions under leave-one-out."""
    bad_rows: str = "error"
    """Rows with too few or too many fields, an empty id or a timestamp that is no number."""
    bad_bytes: str = "error"
    """Bytes that are not UTF-8: `replace` puts U+FFFD in their place."""
    unknown_items: str = "error"
    """Interactions with an item that the items file lacks."""
    duplicate_items: str = "error"
    """An item id on several rows of the items file: `first` keeps the first row."""
    long_texts: str = "error"
    """Item texts of more than `max_text` characters: `cut` keeps their beginning."""
    max_text: int = 10_000
    """Characters that an item's text may have."""
    clean: str = later("none")
    """How publishers' texts are cleaned (`benchmark.data.cleaning`)."""
    negative_times: str = later("error")
    """Interactions before 1970 in publishers' files: `drop` leaves them out."""
    mixed_times: str = later("error")
    """Milliseconds where the edition has seconds, or the other way round: `mend` brings them to one unit."""
    expected: dict[str, int] | None = None
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
        note = f"the publisher's files ({chosen.get('edition', 'no edition named')}): {_file_names(urls)}"
        return _recipe(name, {**chosen, "files": urls, "source": source, "notes": (note,)}, path)
    if raw.get("format", "auto") in ROLES:
        raise UserError(f'{path}: format = "{raw["format"]}" needs a table [download] that names its files.')
    if raw.get("format") == "synthetic":
        return _recipe(name, raw, path)
    if source is None:
        raise _no_source(raw, path)
    kind = raw.get("format", "auto")
    return _recipe(
        name, {**raw, "source": source, "format": detect(source) if kind == "auto" else kind}, path
    )


def _recipe(name: str, values: dict[str, Any], path: Path) -> Recipe:
    """The recipe of checked values; raises `UserError` where two of them contradict each other."""
    chosen = {key: value for key, value in values.items() if key not in _NOT_OPTIONS}
    chosen["text_fields"] = tuple(chosen.get("text_fields", ()))
    chosen["columns"] = tuple(sorted(chosen.get("columns", {}).items()))
    if chosen.get("split") == "temporal":
        chosen.setdefault(
            "target", "successive"
        )  # the field's default is what recipes without it are hashed as
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


def _file_names(files: dict[str, tuple[str, ...]]) -> str:
    return ", ".join(" or ".join(dict.fromkeys(map(file_name, urls))) for urls in files.values())


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
