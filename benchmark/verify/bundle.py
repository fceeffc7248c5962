"""Make a bundle of records, the files beside them, and the source of methods of other packages."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.files import temporary_folder, write_atomically
from benchmark.results.record import below_results, ranks_path, top_path
from benchmark.results.store import StoredRun, read_result
from benchmark.verify.archive import write_archive
from benchmark.verify.format import MANIFEST, RUNS, SOURCES, SUFFIX, FileEntry, Manifest
from benchmark.verify.levels import Verdict, verify
from benchmark.verify.opened import BundledRun
from benchmark.verify.sources import sources_of
from benchmark.verify.truth import at_hand
from methods.errors import UserError

if TYPE_CHECKING:
    from benchmark.data.prepare import Prepared


def make_bundle(records: Sequence[Path], out: Path, data: Sequence[Prepared] | None = None) -> Verdict:
    """Write the bundle of these `records` to `out`: -> what the verifier says of it.

    With the `data` of the runs, it gets the embeddings of items and users as well, from their kept models.
    Raises `UserError` for a record that is no result of a finished run, and for a bundle that would not reach
    level L2; then nothing is written.
    """
    if not out.name.endswith(SUFFIX):
        raise UserError(f"the bundle {out} must have a name that ends in {SUFFIX}.")
    with drafted(records, out.name, data) as draft:
        verdict = verify(draft, "L2")
        if verdict.faults:
            raise UserError(f"a bundle of these records would not reach level L2: {verdict.faults[0]}")
        write_atomically(out, draft.read_bytes())
    return verdict


@contextmanager
def drafted(records: Sequence[Path], name: str, data: Sequence[Prepared] | None = None) -> Iterator[Path]:
    """The bundle of these `records` in a temporary folder, not verified; see `make_bundle`."""
    contents: dict[str, bytes] = {}
    for path in records:
        run = _finished(path.resolve())
        own = {
            f"{RUNS}/{below_results(file)}": file.read_bytes()
            for file in (ranks_path(run.path), top_path(run.path), run.path)
            if file.exists()
        }
        if contents.keys() & own.keys():
            raise UserError(
                f"the record {run.name} is given twice, from one folder or from two; give it once."
            )
        contents |= own | _sources(run)
        if data is not None:
            contents |= _embeddings(run, data)
    contents[MANIFEST] = _manifest(contents).content()
    with temporary_folder(Path(tempfile.gettempdir()), "adaptrec-bundle") as folder:
        draft = folder / name
        with draft.open("wb") as file:
            write_archive(file, contents)
        yield draft


def _finished(path: Path) -> StoredRun:
    run = read_result(path)
    if run.record.status != "ok":
        raise UserError(
            f"the run of {path} did not end well: its status is {run.record.status}. Leave it out, or run "
            "it again."
        )
    return run


def _embeddings(run: StoredRun, data: Sequence[Prepared]) -> dict[str, bytes]:
    """The embeddings of a run as members of the bundle."""
    from benchmark.verify.embeddings import embeddings_of

    (on,) = at_hand([BundledRun(run)], data)
    found = embeddings_of(run, on.data)
    return {f"{RUNS}/{below_results(file)}": content for file, content in found.items()}


def _sources(run: StoredRun) -> dict[str, bytes]:
    """The source of a method that another package brought, as members of the bundle."""
    if not run.record.method_source.get("external"):
        return {}
    found = sources_of(run.record)
    return {f"{SOURCES}/{run.record.method}/{module}.py": text.encode() for module, text in found.items()}


def _manifest(contents: Mapping[str, bytes]) -> Manifest:
    return Manifest(
        files=[
            FileEntry(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in sorted(contents.items())
        ]
    )
