"""The committed store: whole, every record of it in the index, and nothing taken from it since."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmark.files import digest_of
from benchmark.verify.history import SkippedError
from benchmark.verify.indexed import QUICK, Store, history

ROOT = Path(__file__).resolve().parents[1]
RECORD = re.compile(r"results/(.*/[0-9a-f]{12}-s[0-9]+)\.(json|ranks\.parquet|top\.parquet)")


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(ROOT / "results")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The paths that git has of the folder; a clone may have local records besides."""
    done = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("no git repository, so that committed and local records cannot be told apart")
    return done.stdout.splitlines()


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
def test_the_store_is_whole(store: Store, check) -> None:
    """That metrics follow from the ranks is seen where the report is made."""
    check(store)


def test_no_commit_took_anything(store: Store) -> None:
    try:
        history(store)
    except SkippedError as reason:
        pytest.skip(str(reason))


def test_every_committed_record_is_in_the_index(store: Store, tracked: list[str]) -> None:
    files = [(entry, *pair) for entry in store.index.entries for pair in entry.files.items()]
    known = {(place, digest) for entry, file, digest in files for place in (file, entry.kept(file))}
    found = [match[0].removeprefix("results/") for path in tracked if (match := RECORD.fullmatch(path))]
    assert len(found) > 250
    missing = [path for path in found if (path, digest_of(ROOT / "results" / path)) not in known]
    assert missing == [], "`adaptrec add results` adds them to the index"


def test_every_bundle_and_every_file_of_an_entry_is_committed(store: Store, tracked: list[str]) -> None:
    committed = set(tracked)
    files = {
        next(place for place in (file, entry.kept(file)) if (store.results / place).is_file())
        for entry in store.index.entries
        for file in entry.files
    }
    files |= {f"submitted/{entry.bundle}" for entry in store.index.entries if entry.bundle}
    assert {f"results/{path}" for path in files} - committed == set()
