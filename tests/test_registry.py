"""Names of methods: built-in ones, those of other packages, and all that can be wrong with the latter."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from data_folders import BLINK
from method_packages import install

import methods
from benchmark import cli
from benchmark.run.spec import RunSpec, resolve_run
from methods import plugins, registry
from methods.base import Method, kinds
from methods.checks import check_method
from methods.declared import declared_config
from methods.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SOUND = '''
from torch import nn
from methods.base import Method


class Sound(Method):
    """Sound: one vector an item."""

    reads = "ids"

    def __init__(self, config, context):
        super().__init__(config, context)
        self.table = nn.Embedding(context.n_items, context.out_dim)

    def forward(self, items):
        return self.table(items.ids)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    registry.entries.cache_clear()
    plugins.warn.cache_clear()
    yield folder
    registry.entries.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def put(site: Path, distribution: str, point: str, target: str, **modules: str) -> None:
    install(site, distribution, {point: target}, modules)
    importlib.invalidate_caches()
    registry.entries.cache_clear()


def listing(capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["list", "methods"]) == 0
    return capsys.readouterr().out


def complaint(name: str) -> str:
    with pytest.raises(UserError) as caught:
        registry.get(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_built_in_names(site: Path) -> None:
    assert registry.names() == [*methods.BUILTIN, *methods.CONTROLS]
    for name in registry.names():
        entry = registry.entry(name)
        assert entry.summary and not entry.external and entry.distribution == "adaptrec"
        assert registry.load(name).__doc__.partition("\n")[0] == entry.summary  # type: ignore[union-attr]


def test_unknown_names_get_the_nearest(site: Path) -> None:
    assert re.match(r"unknown method 'snsa'. Did you mean 'ssna'\? Allowed: id, ", complaint("snsa"))


def test_an_outsider_is_listed_and_loaded(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(site, "sound-pkg", "sound", "sound_a : Sound [extra]", sound_a=SOUND)
    assert registry.names()[-1] == "sound"
    assert re.search(r"^sound +Sound: one vector an item. \[sound-pkg 1.0\]$", listing(capsys), re.M)
    assert "sound_a" not in sys.modules  # listing imports nothing
    check_method(registry.get("sound"))
    entry = registry.entry("sound")
    assert (entry.external, entry.distribution, entry.version) == (True, "sound-pkg", "1.0")


def test_a_built_in_name_cannot_be_taken(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(site, "sound-pkg", "tmoe", "sound_b:Sound", sound_b=SOUND)
    assert registry.get("tmoe") is registry.get("tmoe") and registry.get("tmoe").__name__ == "TMoE"
    message = capsys.readouterr().err
    assert "from sound-pkg" in message and "already taken by adaptrec (methods.tmoe:TMoE)" in message
    assert message.startswith("warning: method 'tmoe'") and message.count("\n") == 1
    assert registry.get("ssna").__name__ == "SSNA"  # the others go on
    assert "already taken" in complaint("tmoe (sound-pkg)")
    assert "already taken" not in capsys.readouterr().err
    text = listing(capsys)
    assert "TMoE: one mixture" in text and "tmoe (sound-pkg)" in text


def test_two_outsiders_with_one_name(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(site, "first-pkg", "sound", "sound_c:Sound", sound_c=SOUND)
    put(site, "second-pkg", "sound", "sound_d:Sound", sound_d=SOUND)
    message = complaint("sound")
    assert "first-pkg" in message and "second-pkg" in message
    assert "sound" not in registry.names()
    text = listing(capsys)
    assert "first-pkg 1.0" in text and "second-pkg 1.0" in text


def test_the_same_package_seen_twice_is_no_clash(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site, "sound-pkg", "sound", "sound_e:Sound", sound_e=SOUND)
    again = tmp_path / "again"
    install(again, "sound-pkg", {"sound": "sound_e:Sound"}, {})
    monkeypatch.syspath_prepend(str(again))
    registry.entries.cache_clear()
    assert registry.get("sound").__name__ == "Sound"


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        ("m_syntax:Sound", "class Sound(:\n", "SyntaxError"),
        ("m_name:Sound", "nonsense\n", "NameError: name 'nonsense' is not defined"),
        ("m_import:Sound", "import a_package_that_is_absent\n", "a_package_that_is_absent"),
        ("m_exit:Sound", "import sys; sys.exit(0)\n", "m_exit:Sound raised SystemExit: 0"),
        ("m_lines:Sound", "raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
        ("m_class:Sund", SOUND, "has no attribute 'Sund'"),
        ("m_object:Sound", "Sound = 3\n", "3 is not a subclass of methods.base.Method"),
        ("m_plain:Sound", "class Sound: reads = 'ids'\n", "is not a subclass of methods.base.Method"),
        (
            "m_reads:Sound",
            SOUND.replace('"ids"', '"text"'),
            "must be 'states', 'tokens' or 'ids', or a tuple of different ones of them, not",
        ),
        ("m_none:Sound", SOUND.replace('reads = "ids"', ""), "not None"),
        ("m_config:Sound", SOUND + "    Config = dict\n", "Config must be a frozen dataclass"),
        ("m_absent_module:Sound", None, "there is no module 'm_absent_module'"),
        ("m_package.part:Sound", None, "'m_package.part' cannot be found: ModuleNotFoundError"),
        ("no_colon", SOUND, "'no_colon' is not of the form module:Class"),
    ],
)
def test_broken_outsiders(
    site: Path, capsys: pytest.CaptureFixture[str], target: str, source: str | None, message: str
) -> None:
    modules = {} if source is None else {target.partition(":")[0]: source}
    put(site, "broken-pkg", "broken", target, **modules)
    assert message in complaint("broken")
    assert "broken-pkg" in complaint("broken")
    assert re.search(r"^broken .*\[broken-pkg 1.0\]$", listing(capsys), re.M)  # and `list` survives
    arguments = ["run", "--dataset", "tiny", "--llm", "random-tiny", "--method", "broken"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_package_that_breaks_when_looked_up(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "m_broken").mkdir()
    (site / "m_broken" / "__init__.py").write_text("1 / 0\n")
    put(site, "broken-pkg", "broken", "m_broken.part:Sound", **{"m_broken.part": SOUND})
    assert "ZeroDivisionError" in complaint("broken")
    assert "ssna" in listing(capsys)


@pytest.mark.parametrize("source", ["raise RuntimeError(1)\n", "import sys; sys.exit(0)\n"])
def test_a_broken_outsider_affects_no_other_method(
    site: Path, capsys: pytest.CaptureFixture[str], folder: Path, source: str
) -> None:
    module = f"m_{len(source)}"
    put(site, "broken-pkg", "broken", f"{module}:Sound", **{module: source})
    put(site, "sound-pkg", "sound", "sound_g:Sound", sound_g=SOUND)
    assert set(registry.chosen_names(None)) == {
        name for name in (*methods.BUILTIN, *methods.CONTROLS, "sound") if registry.load(name).by_default
    }
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert line.startswith("warning: method 'broken' from broken-pkg cannot be loaded") and not rest
    for name in methods.BUILTIN:
        assert resolve_run(RunSpec(str(folder), "random-tiny", name, "fair")).cls is registry.get(name)
    assert capsys.readouterr().err.count(module) == 0


def test_another_package_is_imported_only_for_a_name_that_no_built_in_method_has(
    site: Path, folder: Path
) -> None:
    put(site, "sound-pkg", "sound", "sound_h:Sound", sound_h=SOUND)
    resolve_run(RunSpec(str(folder), "random-tiny", "id", "fair"))
    assert "sound_h" not in sys.modules
    assert {"depth"} not in registry.hyperparameters()
    assert "sound_h" in sys.modules


def test_entry_points_that_cannot_be_read_affect_no_other_package(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(site, "sound-pkg", "sound", "sound_i:Sound", sound_i=SOUND)
    install(site, "torn-pkg", {}, {})
    (torn,) = site.glob("torn*")
    (torn / "entry_points.txt").write_text("[adaptrec.methods]\nno equals sign\n")
    registry.entries.cache_clear()
    assert registry.names()[-1] == "sound"
    assert "the entry points of torn-pkg cannot be read" in capsys.readouterr().err
    assert "ssna" in listing(capsys)


def test_a_package_that_is_installed_or_removed_while_a_process_runs(site: Path) -> None:
    assert [point.name for point in plugins.offered("a.group")] == []
    install(site, "first-pkg", {"first": "a:B"}, {}, group="a.group")
    assert [point.name for point in plugins.offered("a.group")] == ["first"]
    install(site, "second-pkg", {"second": "a:B"}, {}, group="a.group")
    assert [point.name for point in plugins.offered("a.group")] == ["first", "second"]
    (first,) = site.glob("first*")
    shutil.rmtree(first)
    assert [point.name for point in plugins.offered("a.group")] == ["second"]


def test_a_name_that_cannot_be_typed_or_be_a_folder(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(site, "sound-pkg", "../sound", "sound_f:Sound", sound_f=SOUND)
    assert "letters, digits" in complaint("../sound")
    assert "sound-pkg" in listing(capsys)


# --- What `list methods` shows ---------------------------------------------------------------------------


def test_what_methods_read_is_known_without_importing_them() -> None:
    for name, entry in registry.entries().items():
        if not entry.external:
            cls = registry.load(name)
            assert entry.reads == kinds(cls) and entry.trains is issubclass(cls, Method)


def test_methods_are_listed_by_what_they_read_and_with_a_year(capsys: pytest.CaptureFixture[str]) -> None:
    groups = dict(part.split(":\n", 1) for part in listing(capsys).rstrip().split("\n\n"))
    controls = groups.pop("Controls, which do not train").splitlines()
    assert [line.split()[0] for line in controls] == list(methods.CONTROLS)
    rows = [line for lines in groups.values() for line in lines.splitlines()]
    assert sorted(row.split()[0] for row in rows) == sorted(methods.BUILTIN)
    assert [row for row in rows if not re.search(r"\b20[012]\d\b", row)] == []
    assert "tmoe" in groups["Methods that read hidden states of the frozen language model, computed once"]


def test_a_grid_without_methods_runs_those_that_the_list_does_not_mark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [line for line in listing(capsys).splitlines() if line and not line.endswith(":")]
    unmarked = {line.split()[0] for line in rows if not line.endswith(" (not by default)")}
    assert set(registry.chosen_names(None)) == set(registry.chosen_names([])) == unmarked
    assert {"ssna", "lora", "blend"} <= unmarked and not {"peft", "iisan"} & unmarked
    assert registry.chosen_names(["all"]) == registry.names() and len(rows) == len(registry.names())
    assert registry.chosen_names(["iisan", "id"]) == ["iisan", "id"]


def test_a_method_of_another_package_cannot_be_called_all(site: Path) -> None:
    put(site, "sound-pkg", "all", "sound_j:Sound", sound_j=SOUND)
    assert "the name 'all' means every method" in complaint("all")


def test_a_method_of_a_subclass_elsewhere_is_in_the_group_of_its_base(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = '"""x"""\nfrom methods.ssna import TopLayers as Base\nclass Own(Base):\n    """Own (2026)."""\n'
    put(site, "own-pkg", "own", "own_again:Own", own_class=source, own_again="from own_class import Own\n")
    entry = registry.entries()["own"]
    assert entry.reads == ("states",) and entry.trains and entry.summary == "Own (2026)."
    assert "own_class" not in sys.modules and "own_again" not in sys.modules


# --- The example of CONTRIBUTING.md ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's files, installed as its pyproject.toml says."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", text, re.M | re.S)
    files = dict(blocks)
    assert set(files) == {"layermix.py", "pyproject.toml", "test_layermix.py"}
    project = tomllib.loads(files["pyproject.toml"])
    own = project["project"]
    folder = tmp_path_factory.mktemp("layermix")
    modules = {name: files[f"{name}.py"] for name in project["tool"]["setuptools"]["py-modules"]}
    install(folder, own["name"], own["entry-points"][registry.GROUP], modules, own["version"])
    (folder / "test_layermix.py").write_text(files["test_layermix.py"], encoding="utf-8")
    return folder


def test_the_example_passes_its_own_test(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example))
    assert pytest.main(["-q", "-p", "no:cacheprovider", str(example / "test_layermix.py")]) == 0


def test_the_example_is_listed_and_runs_to_a_record(
    example: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(example))
    registry.entries.cache_clear()
    try:
        summary = "layermix: a learned mixture of the top layers, then one linear map."
        listed = rf"^layermix +{re.escape(summary)} \[adaptrec-layermix 0.1.0\]$"
        assert re.search(listed, listing(capsys), re.M)
        command = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", "layermix"]
        more = ["--epochs", "1", "--set", "depth=1", *BLINK, "--results", str(tmp_path)]
        assert cli.main([*command, *more]) == 0
    finally:
        registry.entries.cache_clear()
    record = json.loads(Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8"))
    assert record["status"] == "ok" and record["method"] == "layermix"
    assert record["method_source"] == {
        "distribution": "adaptrec-layermix", "version": "0.1.0", "external": True,
        "code": record["method_source"]["code"], "reads": ["states"],
        "text": (example / "layermix.py").read_text(encoding="utf-8"),
    }  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{16}", record["method_source"]["code"])
    assert record["hyperparameters"] == {"depth": 1}
    assert record["epochs_run"] == 1


def test_the_example_as_a_built_in_method(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one line."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(example)])
    monkeypatch.setitem(methods.BUILTIN, "layermix", "methods.layermix:LayerMix")
    registry.entries.cache_clear()
    try:
        assert "layermix" in registry.names()
        check_method(registry.get("layermix"))
        assert not registry.entry("layermix").external
    finally:
        registry.entries.cache_clear()
        sys.modules.pop("methods.layermix", None)


@pytest.mark.parametrize("name", [*methods.BUILTIN, *methods.CONTROLS])
def test_what_a_class_declares_is_read_without_importing_it(name: str) -> None:
    own: Any = registry.load(name).Config
    read: Any = declared_config({**methods.BUILTIN, **methods.CONTROLS}[name])
    known, found = ({field.name: field for field in fields(cls)} for cls in (own, read))
    assert known.keys() == found.keys()
    for field_name, field in known.items():
        assert found[field_name].default == field.default
        assert found[field_name].metadata == field.metadata
