"""What is imported when: names, lists and help are answered before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data_folders import BLINK

from benchmark.llm.catalogue import resolve
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
    "a language model that was read before": (
        "from benchmark.llm.catalogue import resolve; resolve('random-tiny'), resolve('minilm')",
        {"torch", "transformers", "huggingface_hub.hf_api"},
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
    for llm in ("random-tiny", "minilm"):
        resolve(llm)
    lines = ["import json, sys", "loaded = {}"]
    for name, (step, _) in STEPS.items():
        lines += [step, f"loaded[{name!r}] = sorted(sys.modules)"]
    code = "\n".join([*lines, "print(json.dumps(loaded))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}


@pytest.mark.parametrize("step", STEPS)
def test_nothing_heavy_is_imported_for(loaded: dict[str, set[str]], step: str) -> None:
    assert loaded[step] & STEPS[step][1] == set()


DEFERRED = """
import sys
from benchmark.__main__ import cli
assert cli.main(sys.argv[1:]) == 0
assert "torch" in sys.modules
assert not {"torch._dynamo.eval_frame", "scipy", "transformers"} & set(sys.modules), "imported by the run"
import torch
graphs = []

@torch.compiler.disable
def apart(x):
    return x.sin()

def keep(graph, _):
    graphs.append(graph.code)
    return graph.forward

@torch.compile(backend=keep)
def work(x):
    return apart(x.exp()).cos()

x = torch.tensor([0.5])
assert torch.equal(work(x), x.exp().sin().cos())
assert "torch._dynamo.eval_frame" in sys.modules and len(graphs) == 2
assert ".exp()" in graphs[0] and ".cos()" in graphs[1] and not any(".sin()" in code for code in graphs)
"""


def test_a_run_does_not_import_the_compiler_and_can_still_compile(folder: Path, tmp_path: Path) -> None:
    run = ["run", "--dataset", str(folder), "--method", "id", "--epochs", "1", "--results", str(tmp_path)]
    code = [sys.executable, "-c", DEFERRED, *run, "--set", *BLINK]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
