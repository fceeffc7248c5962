"""Installed packages that offer methods or metrics, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path,
    distribution: str,
    points: Mapping[str, str],
    modules: Mapping[str, str],
    version: str = "1.0",
    group: str = "adaptrec.methods",
) -> None:
    """Lay into `folder` what an installer would: the modules, and a dist-info with entry points.

    Written by hand, because building a wheel wants tools that a user's environment may lack.
    """
    for name, source in modules.items():
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(lines), encoding="utf-8")
    (info / "INSTALLER").write_text("test\n", encoding="utf-8")
