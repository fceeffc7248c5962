"""A bundle of a method of another package has its source, as text."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from method_packages import install

from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify.bundle import make_bundle
from methods import registry
from methods.errors import UserError

SMALL = ("epochs=1", "width=8", "sasrec_inner=8", "precision=no")

METHOD = '''"""mean: the mean of the states."""
from typing import Any, ClassVar

from pooled_parts.parts import linear
from methods.base import Items, Method, NoConfig, Reads, states_of


class Mean(Method):
    """mean: the mean of the states, by nobody."""

    reads: ClassVar[Reads] = "states"
    Config: ClassVar[type[Any]] = NoConfig

    def __init__(self, config, context):
        super().__init__(config, context)
        self.linear = linear(context.llm_width, context.out_dim)

    @classmethod
    def layers(cls, config, n_layers):
        return (n_layers,)

    def forward(self, items: Items):
        return self.linear(states_of(items).mean(1))  # [M, A, D] -> [M, d]
'''
PARTS = "from torch import nn\n\n\ndef linear(width, out):\n    return nn.Linear(width, out)\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the package, which is forgotten afterwards."""
    modules = {"pooled_parts.__init__": "", "pooled_parts.mean": METHOD, "pooled_parts.parts": PARTS}
    install(tmp_path / "site", "pooled-parts", {"pooled": "pooled_parts.mean:Mean"}, modules)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry.entries.cache_clear()
    yield tmp_path / "site"
    registry.entries.cache_clear()
    for name in [name for name in sys.modules if name.startswith("pooled_parts")]:
        del sys.modules[name]


def test_a_bundle_has_the_source_of_another_package(tmp_path: Path, folder: Path, site: Path) -> None:
    """Of all its modules that the digest covers; the verifier reads it as text, without the package."""
    spec = RunSpec(str(folder), "random-tiny", "pooled", "fair", 0, SMALL)
    path, record = run(spec, tmp_path / "results")
    assert record.method_source["external"]
    out = tmp_path / "x.adaptrec.zip"
    make_bundle([path], out)
    with zipfile.ZipFile(out) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if "sources/" in name}
    assert sources["sources/pooled/pooled_parts.mean.py"] == METHOD
    assert sources["sources/pooled/pooled_parts.parts.py"] == PARTS
    code = f"from benchmark.cli import main\nraise SystemExit(main(['verify', {str(out)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    for what in ("hyper-parameters", "configuration hash"):
        assert f"not checked: the {what} of 'pooled', which is of another package" in done.stdout

    record.method_source["code"] = "0" * 16
    record.write(path)
    with pytest.raises(UserError, match="the method 'pooled' was edited since its run"):
        make_bundle([path], out)
