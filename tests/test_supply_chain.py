"""The environment with hashes, its licences and its bill of materials fit what `make` installs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"([a-z0-9-]+)==([^ ]+) --hash=sha256:([0-9a-f]{64})")
UNPINNED = {"setuptools"}
"""What `pip freeze` leaves out."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def locked() -> dict[str, tuple[str, str]]:
    """Name -> version and digest."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {match[1]: (match[2], match[3]) for match in found if match}


def test_the_lock_is_what_constraints_pin(locked: dict[str, tuple[str, str]]) -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}
    found = {name: version.partition("+")[0] for name, (version, _) in locked.items() if name not in UNPINNED}
    assert found == {name: pinned.get(name) for name in found}


def test_the_lock_has_what_the_package_needs(locked: dict[str, tuple[str, str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["test"], *extras["dev"], *extras["docs"]]
    names = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in needed}
    assert names - set(locked) == set() and len(names) > 40


def test_each_package_has_a_licence_in_the_list(locked: dict[str, tuple[str, str]]) -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\S+) \| (.+) \|$", page, re.M)
    assert {name: version for name, version, _ in rows if name != "package"} == {
        name: version for name, (version, _) in locked.items()
    }


def test_the_bill_of_materials_is_of_the_same_files(locked: dict[str, tuple[str, str]]) -> None:
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    found = {
        normal(part["name"]): (
            part["version"],
            next(
                digest["content"]
                for reference in part["externalReferences"]
                for digest in reference["hashes"]
            ),
        )
        for part in bill["components"]
    }
    assert found == locked


@pytest.mark.parametrize("name", ["requirements.lock", "docs/licences.md", "sbom.cdx.json"])
def test_no_file_names_a_registry(name: str) -> None:
    assert not re.search(r"(pypi|pythonhosted)\.", (ROOT / name).read_text(encoding="utf-8"))
