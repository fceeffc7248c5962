"""What is imported when: names, lists and help are answered before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from methods import BUILTIN

STEPS = {
    "the package": (
        "import adaptrec; assert adaptrec.__version__ and 'load' in dir(adaptrec)",
        {"torch", "numpy", "pandas", "pyarrow", "pydantic", "methods.registry"},
    ),
    "the list of datasets": (
        "from pathlib import Path; from benchmark.data.catalogue import available; assert available(Path())",
        {"torch", "numpy", "pandas", "pyarrow", "datasets"},
    ),
    "the list of language models": (
        "from benchmark.llm.catalogue import available; assert available()",
        {"torch", "transformers", "huggingface_hub", "pandas", "safetensors"},
    ),
    "a report": ("import benchmark.report.build", {"matplotlib", "pandas", "torch"}),
    "the classes of methods": (
        f"from methods import registry; [registry.get(name) for name in {list(BUILTIN)}]",
        {"peft", "transformers"},
    ),
}
"""What is asked for, one after another in one process -> how, and what must not be loaded by then."""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Step -> all that is loaded after it."""
    lines = ["import json, sys", "loaded = {}"]
    for name, (step, _) in STEPS.items():
        lines += [step, f"loaded[{name!r}] = sorted(sys.modules)"]
    code = "\n".join([*lines, "print(json.dumps(loaded))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}


@pytest.mark.parametrize("step", STEPS)
def test_nothing_heavy_is_imported_for(loaded: dict[str, set[str]], step: str) -> None:
    assert loaded[step] & STEPS[step][1] == set()
