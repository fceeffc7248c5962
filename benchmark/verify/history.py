"""What git says of a store: no commit removed or changed a line or a file of it since an index named it.

Names of files and contents of commits are bytes that anyone may have written.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from benchmark.escape import visible_line
from benchmark.results.index import INDEX, REPLACED, SUBMITTED, Entry
from methods.errors import UserError

_ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR"}
"""Variables by which git, as in a hook, looks at another repository than that of the folder."""


class SkippedError(Exception):
    """There is no history to look at; `str()` is the reason."""


class Change(NamedTuple):
    """A file of the store that a commit changed or removed, against one of its parents."""

    commit: str
    parent: str
    path: str
    """Below the store; a byte that is no text is a surrogate."""
    blob: str
    """Git's name of the content in the parent."""
    parents: Sequence[str]
    """Of the commit, `parent` among them; a merge has several."""


def check_history(results: Path) -> None:
    """Raise `UserError` where a commit took something from the store, or git fails; `SkippedError` where
    there is no history."""
    _check_repository(results)
    if not _git(results, "rev-parse", "--verify", "--quiet", "HEAD", fails=True):
        raise SkippedError(f"{INDEX} is in no commit yet")
    if _git(results, "rev-parse", "--is-shallow-repository").strip() == b"true":
        raise SkippedError("the clone is shallow; `git fetch --unshallow` gets the history")
    if not _git(results, "rev-list", "--max-count=1", "--full-history", "HEAD", "--", INDEX):
        raise SkippedError(f"{INDEX} is in no commit yet")
    if not (results / INDEX).read_bytes().startswith(_content(results, "HEAD")):
        raise UserError(f"lines of {INDEX} in the last commit were removed or changed after it.")
    for change in _changes(results):
        fault = _cut if change.path == INDEX else _fault
        if text := fault(results, change):
            raise UserError(f"commit {change.commit[:12]} {text}")


def _check_repository(results: Path) -> None:
    """The repository is the one that the folder lies in: git passes over a broken one, to one above it."""
    folder = results.resolve()
    near = (above for above in (folder, *folder.parents) if os.path.lexists(above / ".git"))
    if (root := next(near, None)) is None:
        raise SkippedError("the folder is in no git repository")
    top = _git(results, "rev-parse", "--show-toplevel").removesuffix(b"\n")
    if Path(os.fsdecode(top)).resolve() != root:
        raise UserError(f"git cannot read the repository of {root}: mend its .git, or clone it again.")


def _cut(results: Path, change: Change) -> str:
    """Why a change of the index is more than lines at its end; empty where it is not.

    Of two branches that both appended, a merge takes the file of one; the other's records are added again.
    """
    before, after = _content(results, change.parent), _content(results, change.commit)
    if not after:
        return f"removed {INDEX}."
    if after.startswith(before):
        return ""
    others = [_content(results, parent) for parent in change.parents]
    if any(other and after.startswith(other) for other in others):
        lost = {*before.splitlines()} - {*after.splitlines()}
        there = _entries((results / INDEX).read_bytes(), "the folder")
        parent = f"commit {change.parent[:12]}"
        if {*map(_added, _entries(b"\n".join(lost), parent))} <= {*map(_added, there)}:
            return ""
    return f"removed or changed lines that {INDEX} has in commit {change.parent[:12]}."


def _added(entry: Entry) -> tuple[object, ...]:
    """What an entry that is added again, after a merge, has in common with the first one."""
    return entry.record, tuple(entry.files.items()), entry.by, entry.bundle_sha256


def _fault(results: Path, change: Change) -> str:
    """Why a change is none that a store may have; empty where it may."""
    content = _content(results, change.parent)
    top = change.path.partition("/")[0]
    if content and top == REPLACED:
        return f"took away {visible_line(change.path)}, which is kept of an entry that was replaced."
    for entry in reversed(_entries(content, f"commit {change.parent[:12]}")):
        if top == SUBMITTED and change.path == f"{SUBMITTED}/{entry.bundle}":
            return f"changed or removed {change.path}, the bundle of entry {entry.entry}."
        if change.path in entry.files:  # the last entry of a path is the one whose files lie there
            if _blob(results, change.commit, entry.kept(change.path)) == change.blob:
                return ""
            shown = visible_line(change.path)
            return f"changed or removed {shown}, of entry {entry.entry}, and did not keep it."
    return ""


def _entries(content: bytes, where: str) -> list[Entry]:
    """The entries of an index; raises `UserError` where a line is none."""
    try:
        return [Entry.model_validate_json(line) for line in content.splitlines()]
    except ValidationError:
        raise UserError(f"{INDEX} of {where} has a line that is no entry.") from None


def _changes(results: Path) -> Iterator[Change]:
    """Files below the store that any commit of the history changed or removed, against each parent.

    Git's own log leaves out merges, and branches whose changes a merge dropped; and it goes by dates, which
    a commit may have of any time.
    """
    commits = [line.split() for line in _git(results, "rev-list", "--parents", "HEAD").decode().splitlines()]
    parents_of = {commit: parents for commit, *parents in commits}
    pairs = "".join(f"{commit} {parent}\n" for commit, *parents in commits for parent in parents)
    words = ("diff-tree", "--stdin", "--format=%H %P", "-r", "--raw", "--no-renames", "--no-abbrev")
    more = ("--relative", "--diff-filter=MDT", "-z", "--", ".")
    found = _git(results, *words, *more, given=pairs.encode())
    commit = parent = ""
    parts = map(os.fsdecode, found.split(b"\0"))
    for part in map(str.strip, parts):
        if part.startswith(":"):
            yield Change(commit, parent, next(parts), part.split()[2], parents_of[commit])
        elif part:
            commit, parent = part.split()


def _content(results: Path, commit: str) -> bytes:
    """The index in a commit; nothing where it has none."""
    blob = _blob(results, commit, INDEX)
    return _git(results, "cat-file", "blob", blob) if blob else b""


def _blob(results: Path, commit: str, path: str) -> str:
    """Git's name of the content of a file of the store in a commit; empty where it has none."""
    found = _git(results, "ls-tree", "-z", commit, "--", path).partition(b"\t")[0].split()
    return found[2].decode() if found else ""


def _git(results: Path, *words: str, fails: bool = False, given: bytes = b"") -> bytes:
    """What git prints, in the folder of the store; nothing where it fails and that is allowed.

    `given` is what it reads from its standard input.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", "--no-replace-objects", "--literal-pathspecs", "-C", str(results), *words],
            input=given, capture_output=True, check=False, timeout=300, env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        raise SkippedError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"`git {words[0]}` did not end within 300 seconds.") from None
    if done.returncode and not fails:
        reason = visible_line(os.fsdecode(done.stderr).strip(), 300)
        raise UserError(f"`git {words[0]}` failed in {results}: {reason}")
    return done.stdout
