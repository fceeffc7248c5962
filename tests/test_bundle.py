"""Bundles: good ones reach their level, and every other file is refused with a line that names its fault."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forged import Fields, Forge, column
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.cli import main
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify import arithmetic, form, scores, truth
from benchmark.verify import format as bundle_format
from benchmark.verify.archive import write_archive
from benchmark.verify.bundle import make_bundle
from benchmark.verify.levels import Verdict, verify

ROOT = Path(__file__).resolve().parents[1]
ALL_CHECKS = (
    *form.CHECKS,
    *arithmetic.CHECKS,
    *arithmetic.ACROSS,
    truth.at_hand,
    *truth.CHECKS,
    *scores.CHECKS,
)
COMMITTED = sorted((ROOT / "results/scientific/minilm/tmlp").glob("*.json"))
SMALL = ("epochs=3", "patience=0", "width=8", "sasrec_inner=8", "precision=no")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    """A bundle of a small trained run on a planted set, with lists."""
    folder = tmp_path_factory.mktemp("bundle")
    path, record = run(RunSpec("tiny", "none", "id", "fair", 0, SMALL), folder / "results")
    assert record.status == "ok"
    make_bundle([path], folder / "good.adaptrec.zip")
    return folder / "good.adaptrec.zip"


def verdict(content: bytes, folder: Path, level: str = "L2") -> Verdict:
    path = folder / "x.adaptrec.zip"
    path.write_bytes(content)
    return verify(path, level)


def test_committed_records_reach_l2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tmlp.adaptrec.zip"
    assert main(["bundle", *map(str, COMMITTED), "-o", str(out)]) == 0
    digest = capsys.readouterr().out.split()[-1]
    first = out.read_bytes()
    assert main(["verify", str(out)]) == 0
    shown = capsys.readouterr().out
    assert digest in shown and f"{len(COMMITTED)} runs" in shown and "FAILED" not in shown
    assert shown.endswith("level reached: L2\n")
    with zipfile.ZipFile(out) as archive:  # any program can read it
        assert archive.testzip() is None
        for path in COMMITTED:
            assert archive.read(f"runs/scientific/minilm/tmlp/{path.name}") == path.read_bytes()
    make_bundle([*reversed(COMMITTED)], out)
    assert out.read_bytes() == first


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    block = page.split("<!-- example -->\n```sh\n")[1].split("```")[0]
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        program, *words = line.split()
        assert program == "adaptrec"
        assert main([path for word in words for path in (sorted(map(str, Path().glob(word))) or [word])]) == 0
    assert capsys.readouterr().out.endswith("level reached: L2\n")


def test_the_page_lists_every_check() -> None:
    page = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines(keepends=True) if line.startswith("| `"))
    assert [check.__name__ for check in ALL_CHECKS if f"`{check.__name__}`" not in table] == []


def test_every_committed_kind_of_record_reaches_l2(tmp_path: Path) -> None:
    """One of each dataset, method and protocol: mixtures, controls, searches, both versions of ranks."""
    kinds: dict[Any, Path] = {}
    for path in sorted((ROOT / "results").glob("*/*/*/*-s*.json")):
        fields = json.loads(path.read_bytes())
        kinds.setdefault((path.parent, fields["protocol"], bool(fields.get("fusion"))), path)
    made = make_bundle([*kinds.values()], tmp_path / "all.adaptrec.zip")
    assert made.reached == "L2" and made.runs == len(kinds) > 30


def test_a_failed_level_is_the_exit_status(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.adaptrec.zip"
    bad.write_bytes(Forge.of(good).edit(lambda fields: fields.update(trials=9)).packed())
    assert main(["verify", str(bad)]) == 1
    shown = capsys.readouterr().out
    assert "FAILED  trials" in shown and shown.endswith("level reached: L1\n")
    assert main(["verify", "--level", "L1", str(bad)]) == 0
    assert main(["verify", str(tmp_path / "none.zip")]) == 2
    assert main(["verify", str(bad), "--level", "L9"]) == 2
    assert "`adaptrec challenge BUNDLE" in error_of(["verify", str(bad), "--level", "L5"])


def test_verify_imports_no_torch_and_no_other_package(good: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom benchmark.verify.levels import verify\n"
        f"assert verify(Path({str(good)!r}), 'L2').reached == 'L2'\n"
        "print(*sorted({'torch', 'transformers', 'methods.registry'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_records_that_would_not_verify_are_no_bundle(tmp_path: Path, good: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        archive.extractall(tmp_path)
    (record,) = tmp_path.glob("runs/*/*/*/*.json")
    out = tmp_path / "x.adaptrec.zip"
    for words, message in (
        ([str(record), "-o", str(tmp_path / "x.zip")], "must have a name that ends in .adaptrec.zip"),
        ([str(record), str(record), "-o", str(out)], "given twice"),
        ([str(tmp_path / "no.json"), "-o", str(out)], "there is no record"),
    ):
        assert error_of(["bundle", *words]).count(message) == 1
    forged = Forge.of(good).edit(lambda fields: fields["curve"][0].update(train_seconds=-1.0))
    record.write_bytes(forged.files[forged.name(".json")])
    assert "would not reach level L2" in error_of(["bundle", str(record), "-o", str(out)])
    assert not out.exists()


def error_of(words: list[str]) -> str:
    out, kept = io.StringIO(), sys.stderr
    sys.stderr = out
    try:
        assert main(words) == 2
    finally:
        sys.stderr = kept
    assert out.getvalue().count("\n") == 1
    return out.getvalue()


def set_to(*path: Any, value: Any) -> Callable[[Fields], None]:
    """A change of one field of a record."""

    def change(fields: Any) -> None:
        for part in path[:-1]:
            fields = fields[part]
        fields[path[-1]] = value

    return change


def edited(*path: Any, value: Any) -> Callable[[Forge], bytes]:
    return lambda forge: forge.edit(set_to(*path, value=value)).packed()


def ranks(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Forge], bytes]:
    return lambda forge: forge.table(".ranks.parquet", column(name, change)).packed()


def lists(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Forge], bytes]:
    return lambda forge: forge.table(".top.parquet", column(name, change)).packed()


def member(name: str, content: bytes = b"{}") -> Callable[[Forge], bytes]:
    return lambda forge: forge.zipped((zipfile.ZipInfo(name), content))


def flipped(ending: str) -> Callable[[Forge], bytes]:
    """One bit of a file, under the digests of the manifest."""

    def change(forge: Forge) -> bytes:
        manifest, name = forge.manifest(), forge.name(ending)
        content = bytearray(forge.files[name])
        content[len(content) // 2] ^= 1
        forge.files[name] = bytes(content)
        return forge.packed(manifest)

    return change


def symlink(forge: Forge) -> bytes:
    link = zipfile.ZipInfo("runs/tiny/none/id/000000000000-s0.json")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return forge.zipped((link, b"/etc/passwd"))


def encrypted(forge: Forge) -> bytes:
    content = bytearray(forge.packed())
    at = content.index(b"PK\1\2")
    content[at + 8] |= 1
    return bytes(content)


def bomb(forge: Forge) -> bytes:
    grows = zipfile.ZipInfo("runs/tiny/none/id/000000000000-s0.json")
    grows.compress_type = zipfile.ZIP_DEFLATED
    return forge.zipped((grows, bytes(2**22)))


def zip64(forge: Forge) -> bytes:
    """The end names a small directory, and the locator before it one of any size."""
    packed = forge.packed()
    return packed[:-22] + b"PK\6\7" + bytes(16) + packed[-22:]


def best_by_test(forge: Forge) -> bytes:
    """The forger tests every epoch, keeps the one that was best on test, and makes the rest follow."""

    def change(fields: Fields) -> None:
        other = next(point for point in fields["curve"] if point["epoch"] != fields["best_epoch"])
        other["selection"] = other["valid"]["recall@10"] = 0.0
        fields["best_epoch"] = other["epoch"]
        fields["metrics"]["valid"], fields["metrics"]["valid_masked"] = other["valid"], other["valid_masked"]

    return forge.edit(change).packed()


def other_split(forge: Forge) -> bytes:
    return forge.edit(lambda fields: fields["metrics"].update(test=fields["metrics"]["test_masked"])).packed()


def swapped_users(forge: Forge) -> bytes:
    """The ranks are given to other users, so that the metrics stay as they are."""
    return ranks("user", lambda values: [*reversed(values)])(forge)


def many_rows(table: pa.Table) -> pa.Table:
    rows = bundle_format.MOST_TARGETS + 1
    return pa.table({"user": pa.array([0], pa.int32()).take(pa.nulls(rows, pa.int32()).fill_null(0))})


def nested(forge: Forge) -> bytes:
    return forge.edit(set_to("extra", value={"a": deep(40)})).packed()


def deep(levels: int) -> Any:
    return [] if levels == 0 else [deep(levels - 1)]


def unlisted(forge: Forge) -> bytes:
    manifest = forge.manifest()
    forge.files["sources/id/extra.py"] = b"print(1)\n"
    return forge.packed(manifest)


def without(ending: str) -> Callable[[Forge], bytes]:
    def change(forge: Forge) -> bytes:
        del forge.files[forge.name(ending)]
        return forge.packed()

    return change


def with_file(name: str, content: bytes) -> Callable[[Forge], bytes]:
    def change(forge: Forge) -> bytes:
        forge.files[name] = content
        return forge.packed()

    return change


def missing(forge: Forge) -> bytes:
    manifest = forge.manifest()
    del forge.files[forge.name(".top.parquet")]
    return forge.packed(manifest)


def respelt(forge: Forge) -> bytes:
    return forge.packed(json.dumps(json.loads(forge.manifest())).encode())


def versioned(**fields: Any) -> Callable[[Forge], bytes]:
    return lambda forge: forge.packed(forge.manifest(**fields))


def no_manifest(forge: Forge) -> bytes:
    out = io.BytesIO()
    write_archive(out, forge.files)
    return out.getvalue()


BAD: dict[str, tuple[Callable[[Forge], bytes], str]] = {
    "no zip": (lambda forge: b"PK" + bytes(99), "does not end as a zip archive does"),
    "empty": (lambda forge: b"", "does not end as a zip archive does"),
    "truncated": (lambda forge: forge.packed()[:-100], "does not end as a zip archive does"),
    "cut in front": (lambda forge: forge.packed()[100:], "its directory lies beyond its end"),
    "bytes in front": (lambda forge: b"#!/bin/sh\n" + forge.packed(), "byte 0 of the archive"),
    "another program's zip": (lambda forge: forge.zipped(), "outside its files"),
    "a bit of the record": (flipped("s0.json"), "s0.json' does not match its SHA-256"),
    "a bit of the ranks": (flipped(".ranks.parquet"), "ranks.parquet' does not match its SHA-256"),
    "a bit of the lists": (flipped(".top.parquet"), "top.parquet' does not match its SHA-256"),
    "a path that leads out": (member("runs/../../etc/cron.d/x.json"), "leads out of the archive by '..'"),
    "an absolute path": (member("/etc/passwd"), "has an absolute path"),
    "a drive": (member("C:/x.json"), "'C:/x.json' has an absolute path"),
    "a backslash": (member("runs\\x.json"), "has a backslash"),
    "a folder": (member("runs/tiny/", b""), "is a folder"),
    "another spelling": (member("runs//x.json"), "in more than one spelling"),
    "a long name": (member("runs/" + "x" * 500 + ".json"), "name of more than 400 bytes"),
    "a program": (member("setup.py"), "is none of the files that a bundle has"),
    "HTML in a member's name": (member("runs/<b>/none/id/000000000000-s0.json"), "<b>/none/id"),
    "a symbolic link": (symlink, "is a symbolic link"),
    "an encrypted member": (encrypted, "is encrypted"),
    "a zip bomb": (bomb, "claims to grow from"),
    "a zip64 directory": (zip64, "it is a zip64 archive"),
    "compressed": (lambda forge: forge.zipped(compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a member twice": (member("manifest.json"), "'manifest.json' is there twice"),
    "no manifest": (no_manifest, "it has no manifest.json"),
    "another format": (versioned(format="model card"), "does not say that this is"),
    "a format version of the future": (versioned(version=2), "format version '2', which is unknown"),
    "a manifest that is no JSON": (lambda forge: forge.packed(b"{"), "manifest.json is no JSON"),
    "a manifest in another spelling": (respelt, "manifest.json is not spelt"),
    "a manifest of nothing": (versioned(files=[]), "manifest.json does not list"),
    "a file that is not listed": (unlisted, "does not list 'sources/id/extra.py'"),
    "a file that is missing": (missing, "top.parquet', which is missing"),
    "NaN": (lambda forge: forge.text('"seed": 0', '"seed": NaN').packed(), "has NaN, which is no number"),
    "infinity": (
        lambda forge: forge.text('"seed": 0', '"seed": 1e999').packed(), "'1e999', which is infinite",
    ),
    "an endless number": (
        lambda forge: forge.text('"seed": 0', f'"seed": {"9" * 99}').packed(), "more than 18 digits",
    ),
    "a field twice": (
        lambda forge: forge.text('"seed": 0', '"seed": 0, "seed": 1').packed(), "has the field 'seed' twice",
    ),
    "deeply nested": (nested, "more than 32 levels deep"),
    "nested beyond the stack": (
        lambda forge: forge.text('"seed": 0', f'"seed": {"[" * 100_000}').packed(), "levels deep",
    ),
    "bytes that are no text": (
        lambda forge: with_file(forge.name(".json"), b"{\xff}")(forge), "is no UTF-8 text, from byte 1",
    ),
    "an unknown field": (edited("trust_me", value=True), "trust_me: Extra inputs are not permitted"),
    "an unknown setting": (edited("settings", "cheat", value=1), "settings has the unknown field 'cheat'"),
    "a schema of the future": (edited("schema_version", value=3), "schema_version: 3 is unknown"),
    "a run that failed": (edited("status", value="failed"), "its status is failed"),
    "another dataset's record": (edited("dataset", value="beauty"), "its record is that of 'beauty/none/id"),
    "another seed": (edited("seed", value=1), "-s1'"),
    "no counts": (edited("data", "fingerprint", "items", value=None), "how many items there are"),
    "HTML in a name": (edited("llm_details", value={"name": "<script>"}), "'<script>' has '<'"),
    "LaTeX in a name": (edited("method_source", "version", value=r"\input{x}"), "has '\\\\'"),
    "Markdown in a name": (edited("overrides", value=["a=[x](y)"]), "has '['"),
    "a terminal escape in a name": (edited("llm_details", value={"name": "\x1b[2J"}), r"has '\x1b'"),
    "HTML in a hash": (edited("protocol_hash", value="<b>"), "'protocol_hash' is '<b>', which is no hash"),
    "HTML in a device": (edited("environment", "device_name", value="<i>"), "which is no name of a device"),
    "HTML in a version": (edited("environment", "packages", "numpy", value="<s>"), "which is no version"),
    "HTML in a package": (
        edited("environment", "packages", value={"<u>": "1"}), "'<u>', which is no name of a package",
    ),
    "a commit that is none": (edited("environment", "git_commit", value="HEAD"), "which is no commit"),
    "HTML in a fact": (edited("data", "fingerprint", "<hr>", value=1), "'<hr>' has '<'"),
    "HTML in a method's fact": (edited("extra", value={"a": [{"b": "<p>"}]}), "'extra.a.b' is no plain"),
    "a terminal escape in a note": (
        edited("data", "recipe", "notes", value=["\x1b[2J"]), "'data.recipe.notes' is no plain text",
    ),
    "another direction of writing": (
        edited("environment", "platform", value="\u202exunil"), "'environment.platform' is no plain text",
    ),
    "an endless text": (edited("environment", "platform", value="x" * 2_001), "has 2,001 characters"),
    "a reason to stop": (edited("stopped", value="bored"), "'bored', which is no reason to stop"),
    "a digest that is none": (edited("liveness", "frozen_digest", value="0"), "'0', which is no SHA-256"),
    "no ranks": (without(".ranks.parquet"), "its ranks are missing"),
    "no lists": (without(".top.parquet"), "its lists are missing"),
    "source of no method": (with_file("sources/id/id.py", b"x = 1\n"), "belongs to no run"),
    "ranks that are no table": (
        lambda forge: with_file(forge.name(".ranks.parquet"), b"PAR1")(forge),
        "its ranks are no Parquet table",
    ),
    "a table that grows": (
        lambda forge: forge.table(".ranks.parquet", many_rows).packed(), "10,000,001 rows",
    ),
    "ranks of fewer users": (
        lambda forge: forge.table(".ranks.parquet", lambda table: table.slice(1)).packed(), "have 399 rows",
    ),
    "a column of text": (
        lambda forge: forge.table(
            ".ranks.parquet", lambda table: table.set_column(1, "rank", pa.array(["x"] * len(table)))
        ).packed(), "no plain numbers in column 'rank'",
    ),
    "an unknown column": (
        lambda forge: forge.table(
            ".ranks.parquet", lambda table: table.append_column("note", table["user"])
        ).packed(), "the unknown column 'note'",
    ),
    "an edited record": (
        lambda forge: forge.text('"trials": 1', '"trials": 2').packed(), "does not match its own checksum",
    ),
    "ranks of another run": (edited("ranks_sha256", value="0" * 64), "its ranks are not the file"),
    "a user twice": (ranks("user", lambda values: [values[1], *values[1:]]), "does not have each user once"),
    "a user that is not": (ranks("user", lambda values: [*values[:-1], 400]), "are of a user 400"),
    "ranks beyond the catalogue": (ranks("rank", lambda values: [301, *values[1:]]), "in a catalogue of 300"),
    "a rank of zero": (ranks("rank_masked", lambda values: [0, *values[1:]]), "a rank of test_masked is 0"),
    "no tie with itself": (ranks("tied", lambda values: [0, *values[1:]]), "ties with 0 items"),
    "masked above raw": (ranks("rank", lambda values: [1] * len(values)), "a masked rank is above the raw"),
    "an edited metric": (edited("metrics", "test", "ndcg@10", value=0.9), "test ndcg@10 is 0.9, and"),
    "a metric edited by 1e-11": (
        lambda forge: edited("metrics", "test", "recall@50",
                             value=forge.record["metrics"]["test"]["recall@50"] + 1e-11)(forge),
        "test recall@50 is",
    ),
    "a metric of another split": (other_split, "its metrics of test are those of test_masked"),
    "epoch selected on test": (best_by_test, "and the best by validation is epoch"),
    "an epoch left out": (lambda forge: forge.edit(lambda f: f["curve"].pop(1)).packed(), "3 epochs once"),
    "a selection that is no metric": (edited("curve", 0, "selection", value=0.99), "was selected by 0.99"),
    "selected by a plug-in": (edited("settings", "select_by", value="mine@10"), "no metric of this project"),
    "stopped for no reason": (edited("stopped", value=None), "it stopped after 3 epochs by 'nothing'"),
    "stopped for another reason": (edited("stopped", value="patience"), "end it by epochs after epoch 3"),
    "stopped early": (edited("settings", "epochs", value=9), "epochs='9' go on after epoch 3"),
    "trials that are not described": (edited("trials", value=12), "counts 12 trials and describes 1"),
    "created in the future": (edited("created", value="2100-01-01T00:00:00+00:00"), "in the future"),
    "created before the project": (edited("created", value="1999-01-01T00:00:00+00:00"), "began before 2026"),
    "created at no time": (edited("created", value="yesterday"), "which is no time"),
    "an epoch in no time": (edited("curve", 1, "train_seconds", value=0.0), "epoch 2 took no time"),
    "seconds that are no sum": (edited("cost", "train_seconds", value=1e-3), "its train_seconds are 0.001"),
    "seconds that are no median": (edited("cost", "epoch_seconds", value=1e-3), "its epoch_seconds are"),
    "validation in no time": (edited("cost", "eval_seconds", value=1e-4), "its eval_seconds are 0.0001, and"),
    "a generation of the future": (edited("generation", value=999), "of generation 999 of the harness"),
    "an invented hyper-parameter": (
        edited("hyperparameters", "cheat", value=1), "the hyper-parameter 'cheat', which 'id' does not have",
    ),
    "a setting that is not stated": (
        lambda forge: forge.edit(lambda f: f["settings"].pop("samples")).packed(),
        "does not state its setting 'samples'",
    ),
    "a setting out of its range": (edited("settings", "temperature", value=-1), "=-1 is not valid"),
    "a setting in another spelling": (edited("settings", "width", value="8"), "the harness writes as '8'"),
    "an invented protocol": (edited("protocol", value="fairest"), "its protocol 'fairest' is none of"),
    "a protocol of controls": (edited("protocol", value="none"), "is of a control, which has no epochs, and"),
    "an override of nothing": (edited("overrides", value=["cheat=1"]), "overrides 'cheat', which 'id' does"),
    "an override that did not happen": (
        edited("overrides", value=["width=64"]), "overrides 'width' with '64', and its value is '8'",
    ),
    "a method of another package that is ours": (
        edited("method_source", "external", value=True), "and 'id' is one of this project",
    ),
    "other settings under the protocol hash": (
        edited("settings", "window", value=49), "and its settings give",
    ),
    "another protocol hash": (edited("protocol_hash", value="0" * 12), "protocol hash is '000000000000'"),
    "other values under the configuration hash": (
        edited("hyperparameters", "lr_factor", value=3.0), "settings and hyper-parameters give",
    ),
    "nothing trained": (edited("liveness", "changed", value=0), "training changed 0 of the"),
    "no proof of training": (edited("liveness", value=None), "no proof that it trained"),
    "swapped users": (swapped_users, "does not have the targets at the ranks"),
    "cold and warm make no whole": (edited("cold_targets", value=1), "metrics do not give its test metrics"),
    "an item twice in a list": (lists("items", lambda rows: [[7] * 20, *rows[1:]]), "an item twice"),
}  # fmt: skip
"""What a forger does -> how, and what the refusal says."""


@pytest.fixture(scope="module")
def fault_of(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder, forge = tmp_path_factory.mktemp("bad"), Forge.of(good)

    @cache
    def fault(name: str) -> str:
        found = verdict(BAD[name][0](deepcopy(forge)), folder)
        assert found.reached != "L2"
        return found.faults[0]

    return fault


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bundle_is_refused_by_its_fault(fault_of: Callable[[str], str], name: str) -> None:
    fault = fault_of(name)
    assert BAD[name][1] in fault
    assert "\n" not in fault and "Traceback" not in fault and "could not be checked" not in fault
    assert "/tmp/" not in fault  # no folder of the machine that verifies


def test_each_bad_bundle_has_its_own_message(fault_of: Callable[[str], str]) -> None:
    alike = {"empty", "truncated", "nested beyond the stack"}  # each the same fault as another one
    faults = [fault_of(name) for name in BAD if name not in alike]
    assert len(faults) == len(set(faults)) > 40


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_byte_of_the_file_is_refused(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    """In a member, in the archive's own bytes, everywhere: half of the draws are in small parts."""
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        starts = [info.header_offset for info in archive.infolist()] + [archive.start_dir, len(content)]
    part = data.draw(st.integers(0, len(starts) - 2), "part")
    place = data.draw(st.integers(starts[part], starts[part + 1] - 1), "place")
    content[place] ^= data.draw(st.integers(1, 255), "change")
    found = verdict(bytes(content), tmp_path, "L1")
    assert found.reached is None and "could not be checked" not in found.faults[0]
