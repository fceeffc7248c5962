"""L3: data under a name that is known are those that are known under it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.data.catalogue import entries, find
from benchmark.data.prepare import prepare
from benchmark.files import cache_folder
from benchmark.results.index import PROJECT, read_index
from benchmark.verify.format import shown
from benchmark.verify.truth import RunOnData


def known(pairs: Sequence[RunOnData], store: Path | None) -> str | None:
    """The data are those that the project's records and recipes have under the dataset's name."""
    distinct = {(on.run.record.dataset, on.data.fingerprint["sha256"]): on for on in pairs}
    unknown = [name for (name, _), on in distinct.items() if not _check(on, name, store)]
    listed = ", ".join(map(shown, dict.fromkeys(unknown)))
    return f"{listed}, whose data no record of the project and no recipe knows" if unknown else None


def _check(on: RunOnData, name: str, store: Path | None) -> bool:
    """Whether something knows the data of this name; raises `UserError` where it knows others."""
    found, digests = on.data.fingerprint, _digests(name, store)
    if digests:
        if found["sha256"] not in digests:
            other, who = next(iter(digests.items()))
            raise on.run.fail(
                f"its data have the content {found['sha256']}, and {who} has {other} under the name "
                f"{shown(name)}: they are other data, and need another name."
            )
        return True
    expected = _expected(name)
    for what, count in expected.items():
        if found.get(what) != count:
            raise on.run.fail(
                f"its data have {found.get(what)} {what}, and the recipe {shown(name)} expects {count}: they "
                "are other data, and need another name."
            )
    return bool(expected)


def _digests(name: str, store: Path | None) -> dict[str, str]:
    """Digest of content -> who has it, of all that are known under the name of a dataset."""
    found = dict(_of_records(name, store)) if store else {}
    if (entry := entries().get(name)) and entry.content().get("format") == "synthetic":
        generated = prepare(find(name), cache_folder()).fingerprint["sha256"]
        found.setdefault(generated, f"the recipe {shown(name)}")
    return found


def _of_records(name: str, store: Path) -> Iterator[tuple[str, str]]:
    """Those of the project's own records in a store, if it has an index."""
    for entry in read_index(store).entries:
        if entry.by == PROJECT and entry.run.split("/")[0] == name and (path := entry.place(store)).is_file():
            fields = json.loads(path.read_bytes())
            if digest := (fields["data"].get("fingerprint") or {}).get("sha256"):
                yield digest, f"entry {entry.entry} of the store"


def _expected(name: str) -> dict[str, Any]:
    """The counts that the recipe of this name expects; none where there is no such recipe."""
    entry = entries().get(name)
    return dict(entry.content().get("expected", {})) if entry else {}
