"""Recipes: what a dataset is made of and how it is prepared, read from `datasets/<name>/recipe.toml`.

Only the standard library is imported here, so that listing datasets is quick. docs/datasets.md explains
every key.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from methods.errors import UserError, unknown

DATA_VARIABLE = "ADAPTREC_DATA"
"""Environment variable: the folder under which the `folder` of a recipe lies."""

PAIRS = {
    "tsv": ("interactions.tsv", "items.tsv"),
    "csv": ("interactions.csv", "items.csv"),
    "parquet": ("interactions.parquet", "items.parquet"),
}
"""Files of the plain formats."""

CHOICES: dict[str, tuple[str, ...]] = {
    "format": ("auto", *PAIRS, "recbole", "unisrec", "synthetic"),
    "no_text": ("drop", "keep"),
    "repeats": ("keep", "first"),
    "split": ("leave-one-out", "temporal"),
    "untouched": ("drop", "keep"),
    "quotes": ("standard", "none"),
    "short_users": ("error", "drop"),
    "bad_rows": ("error", "skip"),
    "bad_bytes": ("error", "replace"),
    "unknown_items": ("error", "drop"),
    "duplicate_items": ("error", "first"),
    "long_texts": ("error", "cut"),
}
"""Keys whose value is one of a few words."""

_LEAST = {"core": 0, "recent": 3, "max_text": 1}
_SHARES = ("valid_share", "test_share")
_COUNTS = ("users", "items", "interactions")
_PROTOCOL_KEYS = ("settings", "synthetic", "expected")
_NOT_DATA = ("name", "summary", "source", "expected", "settings", "notes")


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of. The steps are applied in the order in which docs/datasets.md lists them."""

    name: str
    summary: str = ""
    source: Path | None = None
    """Folder with the files; None for a synthetic set."""
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
    split: str = "leave-one-out"
    valid_share: float = 0.1
    """Share of all interactions that the validation period of a temporal split spans."""
    test_share: float = 0.1
    """The same for the test period, the last one."""
    untouched: str = "drop"
    """Items that nobody interacted with: `drop`, or `keep` in the catalogue (`core` must then be 0)."""
    quotes: str = "standard"
    """Double quotes in TSV and CSV: RFC 4180's meaning, or `none` (an ordinary character)."""
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
    expected: dict[str, int] | None = None
    """Published counts (users, items, interactions) to compare with."""
    synthetic: dict[str, Any] = field(default_factory=dict)
    """Parameters of the generator (`benchmark.data.synthetic.Planted`)."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Protocol name or "all" -> harness settings that this dataset suggests."""
    notes: tuple[str, ...] = ()
    """What the lookup decided by itself; printed with the fingerprint."""

    def options(self) -> dict[str, Any]:
        """Everything that decides how the prepared data look, JSON-able (no names, no paths)."""
        chosen = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _NOT_DATA}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


def search_path() -> list[Path]:
    """Folders of recipes, the nearest first: the working folder, the source tree, the installed share."""
    roots = [
        Path("datasets"),
        Path(__file__).parents[2] / "datasets",
        Path(sys.prefix, "share/adaptrec/datasets"),
    ]
    return [root for root in roots if root.is_dir()]


def available() -> dict[str, str]:
    """Every recipe's name and its summary; one that cannot be read has its fault in place of the summary."""
    found: dict[str, str] = {}
    for name, path in _recipe_files().items():
        try:
            found[name] = str(_load(path).get("summary", ""))
        except UserError as error:
            found[name] = f"unusable: {error}"
    return found


def find(name_or_folder: str) -> Recipe:
    """The recipe of a name in `datasets/`, or of a folder with data files.

    A known name wins over a folder of the same name in the working folder; `./name` means the folder.
    Raises `UserError` for an unknown name, a missing folder or file, and a fault in a recipe.
    """
    recipes = _recipe_files()
    if name_or_folder in recipes:
        path = recipes[name_or_folder]
        return _checked(name_or_folder, _load(path), path, None)
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return _of_folder(folder.resolve(), recipes)
    if folder.exists():
        raise UserError(f"dataset '{name_or_folder}' is a file; give the folder that holds it.")
    if folder.name != name_or_folder:
        raise UserError(
            f"there is no dataset folder '{name_or_folder}'; give a folder that exists "
            f"or one of: {', '.join(recipes)}."
        )
    raise unknown("dataset", name_or_folder, recipes, "Or give a folder with interactions.tsv and items.tsv.")


def input_files(folder: Path, kind: str) -> dict[str, Path]:
    """Role -> file of the given format in `folder`; raises `UserError` when one is missing."""
    if kind in PAIRS:
        roles = dict(zip(("interactions", "items"), (folder / name for name in PAIRS[kind]), strict=True))
    else:
        suffixes = {
            "recbole": {"interactions": ".inter", "items": ".item"},
            "unisrec": {
                **{part: f".{part}.inter" for part in ("train", "valid", "test")},
                **{part: f".{part}" for part in ("text", "item2index", "user2index")},
            },
        }[kind]
        stem = _stem(folder, kind)
        roles = {role: folder / f"{stem}{suffix}" for role, suffix in suffixes.items()}
    missing = [path.name for path in roles.values() if not path.is_file()]
    if missing:
        wanted = ", ".join(path.name for path in roles.values())
        raise UserError(f"{folder} lacks {', '.join(missing)}; the format {kind} needs {wanted}.")
    return roles


def _recipe_files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in search_path():
        for path in sorted(root.glob("*/recipe.toml")):
            found.setdefault(path.parent.name, path)
    return found


def _of_folder(folder: Path, recipes: dict[str, Path]) -> Recipe:
    """A folder with its own recipe, or with the options of the recipe that has its name, or the defaults."""
    name = re.sub(r"[^\w.-]+", "-", folder.name)
    own = folder / "recipe.toml"
    if own.is_file():
        return _checked(name, _load(own), own, folder)
    if folder.name in recipes:
        path = recipes[folder.name]
        recipe = _checked(folder.name, _load(path), path, folder)
        if recipe.format != "synthetic":
            note = (
                f"options and expected counts of the recipe '{folder.name}', which the folder's name matches"
            )
            return replace(recipe, notes=(note,))
    kind = _detect(folder)
    return Recipe(name=name, summary=f"the folder {folder}", source=folder, format=kind)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def _checked(name: str, raw: dict[str, Any], path: Path, folder: Path | None) -> Recipe:
    """A recipe from the content of its file; `folder` replaces the place that the file names."""
    own = {item.name for item in fields(Recipe)} - {"name", "source", "notes"}
    for key, value in raw.items():
        if key not in own | {"folder"}:
            raise unknown(f"key in {path}:", key, sorted(own | {"folder"}))
        _check(key, value, path)
    values: dict[str, Any] = {
        key: tuple(value) if key == "text_fields" else value for key, value in raw.items() if key != "folder"
    }
    recipe = Recipe(name=name, **values)
    if recipe.valid_share + recipe.test_share >= 1:
        raise UserError(
            f"{path}: valid_share + test_share must stay below 1, so that something is left to train on."
        )
    if recipe.untouched == "keep" and recipe.core:
        raise UserError(
            f'{path}: untouched = "keep" contradicts core = {recipe.core}; set core = 0 or drop them.'
        )
    if recipe.format == "synthetic":
        if recipe.untouched == "drop":
            raise UserError(
                f'{path}: format = "synthetic" needs untouched = "keep", as its ceiling counts every item.'
            )
        return recipe
    source = folder or _source(raw, path)
    return replace(
        recipe, source=source, format=_detect(source) if recipe.format == "auto" else recipe.format
    )


def _source(raw: dict[str, Any], path: Path) -> Path:
    """Folder of the files: beside the recipe, or `folder` below the data folder."""
    if "folder" not in raw:
        return path.parent.resolve()
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise UserError(
            f"the files of '{path.parent.name}' are not part of this project: set {DATA_VARIABLE} to the "
            f"folder that holds '{raw['folder']}', or give that folder itself as the dataset."
        )
    source = Path(root).expanduser().resolve().joinpath(raw["folder"])
    if not source.is_dir():
        raise UserError(
            f"there is no folder {source} ({DATA_VARIABLE}={root}, folder = '{raw['folder']}' in {path}); "
            f"put the files there or give their folder as the dataset."
        )
    return source


def _check(key: str, value: Any, path: Path) -> None:
    """Raise for a value of the wrong type or out of range."""
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise unknown(f"value of {key} in {path}:", value, CHOICES[key])
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in _LEAST:
        good, want = whole and value >= _LEAST[key], f"a whole number of at least {_LEAST[key]}"
    elif key in _SHARES:
        good = isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1
        want = "a number between 0 and 1"
    elif key == "text_fields":
        good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        want = 'a list of column names, such as ["title", "brand"]'
    elif key in _PROTOCOL_KEYS:
        good, want = isinstance(value, dict), f"a table, [{key}]"
    else:
        good, want = isinstance(value, str), "text in quotes"
    if not good:
        raise UserError(f"{path}: {key} = {value!r} is not valid; it must be {want}.")
    if key == "expected":
        _check_expected(value, path)
    if key == "settings":
        for protocol, chosen in value.items():
            if not isinstance(chosen, dict):
                raise UserError(f"{path}: settings.{protocol} must be a table, [settings.{protocol}].")


def _check_expected(value: dict[str, Any], path: Path) -> None:
    for name, count in value.items():
        if name not in _COUNTS:
            raise unknown(f"key of [expected] in {path}:", name, _COUNTS)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(
                f"{path}: expected.{name} = {count!r} is not valid; it must be a whole number above 0."
            )


def _detect(folder: Path) -> str:
    """The format of the files in `folder`, by their names."""
    found = [kind for kind, names in PAIRS.items() if any((folder / name).is_file() for name in names)]
    found += [kind for kind in ("recbole", "unisrec") if _stems(folder, kind)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{folder} holds several formats ({', '.join(found)}); put format = one of them "
            f"into {folder}/recipe.toml."
        )
    raise UserError(
        f"{folder} holds no data files: wanted interactions and items as .tsv, .csv or .parquet, "
        f"<name>.inter with <name>.item (RecBole), or <name>.train.inter with its companions (UniSRec)."
    )


def _stems(folder: Path, kind: str) -> list[str]:
    splits = (".train.inter", ".valid.inter", ".test.inter")
    if kind == "unisrec":
        return sorted(path.name.removesuffix(splits[0]) for path in folder.glob(f"*{splits[0]}"))
    return sorted(path.stem for path in folder.glob("*.inter") if not path.name.endswith(splits))


def _stem(folder: Path, kind: str) -> str:
    stems = _stems(folder, kind)
    if len(stems) != 1:
        have = f"several ({', '.join(stems)})" if stems else "none"
        raise UserError(f"{folder} should hold one set of {kind} files; found {have}.")
    return stems[0]
