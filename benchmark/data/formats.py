"""Formats of data files: the names of their files, and the functions that read them.

Only the standard library is imported here, so that listing datasets is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from methods.errors import UserError
from methods.plugins import BROKEN, offered, one_line

COLUMNS = ("user_id", "item_id", "timestamp")
"""Columns of the interactions; the items have `item_id` and texts."""
ROLES = {
    "amazon-2014": ("interactions", "items"),
    "amazon-2018": ("interactions", "items"),
    "amazon-2023": ("interactions", "items"),
    "movielens": ("archive",),
}
"""Formats of files as their publishers provide them, and what each file is for."""
PAIRS = {
    kind: {"interactions": f"interactions.{kind}", "items": f"items.{kind}"}
    for kind in ("tsv", "csv", "parquet")
}
"""Files of the plain formats: role -> name. Those of text may be gzipped, with `.gz` after their name."""
SUFFIXES = {
    "recbole": {"interactions": ".inter", "items": ".item"},
    "unisrec": {
        **{part: f".{part}.inter" for part in ("train", "valid", "test")},
        **{part: f".{part}" for part in ("text", "item2index", "user2index")},
    },
}
"""Files of the other formats: role -> what follows the name of the dataset."""
FORMATS = (*PAIRS, *SUFFIXES)
"""Formats whose files are recognised in a folder."""
BUILT_IN = ("auto", *FORMATS, *ROLES, "synthetic")
"""Formats that need no other package, and that none can replace."""
SEPARATED = ("tsv", "csv")
"""Formats whose separator can be named."""
MAPPED = (*SEPARATED, "parquet", "recbole")
"""Formats whose columns may have other names."""
GROUP = "adaptrec.readers"
"""Entry points of other packages: name of a format -> its `Reader`."""


@dataclass(frozen=True)
class Reader:
    """How another package reads a format."""

    files: Mapping[str, str]
    """Role -> name of its file in the folder of the dataset."""
    read: Callable[..., Any]
    """`read(files, recipe, repairs) -> RawData` (`benchmark.data.raw`); `files` maps each role to a path."""
    version: int = 1
    """To be raised when the same files give another result, so that they are prepared again."""


def format_names() -> list[str]:
    """The formats that a recipe can name; imports no other package."""
    return list(dict.fromkeys([*BUILT_IN, *(point.name for point in offered(GROUP))]))


@cache
def load_reader(name: str) -> tuple[Reader, str]:
    """Another package's reader of a format, and what to call it in a message.

    Raises `UserError` where there is none, or where it cannot be used.
    """
    point = next((point for point in offered(GROUP) if point.name == name), None)
    if point is None:
        raise UserError(f"no installed package reads the format '{name}'; install the one that does.")
    package = point.dist.name if point.dist else "an unknown package"
    title = f"reader '{name}' of {package} ({point.value})"
    try:
        reader = point.load()
    except BROKEN as error:
        raise UserError(f"{title} cannot be imported: {one_line(error)}.") from error
    if not isinstance(reader, Reader) or not reader.files:
        raise UserError(f"{title} must be an instance of benchmark.data.formats.Reader with files.")
    return reader, title


def folder_files(folder: Path, kind: str) -> dict[str, Path]:
    """Role -> file of the given format in `folder`; raises `UserError` when one is missing."""
    if kind in PAIRS:
        roles = {role: _plain(folder, name) for role, name in PAIRS[kind].items()}
    elif kind in SUFFIXES:
        stem = _stem(folder, kind)
        roles = {role: folder / f"{stem}{suffix}" for role, suffix in SUFFIXES[kind].items()}
    else:
        roles = {role: folder / name for role, name in load_reader(kind)[0].files.items()}
    missing = [path.name for path in roles.values() if not path.is_file()]
    if missing:
        needed = ", ".join(path.name for path in roles.values())
        raise UserError(f"{folder} lacks {', '.join(missing)}; the format {kind} needs {needed}.")
    return roles


def formats_in(folder: Path) -> list[str]:
    """The formats of which `folder` holds files."""
    plain = [
        kind
        for kind, names in PAIRS.items()
        if any(_plain(folder, name).is_file() for name in names.values())
    ]
    return plain + [kind for kind in SUFFIXES if _stems(folder, kind)]


def detect(folder: Path) -> str:
    """The format of the files in `folder`, by their names."""
    kinds = formats_in(folder)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        several = f"{folder} holds several formats ({', '.join(kinds)})"
        raise UserError(f"{several}; put format = one of them into {folder}/recipe.toml.")
    raise UserError(
        f"{folder} holds no data files: it needs interactions and items as .tsv, .csv (both also with .gz) "
        f"or .parquet, <name>.inter with <name>.item (RecBole), or <name>.train.inter with its companions "
        f"(UniSRec)."
    )


def _plain(folder: Path, name: str) -> Path:
    """A file of a plain format, gzipped or not; where there is none, the path it would have."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.suffix == ".parquet" or not packed.is_file():
        return plain
    if plain.is_file():
        raise UserError(
            f"{folder} holds both {plain.name} and {packed.name}; remove the one that is not meant."
        )
    return packed


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
