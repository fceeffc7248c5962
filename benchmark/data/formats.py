"""Formats of data files: the names of their files, where they lie, what a recipe may state of them, and who
reads them.

Only the standard library is imported here, so that listing datasets is quick.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered, one_line

DATA_VARIABLE = "ADAPTREC_DATA"
"""Environment variable: the folder of data that the user has put there."""
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
SCHEMES = ("https", "http", "hf", "file")
"""What a URL of [download.files] may begin with; `hf` is the Hugging Face hub."""
_EXAMPLES = {
    "amazon-2014": '["title", "categories", "brand"]',
    "amazon-2018": '["title", "category", "brand"]',
    "amazon-2023": '["title", "categories", "store"]',
    "movielens": '["title", "genres"]',
}
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


def data_folder() -> Path | None:
    """The folder that $ADAPTREC_DATA names, if any."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser().resolve() if named else None


def parse_path(written: str) -> Path | None:
    """What a user wrote as a path; None where no file system could have it."""
    try:
        path = Path(written).expanduser()
        path.exists()
    except (ValueError, RuntimeError):  # a NUL, or the home folder of an unknown user
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise
    return None if "\0" in written else path


def shortened(name: str, most: int = 80) -> str:
    """A name for an error, cut to `most` characters."""
    return name if len(name) <= most else f"{name[:most]}... ({len(name):,} characters)"


def file_name(url: str) -> str:
    """The last part of a URL's path: the official name of the file."""
    return PurePosixPath(url.partition("?")[0]).name


def file_names(urls: Iterable[str]) -> str:
    """The official names of a file, which mirrors may give under several, for a message."""
    return " or ".join(dict.fromkeys(map(file_name, urls)))


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


def check_columns(
    columns: Sequence[tuple[str, str]], separator: str, kind: str, text_fields: Sequence[str], path: Path
) -> None:
    """Raise `UserError` where a column mapping or a separator does not go with the files' format."""
    known = tuple(dict.fromkeys((*COLUMNS, *text_fields)))
    for name, column in columns:
        if name not in known:
            raise unknown(f"name in the columns of {path}:", name, known)
        if kind not in MAPPED:
            raise UserError(f"{path}: columns are for files of {', '.join(MAPPED)}; this is {kind}.")
        twice = [other for other, same in columns if same == column and other != name]
        if twice:
            raise UserError(f"{path}: the column '{column}' cannot be both {name} and {twice[0]}.")
    if separator and kind not in SEPARATED:
        raise UserError(f"{path}: separator is for files of {', '.join(SEPARATED)}; this is {kind}.")


def check_files(files: Any, kind: str, text_fields: object, path: Path) -> dict[str, tuple[str, ...]]:
    """Role -> URLs, mirrors in order, of [download.files]; raises `UserError` for a fault in it."""
    if kind not in ROLES:
        raise UserError(f"{path}: [download] needs format = one of {', '.join(ROLES)}, not '{kind}'.")
    if not isinstance(files, dict) or set(files) != set(ROLES[kind]):
        roles = " and ".join(ROLES[kind])
        raise UserError(f"{path}: [download.files] must have {roles}, each a list of URLs, for {kind}.")
    if not text_fields:
        raise UserError(f"{path}: {kind} needs text_fields, such as {_EXAMPLES[kind]}.")
    for role, urls in files.items():
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
            raise UserError(f"{path}: download.files.{role} must be a list of URLs, the best mirror first.")
        for url in urls:
            scheme, colon, _ = url.partition("://")
            if colon and scheme not in SCHEMES:
                raise unknown(f"scheme of a URL in {path}:", scheme, SCHEMES)
            if not url.isprintable() or file_name(url) in ("", ".", ".."):
                raise UserError(f"{path}: download.files.{role}: {url!r} does not end in the name of a file.")
    return {role: tuple(urls) for role, urls in files.items()}


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
