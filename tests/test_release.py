"""Files for the outside: how to cite the project, and the workflow that runs its checks."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(path: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_names_the_version_that_is_packaged() -> None:
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["abstract"] == PROJECT["description"]
    assert citation["keywords"] == PROJECT["keywords"]


def test_the_citation_refers_to_the_paper() -> None:
    (paper,) = parsed("CITATION.cff")["references"]
    assert paper["type"] == "article" and paper["url"] == "https://arxiv.org/abs/2310.01612"
    page = (ROOT / "results" / "paper" / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in " ".join(page.split())
    assert paper["authors"][0]["family-names"] == "Peng"


def test_the_workflow_runs_the_checks_with_the_oldest_python_and_may_only_read() -> None:
    workflow = parsed(".github/workflows/ci.yml")
    assert set(workflow.get("on", workflow.get(True))) == {"push", "pull_request"}  # YAML 1.1: `on` is true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(action.rpartition("@")[2][1:].isdigit() for action in uses)  # a pinned major version
    (python,) = (step["with"] for step in job["steps"] if "python-version" in step.get("with", {}))
    assert PROJECT["requires-python"] == f">={python['python-version']}"
    assert job["steps"][-1]["run"] == "bash .ci/run" and (ROOT / ".ci" / "run").is_file()
    assert "secrets." not in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
