"""Check a pull request that submits a row: `python .ci/submission.py BASE HEAD`, in a checkout of BASE.

HEAD is a commit that was fetched and not checked out. Between the two lies one new bundle and nothing else.
It is read as data, from git's objects, and verified with the code of BASE; nothing of HEAD runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.cli import main
from benchmark.process.exit_status import exit_status
from benchmark.results.index import SUBMITTED
from benchmark.verify.format import MOST_BYTES, SUFFIX, shown
from methods.errors import UserError

PLACE = re.compile(rf"results/{SUBMITTED}/([A-Za-z0-9][A-Za-z0-9._-]{{0,79}}{re.escape(SUFFIX)})")


def git(*words: str) -> bytes:
    """What git prints; raises `UserError` where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, check=False)
    if done.returncode:
        raise UserError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}.")
    return done.stdout


def submitted(base: str, head: str) -> tuple[str, str]:
    """Name and git's blob of the bundle that is new at `head`; raises `UserError` where that is not all."""
    begin = git("merge-base", base, head).decode().strip()
    parts = git("diff-tree", "-r", "-z", "--no-renames", begin, head).decode(errors="replace").split("\0")
    changes = [(fields.split(), path) for fields, path in zip(parts[::2], parts[1::2], strict=False)]
    for (_, mode, _, _, kind), path in changes:
        if not (match := PLACE.fullmatch(path)):
            raise UserError(
                f"a submission is one new file results/{SUBMITTED}/NAME{SUFFIX}, and this one touches "
                f"{shown(path)} too. A maintainer adds the entry of the index."
            )
        if kind != "A" or mode != "100644":
            raise UserError(f"{match[1]} must be a new, plain file. A submission is never changed.")
    if len(changes) != 1:
        raise UserError(f"a submission has one bundle, and this one has {len(changes)}.")
    (*_, blob, _), path = changes[0]
    return Path(path).name, blob


def check(base: str, head: str) -> int:
    """Verify what is submitted; returns the exit status of `adaptrec verify`."""
    name, blob = submitted(base, head)
    if (size := int(git("cat-file", "-s", blob))) > MOST_BYTES:
        raise UserError(f"{name} has {size:,} bytes; a bundle has at most {MOST_BYTES:,}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(git("cat-file", "blob", blob))
        return main(["verify", str(path)])


def checked(words: list[str]) -> int:
    """As `check`, of the words of a command line."""
    if len(words) != 2:
        raise UserError("usage: python .ci/submission.py BASE HEAD, two commits.")
    return check(*words)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: checked(sys.argv[1:])))
