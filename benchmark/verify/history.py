"""What git says of a store: since its index began, no commit removed or changed a line or a file of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmark.results.index import INDEX, REPLACED, SUBMITTED, Entry
from methods.errors import UserError


class SkippedError(Exception):
    """There is no history to look at; `str()` is the reason."""


class Change(NamedTuple):
    """A file of the store that a commit changed or removed."""

    commit: str
    path: str
    """Below the store."""
    blob: str
    """Git's name of the content before it."""


def check_history(results: Path) -> None:
    """Raise `UserError` where a commit took something from the store, `SkippedError` where there is no
    history."""
    prefix = _git(results, "rev-parse", "--show-prefix").strip()
    commits = _git(results, "log", "--format=%H", "--reverse", "--", INDEX).split()
    if not commits:
        raise SkippedError(f"{INDEX} is in no commit yet")
    if _git(results, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise SkippedError("the clone is shallow; `git fetch --unshallow` gets the history")
    whole = (results / INDEX).read_text(encoding="utf-8")
    for commit in commits:
        then = _content(results, commit, f"{prefix}{INDEX}")
        if not then:
            raise UserError(f"commit {commit[:12]} removed {INDEX}.")
        if not whole.startswith(then):
            raise UserError(f"lines of {INDEX} in commit {commit[:12]} were removed or changed after it.")
    for change in _changes(results, prefix, commits[0]):
        if fault := _fault(results, prefix, change):
            raise UserError(f"commit {change.commit[:12]} {fault}")


def _fault(results: Path, prefix: str, change: Change) -> str:
    """Why a change is none that a store may have; empty where it may."""
    top = change.path.partition("/")[0]
    if top == REPLACED:
        return f"took away {change.path}, which is kept of an entry that was replaced."
    lines = _content(results, f"{change.commit}^", f"{prefix}{INDEX}").splitlines()
    for entry in reversed([*map(Entry.model_validate_json, lines)]):
        if top == SUBMITTED and change.path == f"{SUBMITTED}/{entry.bundle}":
            return f"changed or removed {change.path}, the bundle of entry {entry.entry}."
        if change.path in entry.files:  # the last entry of a path is the one whose files lie there
            kept = f"{change.commit}:{prefix}{entry.kept(change.path)}"
            if _git(results, "rev-parse", "--verify", "--quiet", kept, fails=True).strip() == change.blob:
                return ""
            return f"changed or removed {change.path}, of entry {entry.entry}, and did not keep it."
    return ""


def _changes(results: Path, prefix: str, first: str) -> Iterator[Change]:
    """Files below the store, but the index, that commits after the `first` changed or removed."""
    words = ("log", "--format=%H", "--raw", "--no-renames", "--no-abbrev", "--diff-filter=MDT", "-z")
    commit = ""
    parts = iter(_git(results, *words, f"{first}..HEAD", "--", ".").replace("\n", "\0").split("\0"))
    for part in filter(None, parts):
        if not part.startswith(":"):
            commit = part
            continue
        path = next(parts).removeprefix(prefix)
        if path != INDEX:
            yield Change(commit, path, part.split()[2])


def _content(results: Path, commit: str, path: str) -> str:
    return _git(results, "cat-file", "blob", f"{commit}:{path}", fails=True)


def _git(results: Path, *words: str, fails: bool = False) -> str:
    """What git prints, in the folder of the store; nothing where it fails and that is allowed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(results), *words], capture_output=True, text=True, check=False, timeout=300
        )
    except FileNotFoundError:
        raise SkippedError("git is not installed") from None
    if done.returncode and not fails:
        raise SkippedError("the folder is in no git repository")
    return done.stdout
