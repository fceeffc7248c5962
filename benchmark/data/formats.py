"""Formats of data files: the names of their files, and the functions that read them.

Only the standard library is imported here, so that listing datasets is quick.
"""

from __future__ import annotations

from pathlib import Path

from methods.errors import UserError

COLUMNS = ("user_id", "item_id", "timestamp")
"""Columns of the interactions; the items have `item_id` and texts."""


ROLES = {
    "amazon-2014": ("interactions", "items"),
    "amazon-2018": ("interactions", "items"),
    "amazon-2023": ("interactions", "items"),
    "movielens": ("archive",),
}
"""Formats of files as their publishers hand them out, and what each file is for."""


SEPARATED = ("tsv", "csv")
"""Formats whose separator can be named."""


MAPPED = (*SEPARATED, "parquet", "recbole")
"""Formats whose columns may have other names."""


PAIRS = {
    "tsv": ("interactions.tsv", "items.tsv"),
    "csv": ("interactions.csv", "items.csv"),
    "parquet": ("interactions.parquet", "items.parquet"),
}
"""Files of the plain formats. Those of text may be gzipped, with `.gz` at the end of the name."""
FORMATS = (*PAIRS, "recbole", "unisrec")
"""Formats whose files are recognised in a folder."""


def folder_files(folder: Path, kind: str) -> dict[str, Path]:
    """Role -> file of the given format in `folder`; raises `UserError` when one is missing."""
    if kind in PAIRS:
        roles = dict(
            zip(("interactions", "items"), (_plain(folder, name) for name in PAIRS[kind]), strict=True)
        )
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


def formats_in(folder: Path) -> list[str]:
    """The formats of which `folder` holds files."""
    found = [kind for kind, names in PAIRS.items() if any(_plain(folder, name).is_file() for name in names)]
    return found + [kind for kind in ("recbole", "unisrec") if _stems(folder, kind)]


def detect(folder: Path) -> str:
    """The format of the files in `folder`, by their names."""
    found = formats_in(folder)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{folder} holds several formats ({', '.join(found)}); put format = one of them "
            f"into {folder}/recipe.toml."
        )
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
