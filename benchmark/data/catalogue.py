"""Find the recipe of a dataset by name or folder, and list all of them.

Only the standard library is imported here, so that listing is quick.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.data.download import all_here
from benchmark.data.formats import parse_path, shortened
from benchmark.data.recipe import NO_OPTIONS, FolderOptions, Recipe, check, checked, load_toml
from benchmark.process.startup import packaged_data
from methods.errors import UserError, unknown


class ListedDataset(NamedTuple):
    """A line of `list datasets`."""

    name: str
    edition: str
    state: str
    """Whether the files are on this machine."""
    summary: str
    category: str = ""
    """Of a family of datasets, one a category; empty for others."""


def available(cache: Path) -> dict[str, ListedDataset]:
    """Every recipe by name; one that cannot be read has its fault in place of the summary."""
    datasets: dict[str, ListedDataset] = {}
    for name, entry in entries().items():
        try:
            raw = entry.content()
            edition, summary = (str(raw.get(key, "")) for key in ("edition", "summary"))
            state = _state(name, raw, entry.path, cache)
            datasets[name] = ListedDataset(name, edition, state, summary, entry.category)
        except UserError as error:
            datasets[name] = ListedDataset(name, "", "", f"unusable: {error}")
    return datasets


def _state(name: str, raw: dict[str, Any], path: Path, cache: Path) -> str:
    """Whether the files are here, to be fetched, or for the user to put somewhere."""
    try:
        recipe = checked(name, raw, path, None)
    except UserError:
        if "folder" in raw and "download" not in raw:
            return "not here"
        raise
    if recipe.format == "synthetic":
        return "generated"
    here = not recipe.files or all_here(recipe, cache)
    return "here" if here else "to fetch"


class RecipeFile(NamedTuple):
    """The file that describes a dataset, alone or with others."""

    path: Path
    category: str
    """Of a file that describes one dataset a category; empty for others."""

    def content(self) -> dict[str, Any]:
        """The keys that the file gives for this dataset."""
        raw = load_toml(self.path, self.category)
        if self.category:
            raw.pop("categories")
        return raw


def search_path() -> list[Path]:
    """Folders of recipes, the nearest first: that of the working directory, and this package's own."""
    return [root for root in (Path("datasets"), packaged_data("recipes", "datasets")) if root.is_dir()]


def find(name_or_folder: str, options: FolderOptions = NO_OPTIONS) -> Recipe:
    """The recipe of a name in `datasets/`, or of a folder with data files, read with `options`.

    A known name wins over a folder of the same name in the working folder; `./name` means the folder.
    Nothing is fetched here. Raises `UserError` for an unknown name, a missing folder or file, and a fault in
    a recipe.
    """
    known = entries()
    if name_or_folder in known:
        if options != NO_OPTIONS:
            raise UserError(
                f"{' '.join(options.words())} is for a folder, and '{name_or_folder}' is a recipe; give the "
                f"folder (./{name_or_folder} if it has this name), or leave the option out."
            )
        entry = known[name_or_folder]
        return checked(name_or_folder, entry.content(), entry.path, None)
    folder, shown = parse_path(name_or_folder), shortened(name_or_folder)
    if folder is not None and folder.is_dir():
        return _of_folder(folder.resolve(), known, options)
    if folder is not None and folder.exists():
        raise UserError(f"dataset '{shown}' is a file; give the folder that holds it.")
    _refuse_faulty_family(name_or_folder, known)
    if folder is None or folder.name != name_or_folder:
        raise UserError(
            f"there is no dataset folder '{shown}'; give a folder that exists "
            f"or one of: {', '.join(_families(known))}."
        )
    do = "`adaptrec list datasets` describes them. Or give a folder with interactions.tsv and items.tsv."
    raise unknown("dataset", shown, known, do, _families(known))


def _refuse_faulty_family(name: str, known: dict[str, RecipeFile]) -> None:
    """Raise the fault of the recipe of whose family `name` would be, where that recipe has one."""
    for stem, entry in known.items():
        if name.startswith(f"{stem}-") and not entry.category and "categories" in (raw := entry.content()):
            check("categories", raw["categories"], entry.path)


def entries() -> dict[str, RecipeFile]:
    """Every dataset that a recipe describes, by name; those of the working folder come first."""
    datasets: dict[str, RecipeFile] = {}
    for root in search_path():
        for path in sorted(root.glob("*/recipe.toml")):
            for name, category in _names(path):
                datasets.setdefault(name, RecipeFile(path, category))
    return datasets


def _names(path: Path) -> list[tuple[str, str]]:
    """(name, category) of the datasets that a file describes: its folder's name, or one a category."""
    with suppress(OSError, UserError):  # reported when the recipe is used
        # every look at a dataset passes all files, and most have no such key
        if b"categories" in path.read_bytes() and "categories" in (recipe := load_toml(path)):
            check("categories", recipe["categories"], path)
            return [(f"{path.parent.name}-{category}", category) for category in recipe["categories"]]
    return [(path.parent.name, "")]


def _families(entries: dict[str, RecipeFile]) -> list[str]:
    """The names, one for all categories of a family."""
    return list(dict.fromkeys(family(name, entry.category) for name, entry in entries.items()))


def family(name: str, category: str) -> str:
    """A dataset's name with `<category>` in place of its own."""
    return name.removesuffix(category) + "<category>" if category else name


def _of_folder(folder: Path, known: dict[str, RecipeFile], options: FolderOptions) -> Recipe:
    """A folder with the options of the recipe that `options` names, of its own recipe, or the defaults."""
    name = re.sub(r"[^\w.-]+", "-", folder.name)
    own = folder / "recipe.toml"
    given = tuple(options.words())
    if options.recipe:
        if options.recipe not in known:
            raise unknown("recipe", shortened(options.recipe), known, shown=_families(known))
        entry = known[options.recipe]
        recipe = checked(name, options.over(entry.content()), entry.path, folder)
        if recipe.format == "synthetic":
            raise UserError(f"--recipe {options.recipe}: that recipe generates its data and reads no folder.")
        instead = " in place of those of the folder's recipe.toml" if own.is_file() else ""
        note = f"options and expected counts of the recipe '{options.recipe}'{instead}"
        return replace(recipe, notes=(note, *recipe.notes), given=given)
    if own.is_file():
        return replace(checked(name, options.over(load_toml(own)), own, folder), given=given)
    note = f"the recipe '{name}' has the name of this folder; its options hold only with --recipe {name}"
    recipe = checked(name, options.over({}), folder, folder)
    notes = (note,) if name in known else ()
    return replace(recipe, summary=f"the folder {folder}", notes=notes, given=given)
