"""What git says of a store: since its index began, no commit removed or changed a line or a file of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.results.index import INDEX, REPLACED, SUBMITTED, Entry
from methods.errors import UserError


class SkippedError(Exception):
    """There is no history to look at; `str()` is the reason."""


class Change(NamedTuple):
    """A file of the store that a commit changed or removed, against one of its parents."""

    commit: str
    parent: str
    path: str
    """Below the store."""
    blob: str
    """Git's name of the content in the parent."""
    parents: Sequence[str]
    """Of the commit, `parent` among them; a merge has several."""


def check_history(results: Path) -> None:
    """Raise `UserError` where a commit took something from the store, `SkippedError` where there is no
    history."""
    prefix = _git(results, "rev-parse", "--show-prefix").strip()
    born = _git(results, "rev-parse", "--verify", "--quiet", "HEAD", fails=True)
    commits = _git(results, "log", "--format=%H", "--full-history", "--reverse", "--", INDEX) if born else ""
    if not commits:
        raise SkippedError(f"{INDEX} is in no commit yet")
    if _git(results, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise SkippedError("the clone is shallow; `git fetch --unshallow` gets the history")
    whole = (results / INDEX).read_text(encoding="utf-8")
    if not whole.startswith(_content(results, "HEAD", f"{prefix}{INDEX}")):
        raise UserError(f"lines of {INDEX} in the last commit were removed or changed after it.")
    for change in _changes(results, prefix, commits.split()[0]):
        fault = _cut if change.path == INDEX else _fault
        if text := fault(results, prefix, change):
            raise UserError(f"commit {change.commit[:12]} {text}")


def _cut(results: Path, prefix: str, change: Change) -> str:
    """Why a change of the index is more than lines at its end; empty where it is not.

    Of two branches that both appended, a merge takes the file of one; the other's records are added again.
    """
    before = _content(results, change.parent, f"{prefix}{INDEX}")
    after = _content(results, change.commit, f"{prefix}{INDEX}")
    if not after:
        return f"removed {INDEX}."
    if after.startswith(before):
        return ""
    others = [_content(results, parent, f"{prefix}{INDEX}") for parent in change.parents]
    if any(other and after.startswith(other) for other in others):
        lost = {*before.splitlines()} - {*after.splitlines()}
        there = (results / INDEX).read_text(encoding="utf-8").splitlines()
        if {*map(_added, lost)} <= {*map(_added, there)}:
            return ""
    return f"removed or changed lines that {INDEX} has in commit {change.parent[:12]}."


def _added(line: str) -> tuple[object, ...]:
    """What an entry that is added again, after a merge, has in common with the first one."""
    entry = Entry.model_validate_json(line)
    return entry.record, tuple(entry.files.items()), entry.by, entry.bundle_sha256


def _fault(results: Path, prefix: str, change: Change) -> str:
    """Why a change is none that a store may have; empty where it may."""
    top = change.path.partition("/")[0]
    if top == REPLACED:
        return f"took away {change.path}, which is kept of an entry that was replaced."
    lines = _content(results, change.parent, f"{prefix}{INDEX}").splitlines()
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
    """Files below the store that commits after the `first` changed or removed, against each parent.

    Git's own log leaves out merges, and branches whose changes a merge dropped.
    """
    commits = [line.split() for line in _git(results, "rev-list", "--parents", f"{first}..HEAD").splitlines()]
    parents_of = {commit: parents for commit, *parents in commits}
    pairs = "".join(f"{commit} {parent}\n" for commit, *parents in commits for parent in parents)
    words = ("diff-tree", "--stdin", "--format=%H %P", "-r", "--raw", "--no-renames", "--no-abbrev")
    found = _git(results, *words, "--diff-filter=MDT", "-z", "--", ".", given=pairs)
    commit = parent = ""
    parts = iter(found.replace("\n", "\0").split("\0"))
    for part in filter(None, parts):
        if part.startswith(":"):
            path = next(parts).removeprefix(prefix)
            yield Change(commit, parent, path, part.split()[2], parents_of[commit])
        else:
            commit, parent = part.split()


def _content(results: Path, commit: str, path: str) -> str:
    return _git(results, "cat-file", "blob", f"{commit}:{path}", fails=True)


def _git(results: Path, *words: str, fails: bool = False, given: str = "") -> str:
    """What git prints, in the folder of the store; nothing where it fails and that is allowed.

    `given` is what it reads from its standard input.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(results), *words],
            input=given, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    except FileNotFoundError:
        raise SkippedError("git is not installed") from None
    if done.returncode and not fails:
        raise SkippedError("the folder is in no git repository")
    return done.stdout
