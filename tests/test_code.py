"""Edited code of a method: what counts as an edit, and that its runs are made again."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_folders import BLINK

from benchmark.cli import main
from benchmark.results.record import read_record
from benchmark.results.store import finished
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train.checkpoint import Checkpoint
from methods import code, registry
from methods.base import Method
from methods.code import canonical, code_digest
from methods.earlier_code import EARLIER, same_effect

PLAIN = '''
"""Of a module."""
import math
class A(B, metaclass=M):
    """Of a class."""
    x: int = 1
    """Of a field."""
    def f(self, a, /, b=-2.5, *c, d=None, **e):
        """Of a function."""
        # a comment
        with open(f"{a!r:>{b}} {'x'}") as g, h:
            return [*c, {**e, "k": (a if not b else ...)}, lambda: (yield), b"\\xff", 1j, "\\u00e9"]
    async def g(self): pass
'''
SAME = """
import math

class A(
    B, metaclass=M,
):
    x: int = (1)

    def f(self, a, /, b = -2.5, *c, d = None, **e):
        with open(f'{a!r:>{b}} {"x"}') as g, h:  # another comment
            return [*c, {**e, 'k': (a if not b else ...)}, lambda: (yield), b'\\xff', 1j, 'é']

    async def g(self):
        '''Says something.'''
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `edited` with a method; what is imported from it is forgotten afterwards."""
    files = {
        "__init__.py": "x = 1\n",
        "method.py": (
            "from torch import nn\nfrom methods.base import Method\nfrom .parts import scale\n"
            "class Edited(Method):\n    reads = 'ids'\n"
            "    def forward(self, items):\n        from edited.lazy.late import shift\n"
            "        return scale + shift\n"
        ),
        "parts.py": "import edited.third as third\nfrom edited import inner\nscale = 1\n",
        "third.py": "y = 1\n",
        "inner.py": "z = 1\n",
        "lazy/__init__.py": "raise RuntimeError('nothing is imported for a digest')\n",
        "lazy/late.py": "shift = 1\n",
        "other.py": "w = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "edited" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "edited"
    for name in [name for name in sys.modules if name.partition(".")[0] == "edited"]:
        del sys.modules[name]
    forget()


def forget() -> None:
    code.read_module.cache_clear()


def digest() -> str | None:
    forget()
    return code_digest(importlib.import_module("edited.method").Edited)


def test_the_canonical_form_is_that_of_the_code_alone_in_every_version_of_python() -> None:
    assert canonical(PLAIN) == canonical(SAME)
    digest_of_plain = hashlib.sha256(canonical(PLAIN)).hexdigest()
    assert digest_of_plain[:16] == "852a5bd0e13b0131"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = 'None'"),
        ("f(a, b)", "f(a)(b)"),
        ("f(a, [b])", "f(a, b)"),
        ("def f(a, *, b=1): return 2", "def f(a, b=1): return 2"),
        ("{**a, 'b': c}", "{'b': c, **a}"),
        ("x = -y", "x = +y"),
        ("from . import a", "from .. import a"),
        ("if a:\n b()\n c()", "if a:\n b()\nc()"),
        ("x = 'Str(['", "x = ['Str(']"),
    ],
)
def test_other_code_has_another_canonical_form(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("method.py", True),
        ("parts.py", True),
        ("third.py", True),
        ("inner.py", True),
        ("lazy/late.py", True),
        ("__init__.py", False),  # nothing is taken from it
        ("other.py", False),
    ],
)
def test_an_edit_counts_in_all_that_the_method_imports_of_its_package(
    package: Path, file: str, counts: bool
) -> None:
    before, path = digest(), package / file
    text = path.read_text(encoding="utf-8")
    assert before is not None
    path.write_text(f'"""Says something."""\n{text}\n\n# a comment\n', encoding="utf-8")
    assert digest() == before
    path.write_text(text.replace("1", "2"), encoding="utf-8")
    if file == "method.py":
        path.write_text(text.replace("+ shift", "- shift"), encoding="utf-8")
    assert (digest() != before) == counts


def test_what_a_method_imports_from_this_project_counts(package: Path) -> None:
    """Not the libraries that this imports in turn."""
    before, read = digest(), code.read_module
    modules = []

    def with_edited_pooling(name: str) -> tuple[bytes, tuple[str, ...]] | None:
        modules.append(name)
        module = read(name)
        return (b"edited", module[1]) if module and name == "methods.pooling" else module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "read_module", with_edited_pooling)
        assert code_digest(importlib.import_module("edited.method").Edited) != before
    assert {"edited.third", "methods.base", "methods.pooling"} <= set(modules)
    assert not any(name.startswith("torch") for name in modules)


def test_methods_of_other_files_have_other_digests() -> None:
    digests = {name: code_digest(registry.load(name)) for name in registry.names()}
    assert None not in digests.values()
    assert len(set(digests.values())) == len({registry.load(name).__module__ for name in digests})


def test_a_class_of_no_file_has_no_digest() -> None:
    space: dict[str, object] = {"__name__": "typed_by_hand", "Method": Method}
    exec("class Typed(Method): reads = 'ids'", space)
    made = space["Typed"]
    assert isinstance(made, type) and code_digest(made) is None


# --- What a run does with it -----------------------------------------------------------------------------


def command(name: str, folder: Path, results: Path) -> list[str]:
    plural = "s" if name == "bench" else ""
    flags = [f"--{flag}{plural}" for flag in ("dataset", "method", "seed")]
    values = [str(folder), "id", "0"]
    asked = [part for pair in zip(flags, values, strict=True) for part in pair]
    protocol = [f"--protocol{plural}", "paper"]
    return [name, *asked, *protocol, "--epochs", "1", "--results", str(results), "--set", *BLINK]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["run", "bench"])
def test_a_record_of_other_code_is_replaced(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(command("run", folder, tmp_path)) == 0
    path = Path(capsys.readouterr().out.strip())
    own = read_record(path).method_source["code"]
    assert own == code_digest(registry.get("id"))

    def edit(digest: str | None) -> None:
        text = json.loads(path.read_text(encoding="utf-8"))
        text["method_source"]["code"] = digest
        if digest is None:
            del text["method_source"]["code"]
        text.pop("checksum", None)
        path.write_text(json.dumps(text), encoding="utf-8")

    edit("0123456789abcdef")
    assert finished(path, own) is None
    if name == "bench":
        assert main([*command("bench", folder, tmp_path), "--dry-run"]) == 0
        assert "0 finished, 0 to resume, 1 to do" in capsys.readouterr().out
    assert main(command(name, folder, tmp_path)) == 0
    output = capsys.readouterr().err
    assert output.count("other code of") == 1 and "finished already" not in output
    assert "run again" in next(line for line in output.splitlines() if "other code of" in line)
    assert read_record(path).method_source["code"] == own
    for digest in (own, None):  # of before there was a digest
        edit(digest)
        assert main(command(name, folder, tmp_path)) == 0
        assert "finished already" in capsys.readouterr().err


def test_earlier_code_of_the_same_effect_counts_for_today_alone() -> None:
    now = {code_digest(registry.load(name)) for name in registry.names()}
    assert set(EARLIER) <= now, "methods/earlier_code.py has a digest of code that is no longer there"
    assert not {digest for earlier in EARLIER.values() for digest in earlier} & now
    today, (earlier, *_) = next(iter(EARLIER.items()))
    assert same_effect(today, today) and same_effect(earlier, today)
    assert same_effect(f"{earlier}+{today}", f"{today}+{today}")
    assert not same_effect(today, earlier) and not same_effect(earlier, f"{today}+{today}")
    assert not same_effect("0123456789abcdef", today)


def test_a_checkpoint_of_other_code_is_not_gone_on_from(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(identity: str) -> None:
        model = torch.nn.Linear(1, 1)
        state = {"weights": model.state_dict(), "optimiser": {}, "progress": {"epoch": 3, "best_epoch": 3}}
        Checkpoint(tmp_path, identity).save(state, 3, None)

    resolved = resolve_run(RunSpec(str(folder), "none", "id"))
    own = Checkpoint(tmp_path, resolved.identity)
    assert resolved.code is not None and resolved.code in resolved.identity
    save(resolved.identity)
    assert own.epochs_done() == 3 and own.load(torch.nn.Linear(1, 1)) is not None
    save(resolved.identity.replace(resolved.code, "0123456789abcdef"))
    assert own.epochs_done() == 0 and own.load(torch.nn.Linear(1, 1)) is None
    assert "training starts anew" in capsys.readouterr().err
    assert Checkpoint(tmp_path).epochs_done() == 3  # asked for by no run
