"""The files of a report in their folder: written whole, nobody else's touched, outdated ones removed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from benchmark.files import write_atomically, write_json
from methods.errors import UserError

MANIFEST = "manifest.json"


def write(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files, then remove what an earlier report left; the manifest names them all throughout.

    Raises `UserError` before it would write over a file that no report has made.
    """
    out.mkdir(parents=True, exist_ok=True)
    old = _manifest(out / MANIFEST)
    for name in files:
        if name not in old and (out / name).exists():
            raise UserError(
                f"{out / name} exists and {out / MANIFEST} does not say that a report made it. "
                "Move it away or give another folder by --out."
            )
    new = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_json(out / MANIFEST, {**old, **new})
    for name, data in files.items():
        write_atomically(out / name, data)
    for name in old.keys() - new.keys():
        path = out / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == old[name]:
            path.unlink()
    write_json(out / MANIFEST, new)
    return [out / name for name in sorted([*files, MANIFEST])]


def _manifest(path: Path) -> dict[str, str]:
    """File name -> SHA-256 of what an earlier report wrote; empty where there was none."""
    if not path.exists():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        known = {str(name): str(digest) for name, digest in read.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not the list of files that a report writes; move it away.") from error
    if strange := [name for name in known if Path(name).name != name]:
        raise UserError(f"{path} names '{strange[0]}', which is no file of its folder; move it away.")
    return known
