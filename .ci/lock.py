"""Write the environment with hashes and the licences of its packages: `lock.py REPORT... LOCK LICENCES`.

A report is what `pip install --dry-run --report` writes: each package that pip chose, the SHA-256 of its
file, and its metadata. `make lock` gives those of this project; docs/supply-chain.md explains the files.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

HEAD = """\
# What `make` installs, each file named by its SHA-256: `pip install --require-hashes -r requirements.lock`.
# Made by `make lock` for {machine}. Do not edit. docs/supply-chain.md says what is left out.
"""
LICENCES = """\
# Licences

What the metadata of each package in `requirements.lock` states. Made by `make lock`; do not edit.
[supply-chain.md](supply-chain.md) says what is not in this list.

| package | version | licence |
|---|---|---|
"""


def packages(reports: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Normalised name -> what a report says of it, without AdaptRec itself."""
    items = [item for report in reports for item in report["install"]]
    found = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item for item in items}
    found.pop("adaptrec", None)
    return dict(sorted(found.items()))


def licence(name: str, reported: dict[str, Any]) -> str:
    """The licence that a package states: an expression, a short text, or classifiers. Reports of older pips
    lack expressions, which the package has where it is installed."""
    try:
        installed = metadata(name).json
    except PackageNotFoundError:
        installed = {}
    facts = {**reported, **installed}
    short = str(facts.get("license") or "")
    short = "" if len(short) > 60 or short == "UNKNOWN" else short  # some packages state the whole text
    classes = [kind for kind in facts.get("classifier", ()) if kind.startswith("License ::")]
    named = ", ".join(kind.rpartition(" :: ")[2] for kind in classes)
    stated = facts.get("license_expression") or short or named or "not stated"
    return " ".join(stated.split()).replace("|", "/")


def main(*names: str) -> None:
    """Write both files."""
    *sources, lock, licences = map(Path, names)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sources]
    where = reports[0]["environment"]
    machine = f"CPython {where['python_version']} on {where['platform_system']} {where['platform_machine']}"
    lines, rows = [], []
    for name, item in packages(reports).items():
        version = item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
        rows.append(f"| {name} | {version} | {licence(name, item['metadata'])} |\n")
    lock.write_text(HEAD.format(machine=machine) + "".join(lines), encoding="utf-8")
    licences.write_text(LICENCES + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
