"""Methods given as classes: what is written of their source, and what the record holds."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import partial  # noqa: F401
from pathlib import Path
from types import ModuleType

import in_process as helper
import pytest
from data_folders import BLINK
from torch import Tensor, nn

import adaptrec
from adaptrec.source import source_of
from benchmark.cli import main
from methods import registry

SETTINGS = dict(pair.split("=") for pair in BLINK) | {"epochs": 1}
SCALE = 2.0
UNUSED = "not written"


@dataclass(frozen=True)
class ProbeConfig:
    """Hyper-parameters of a probe."""

    bias: bool = True
    """Whether the map has a bias."""


def scaled(states: Tensor) -> Tensor:
    return SCALE * states  # [M, D]


class Base(adaptrec.Method):
    """A linear map of the frozen top layer."""

    reads = "states"
    Config = ProbeConfig

    def __init__(self, config: ProbeConfig, context: adaptrec.Context) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(context.llm_width, context.out_dim, bias=config.bias)

    def forward(self, items: adaptrec.Items) -> Tensor:
        UNUSED = items.states  # a name of its own
        return self.linear(scaled(UNUSED[:, 0]))  # [M, 1, D] -> [M, d]


class Probe(Base):
    """A probe of another class."""


def cells(monkeypatch: pytest.MonkeyPatch, *texts: str) -> ModuleType:
    """A notebook after these cells were executed."""
    notebook = ModuleType("notebook")
    vars(notebook)["_ih"] = ["", *texts]
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    for text in texts:
        exec(text, vars(notebook))
    return notebook


def alone(monkeypatch: pytest.MonkeyPatch, source: str) -> ModuleType:
    """A module with this source and nothing else."""
    module = ModuleType("alone")
    monkeypatch.setitem(sys.modules, "alone", module)
    exec(source, vars(module))
    return module


def test_the_source_is_what_the_class_uses_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(Probe)
    module = alone(monkeypatch, source)
    assert {"Probe", "Base", "ProbeConfig", "scaled", "SCALE"} <= set(vars(module))
    assert {"UNUSED", "SETTINGS", "cells", "pytest", "helper", "partial"}.isdisjoint(vars(module))
    assert source.startswith("from __future__ import annotations\n")
    adaptrec.check_method(module.Probe)


def test_of_several_definitions_in_a_notebook_the_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = cells(
        monkeypatch,
        "def factor(): return 1",
        "class Mine:\n    value = factor()\n    def get(self): return later()",
        "raise_nothing = print",
        "def factor(): return 2\ndef later(): return Mine",  # after the class, and the two use each other
    )
    vars(notebook)["_ih"].append("a cell with a mistake (")
    module = alone(monkeypatch, source_of(notebook.Mine))
    assert module.Mine.value == 2 and module.Mine().get() is module.Mine
    assert "raise_nothing" not in vars(module)


def test_what_other_processes_cannot_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inner(adaptrec.Method):
        """Inside a function."""

    with pytest.raises(adaptrec.UserError, match=r"^class Inner is defined inside test_what_other"):
        source_of(Inner)
    with pytest.raises(adaptrec.UserError, match=r"^Python does not know the source of class int"):
        source_of(int)
    notebook = cells(monkeypatch, "class Hidden:\n    def get(self): return made[0]")
    vars(notebook)["made"] = [1]
    with pytest.raises(adaptrec.UserError, match=r"^class Hidden uses 'made', which no statement"):
        source_of(notebook.Hidden)
    notebook = cells(monkeypatch, "import in_process\nclass Beside:\n    child = in_process.InProcess")
    with pytest.raises(adaptrec.UserError, match=r"uses the module 'in_process' in .*/tests, which other"):
        source_of(notebook.Beside)
    monkeypatch.setenv("PYTHONPATH", str(Path(helper.__file__).parent))
    assert "import in_process" in source_of(notebook.Beside)


@pytest.mark.usefixtures("in_process")
def test_a_class_runs_and_its_record_holds_its_source(folder: Path, tmp_path: Path) -> None:
    before = sys.path.copy(), os.environ.get("PYTHONPATH")
    run = adaptrec.run(folder, Probe, llm="random-tiny", results=tmp_path, bias=False, **SETTINGS)
    assert (sys.path, os.environ.get("PYTHONPATH")) == before and "probe" not in registry.names()
    source = run.record.method_source
    assert source["text"] == source_of(Probe) and source["external"]
    assert run.record.hyperparameters == {"bias": False} and run.record.method == "probe"
    assert run.record.llm_details["n_layers"] > 0
    table = adaptrec.bench(
        folder, methods=["id", Probe], llms="random-tiny", protocols="paper", results=tmp_path, show=False,
        **SETTINGS,
    )  # fmt: skip
    assert set(table.method.dropna()) == {"id", "probe"}
    assert re.fullmatch(r"given-class 0\+[0-9a-f]{8}", f"{source['distribution']} {source['version']}")


def test_names_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = cells(monkeypatch, "class Id:\n    pass")
    with pytest.raises(adaptrec.UserError, match=r"^methods: Id would be named 'id', which adaptrec has"):
        adaptrec.bench(folder, methods=[notebook.Id])
    with pytest.raises(adaptrec.UserError, match=r"^methods: 'probe' is there twice; rename a class"):
        adaptrec.bench(folder, methods=[Probe, "probe"])
    with pytest.raises(adaptrec.UserError, match=r"^methods: 3 is neither a name nor a class"):
        adaptrec.bench(folder, methods=[3])  # type: ignore[list-item]
    notebook = cells(monkeypatch, "class Empty:\n    pass")
    with pytest.raises(adaptrec.UserError, match=r"^method 'empty' from given-class cannot be used"):
        adaptrec.bench(folder, methods=[notebook.Empty])
    with pytest.raises(adaptrec.UserError, match=r"probe is a class of this process, and executor ray"):
        adaptrec.bench(folder, methods=[Probe], executor="ray")


@pytest.mark.parametrize("typo", [{"widht": 3}, {"bais": True}])
def test_a_typo_of_a_setting_is_the_line_of_the_command(
    folder: Path, typo: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    (pair,) = (f"{key}={value}" for key, value in typo.items())
    assert main(["bench", "--datasets", str(folder), "--methods", "id", "--set", pair]) == 2
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("adaptrec: error: ")
    with pytest.raises(adaptrec.UserError) as caught:
        adaptrec.bench(folder, methods="id", **typo)  # type: ignore[arg-type]
    assert str(caught.value) == line
    with pytest.raises(adaptrec.UserError) as caught:
        adaptrec.prepare(folder, methods="id", **typo)  # type: ignore[arg-type]
    assert str(caught.value) == line
    assert main(["prepare", "--dataset", str(folder), "--methods", "id", "--set", pair]) == 2
    assert line in capsys.readouterr().err


def test_a_typo_of_an_argument_is_named_as_such(folder: Path) -> None:
    with pytest.raises(
        adaptrec.UserError, match=r"^unknown argument of adaptrec.bench: 'dataset'. Did you mean"
    ):
        adaptrec.bench(dataset=folder, methods="id")  # type: ignore[arg-type]
    with pytest.raises(
        adaptrec.UserError, match=r"argument of adaptrec.run: 'protocols'. Did you mean 'protocol'"
    ):
        adaptrec.run(folder, "id", protocols="fair")  # type: ignore[arg-type]
    with pytest.raises(adaptrec.UserError, match="a seed must be a whole number, got '1'"):
        adaptrec.bench(folder, methods="id", seeds="1")  # type: ignore[arg-type]
