"""A store's index: what is added, replaced, kept and refused, and what `verify` finds when it was changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from forged import Forge

from benchmark.cli import main
from benchmark.config import config_hash, protocol_hash
from benchmark.files import checksum_of, digest_of
from benchmark.results.index import INDEX, START, Entry, keep_indexed, read_index, seal
from benchmark.results.record import GENERATION, RunRecord, read_record
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify import add as add_module
from benchmark.verify.bundle import make_bundle
from benchmark.verify.indexed import CHECKS, Store, check_alike, check_store
from methods import CONTROLS
from methods.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
POPULARITY = {
    name: next((ROOT / "results" / name / "none" / "popularity").glob("*-s0.json"))
    for name in ("scientific", "beauty", "instruments")
}
"""Records of a control: small, and as good as others."""


def copied(results: Path, dataset: str) -> Path:
    """A committed record with its files in the folder of results."""
    source = POPULARITY[dataset]
    folder = results / source.parent.relative_to(ROOT / "results")
    folder.mkdir(parents=True)
    for path in source.parent.glob(f"{source.stem}.*"):
        shutil.copy(path, folder / path.name)
    return folder / source.name


def made_again(path: Path) -> None:
    """Another record of the same run in its place, which counts too."""
    fields = json.loads(path.read_bytes())
    fields.pop("checksum", None)
    fields["cost"]["eval_seconds"] *= 1.5
    fields["checksum"] = checksum_of(fields)
    path.unlink()
    path.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two entries."""
    results = tmp_path_factory.mktemp("two") / "results"
    for name in ("scientific", "beauty"):
        copied(results, name)
    assert main(["add", str(results), "--results", str(results)]) == 0
    return results


@pytest.fixture
def store(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "results"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "theirs.adaptrec.zip"
    make_bundle([POPULARITY["instruments"]], path)
    return path


@pytest.fixture(scope="module")
def three(two: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with a bundle of another person."""
    results = Path(shutil.copytree(two, tmp_path_factory.mktemp("three") / "results"))
    assert main(["add", str(bundle), "--results", str(results), "--by", "Jane Doe"]) == 0
    return results


@pytest.fixture
def submitted(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "results"))


def refused(capsys: pytest.CaptureFixture[str], *words: object, status: int = 2) -> str:
    """The one line with which a command refuses; nothing was written."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, (out, err)
    return err


def faults(results: Path) -> dict[str, str]:
    return {finding.name: finding.fault for finding in check_store(results) if finding.fault}


def test_entries_hold_digests_and_their_predecessor(store: Path) -> None:
    first, second = read_index(store).entries
    assert (first.entry, second.entry, first.previous, second.previous) == (1, 2, START, first.checksum)
    assert first.record == POPULARITY["beauty"].relative_to(ROOT / "results").as_posix()
    for file, digest in first.files.items():
        assert digest_of(store / file) == digest == digest_of(ROOT / "results" / file)
    assert len(first.files) == 3 and (first.by, first.level) == ("project", "L2")
    lines = [json.loads(line) for line in (store / INDEX).read_text().splitlines()]
    assert [line["checksum"] for line in lines] == [
        checksum_of({name: value for name, value in line.items() if name != "checksum"}) for line in lines
    ]


def test_a_folder_adds_what_is_not_there_yet(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (store / INDEX).read_bytes()
    assert main(["add", str(store), "--results", str(store)]) == 0
    assert "0 entries added; 2 were there already" in capsys.readouterr().out
    assert (store / INDEX).read_bytes() == before
    new = copied(store, "instruments")
    assert [path.name for path in Store(store).local] == [new.name]
    assert main(["add", str(store / "instruments"), "--results", str(store)]) == 0
    assert "1 entry added (3 to 3)" in capsys.readouterr().out
    assert (store / INDEX).read_bytes().startswith(before) and faults(store) == {}
    assert main(["verify", str(store)]) == 0
    assert "3 entries, of which 0 were replaced; 0 local records" in capsys.readouterr().out


def test_records_of_another_folder_are_copied(store: Path, tmp_path: Path) -> None:
    other = copied(tmp_path / "elsewhere", "instruments")
    assert main(["add", str(tmp_path / "elsewhere"), "--results", str(store)]) == 0
    entry = read_index(store).entries[-1]
    assert (store / entry.record).read_bytes() == other.read_bytes() and len(entry.files) == 3
    assert faults(store) == {}


def test_a_correction_names_what_it_replaces_and_nothing_is_lost(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = read_index(store).entries[0]
    path, before = store / old.record, (store / old.record).read_bytes()
    keep_indexed(path)
    made_again(path)
    assert faults(store) == {} and Store(store).local == [path]
    assert "Say why by --because" in refused(capsys, "add", store, "--results", store)
    assert main(["add", str(store), "--results", str(store), "--because", "other seconds"]) == 0
    entry = read_index(store).entries[-1]
    assert (entry.record, entry.replaces, entry.because) == (old.record, 1, "other seconds")
    assert (store / old.kept(old.record)).read_bytes() == before
    assert faults(store) == {} and Store(store).local == []
    assert "was replaced by entry 3" in refused(
        capsys, "add", copied(store, "instruments"), "--results", store, "--replaces", 1, "--because", "x"
    )


def test_a_correction_may_have_another_path(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = copied(tmp_path / "elsewhere", "scientific").parents[3]
    made_again(next(moved.rglob("*-s0.json")))
    path = next(moved.rename(store / "again").rglob("*-s0.json"))
    words = ["add", path, "--results", store, "--replaces", 2, "--because"]
    assert "because: String should have" in refused(capsys, *words, "x" * 501)
    assert main([*map(str, words), "the data were wrong"]) == 0
    index = read_index(store)
    old = index.entries[1]
    assert index.corrections[2].record == path.relative_to(store).as_posix()
    assert old.record not in index.standing and faults(store) == {}
    assert not any((store / file).exists() for file in old.files), "no table shows it any more"
    assert all((store / old.kept(file)).exists() for file in old.files)


def test_a_record_that_was_written_over_without_being_kept(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = read_index(store).entries[0]
    made_again(store / entry.record)
    assert faults(store)["files"] == f"{entry.record}, of entry 1, was changed."
    said = refused(capsys, "add", store, "--results", store, "--because", "other seconds")
    assert "take it from an earlier commit" in said and entry.kept(entry.record) in said


def test_a_run_keeps_the_indexed_record_that_it_replaces(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    spec = RunSpec(str(folder), "none", "popularity", "none", 0, ())
    path, _ = run(spec, results)
    assert main(["add", str(results), "--results", str(results)]) == 0
    capsys.readouterr()
    run(spec, results, fresh=True)
    assert main(["verify", str(results)]) == 0
    out = capsys.readouterr().out
    assert "1 entries, of which 0 were replaced; 1 local records" in out and f"local: {path}" in out


def test_nothing_is_added_when_the_command_is_stopped(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = copied(store.parent / "elsewhere", "instruments"), (store / INDEX).read_bytes()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(add_module, "write_index", stopped)
        assert main(["add", str(path), "--results", str(store)]) == 130
    assert (store / INDEX).read_bytes() == before and faults(store) == {}
    assert main(["add", str(path), "--results", str(store)]) == 0
    assert len(read_index(store).entries) == 3 and faults(store) == {}


def test_a_bundle_is_added_beside_the_projects_own_records(
    submitted: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = submitted
    entry = read_index(store).entries[-1]
    assert entry.record.startswith("submitted/theirs/instruments/none/popularity/")
    assert (entry.by, entry.level, entry.bundle) == ("Jane Doe", "L2", bundle.name)
    assert entry.bundle_sha256 == digest_of(bundle) == digest_of(store / "submitted" / bundle.name)
    assert faults(store) == {} and Store(store).local == []
    again = refused(capsys, "add", bundle, "--results", store, "--by", "Jane Doe")
    assert "is in the index already: entry 3" in again
    theirs = Path(shutil.copy(bundle, bundle.with_name("others.adaptrec.zip")))
    theirs.write_bytes(Forge.of(bundle).edit(lambda f: f["cost"].update(eval_seconds=9.0)).packed())
    words = ("add", theirs, "--results", store, "--replaces", 3, "--because", "x")
    said = refused(capsys, *words, "--by", "John Roe")
    assert "entry 3 was added by 'Jane Doe'" in said and "same submitter" in said
    (store / "submitted" / bundle.name).write_bytes(b"other")
    assert "was changed" in faults(store)["bundles"]


def test_a_bundle_below_the_level_is_refused(
    store: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = tmp_path / "forged.adaptrec.zip"
    raised = Forge.of(bundle).edit(lambda fields: fields["metrics"]["test"].update({"recall@10": 0.9}))
    forged.write_bytes(raised.packed())
    said = refused(capsys, "add", forged, "--results", store, "--by", "x")
    assert "reaches level L1, and L2 is needed" in said and "Nothing was added" in said
    assert not (store / "submitted").exists()
    assert "needs --by NAME" in refused(capsys, "add", bundle, "--results", store)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("<b>", "--by is no plain name"),
        ("=cmd()", "must begin with a letter or digit"),
        ("@SUM(A1)", "must begin with a letter or digit"),
        ("-1+1", "must begin with a letter or digit"),
        ("Jane ", "end with one, with '.' or"),
        ("x" * 81, "at most 80 characters"),
        ("project", "marks the project's own rows"),
        ("Project", "marks the project's own rows"),
        ("\uff50roject", "marks the project's own rows"),
        ("pro-ject", "marks the project's own rows"),
        ("\u0440roject", "mixes Latin, Greek or Cyrillic letters"),
    ],
)
def test_who_submitted_a_bundle_has_a_name_that_misleads_nobody(
    store: Path, bundle: Path, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, "add", bundle, "--results", store, f"--by={name}")
    assert not (store / "submitted").exists()


def test_an_index_gives_no_submitted_row_to_the_project(submitted: Path) -> None:
    content = (submitted / INDEX).read_text().splitlines()
    entry = Entry.model_validate_json(content[-1])
    fields = entry.model_dump(exclude={"previous", "checksum"})
    for change in ({"by": "project"}, {"bundle": None}, {"record": "/".join(entry.record.split("/")[-4:])}):
        line = seal(entry.previous, **{**fields, **change}).line
        (submitted / INDEX).write_text("".join(f"{each}\n" for each in (*content[:-1], line)))
        assert "an entry by 'project' has no bundle" in faults(submitted)["chain"]


def with_last_entry(store: Path, **change: object) -> None:
    """The last line of the index is written by hand, with a checksum that is right."""
    *before, last = (store / INDEX).read_text().splitlines()
    fields = {**json.loads(last), **change}
    fields.pop("checksum")
    line = json.dumps({**fields, "checksum": checksum_of(fields)})
    (store / INDEX).write_text("".join(f"{each}\n" for each in (*before, line)))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("by", "Project", "'Project' marks the project's own rows"),
        ("by", "\u0440roject", "mixes Latin, Greek or Cyrillic letters"),
        ("by", "=cmd()", "'=cmd()' must begin with a letter or digit"),
        ("by", "<script>\x1b", "is no plain name"),
        ("bundle", "../../evil.adaptrec.zip", "bundle: String should match pattern"),
        ("bundle", "other.adaptrec.zip", "does not lie in submitted/other/"),
    ],
)
def test_a_line_written_by_hand_obeys_the_grammar_of_names(
    submitted: Path, field: str, value: str, says: str
) -> None:
    with_last_entry(submitted, **{field: value})
    assert says in faults(submitted)["chain"]


def test_an_entry_whose_bundle_does_not_reach_its_level_is_seen(submitted: Path, bundle: Path) -> None:
    forge = Forge.of(bundle).edit(lambda fields: fields["metrics"]["test"].update({"recall@10": 0.9}))
    (submitted / "submitted" / bundle.name).write_bytes(forge.packed())
    entry = read_index(submitted).entries[-1]
    (submitted / entry.record).write_bytes(forge.files[forge.name(".json")])
    with_last_entry(
        submitted, level="L4", sha256=digest_of(submitted / entry.record),
        bundle_sha256=digest_of(submitted / "submitted" / bundle.name),
    )  # fmt: skip
    assert "of entry 3, reaches level L1, not L2: " in faults(submitted)["bundles"]


def test_the_name_of_a_folder_stays_on_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied(store, "instruments")
    path.parents[2].rename(store / "a\nhead 0")
    assert main(["verify", str(store)]) == 0
    assert rf"  local: {store}/a\nhead 0/none/" in capsys.readouterr().out


def test_a_line_that_was_cut_off_is_missed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(copied(store, "instruments")), "--results", str(store)]) == 0
    head = capsys.readouterr().out.split()[-1]
    assert head == read_index(store).last
    assert main(["verify", str(store), "--head", head]) == 0
    assert capsys.readouterr().out.endswith(f"head {head}\n")
    lines = (store / INDEX).read_text().splitlines(keepends=True)
    (store / INDEX).write_text("".join(lines[:-1]))
    assert main(["verify", str(store)]) == 0
    assert "1 local records" in capsys.readouterr().out
    assert main(["verify", str(store), "--head", head]) == 1
    assert f"no line of index.jsonl has the checksum {head}" in capsys.readouterr().out
    for words in (["--head", "0"], ["--head", head.upper()]):
        assert "is no SHA-256 of 64" in refused(capsys, "verify", store, *words)


@pytest.mark.parametrize("lines", [0, 2])
def test_submitted_files_without_an_entry_are_named(submitted: Path, lines: int) -> None:
    kept = (submitted / INDEX).read_text().splitlines(keepends=True)[:lines]
    (submitted / INDEX).write_text("".join(kept))
    assert "no entry names submitted/theirs/instruments/" in faults(submitted)["unnamed"]
    shutil.rmtree(submitted / "submitted" / "theirs")
    assert faults(submitted) == {}
    assert Store(submitted).waiting == ["submitted/theirs.adaptrec.zip"]


def test_bundles_whose_files_would_be_one_are_refused(
    store: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / bundle.name.replace("t", "T", 1)
    make_bundle([POPULARITY["scientific"]], other)
    said = refused(capsys, "add", bundle, other, "--results", store, "--by", "x")
    assert f"{other} and {bundle} have one file name" in said
    twice = Path(shutil.copy(bundle, tmp_path / "x.adaptrec.zip.adaptrec.zip"))
    assert "at its end alone" in refused(capsys, "add", twice, "--results", store, "--by", "x")
    assert not (store / "submitted").exists()


def test_a_generation_of_the_future_is_refused(
    store: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = tmp_path / "later.adaptrec.zip"
    later.write_bytes(Forge.of(bundle).edit(lambda f: f.update(generation=GENERATION + 1)).packed())
    said = refused(capsys, "add", later, "--results", store, "--by", "x")
    assert f"it is of generation {GENERATION + 1} of the harness" in said and "Nothing was added" in said


@pytest.mark.parametrize("seconds", ["9999999999", "86401", "0", "-1", "1.5", "²"])
def test_a_time_that_no_check_may_have_is_one_line(
    bundle: Path, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["verify"], ["challenge", "--beacon", "00"]):
        said = refused(capsys, *words, bundle, f"--seconds={seconds}")
        assert f"'{seconds}' is no whole number from 1 to 86400" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.json"], "there is no record nowhere.json"),
        ([POPULARITY["beauty"]], "is in the index already: entry 1"),
        ([POPULARITY["instruments"], "--replaces", 7, "--because", "x"], "no entry 7 to replace"),
        ([POPULARITY["instruments"], "--because", "x"], "these records replace none"),
        ([POPULARITY["instruments"], "--replaces", 1], "Say why by --because"),
        (
            [POPULARITY["instruments"], "--replaces", 1, "--because", "x"],
            "another dataset, language model or",
        ),
        ([POPULARITY["instruments"], "--by", "me"], "--by is of bundles"),
        ([POPULARITY["instruments"], "--level", "L3"], "need the data of the runs"),
        ([ROOT / "docs"], "no records of finished runs"),
    ],
)
def test_bad_input_is_one_line(
    store: Path, words: list[object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (store / INDEX).read_bytes()
    assert says in refused(capsys, "add", *words, "--results", store)
    assert (store / INDEX).read_bytes() == before


def line_of(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def edited(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        return b"".join(lines)

    return edited


def sealed_again(line: bytes) -> bytes:
    """A line whose own checksum is right."""
    entry = Entry.model_validate_json(line)
    fields = entry.model_dump(exclude={"previous", "checksum"})
    return seal(entry.previous, **{**fields, "level": "L3"}).line.encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (line_of(1, lambda line: line.replace(b'"project"', b'"nobody"')), "1: it does not match its"),
        (line_of(1, sealed_again), "line 2: it does not hold the checksum of the line before it"),
        (line_of(1, lambda line: b""), "line 1: its number is 2, not 1"),
        (line_of(2, lambda line: line + line), "line 3: its number is 2, not 3"),
        (line_of(2, lambda line: line[:90]), "line 2: it has no line feed at its end"),
        (line_of(2, lambda line: b"{}\n"), "line 2: it is no entry"),
        (line_of(2, lambda line: b"[" * 9999 + b"\n"), "line 2: it is not JSON"),
        (line_of(2, lambda line: line.replace(b'": ', b'":  ', 1)), "line 2: it is not spelt"),
    ],
)  # fmt: skip
def test_a_line_that_was_changed_is_named(
    store: Path, change: Callable[[bytes], bytes], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / INDEX).write_bytes(change((store / INDEX).read_bytes()))
    assert says in faults(store)["chain"]
    assert main(["verify", str(store)]) == 1
    assert says in refused(capsys, "add", POPULARITY["instruments"], "--results", store)


def test_a_file_that_is_gone_is_named(store: Path) -> None:
    (store / read_index(store).entries[1].record).with_suffix(".top.parquet").unlink()
    assert faults(store)["files"].endswith("top.parquet, of entry 2, is gone.")


def test_a_row_that_claims_the_data_of_others_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, first = copied(store, "instruments"), read_index(store).entries[0]
    fields = json.loads(path.read_bytes())
    fields.pop("checksum", None)
    fields["data"]["key"] = json.loads((store / first.record).read_bytes())["data"]["key"]
    fields["protocol_hash"] = protocol_hash(fields["data"]["key"], "none", {})
    words = fields["data"]["key"], None, "none", "popularity", CONTROLS["popularity"]
    own = config_hash(*words, {"settings": fields["settings"], "fixed": {}})
    for file in path.parent.iterdir():
        file.rename(file.with_name(file.name.replace(fields["config_hash"], own)))
    path = path.with_name(path.name.replace(fields["config_hash"], own))
    RunRecord.model_validate({**fields, "config_hash": own}).write(path, exclude_unset=True)
    said, says = refused(capsys, "add", path, "--results", store), "data differ in users"
    assert "entry 1 and instruments/" in said and says in said
    monkeypatch.setattr(add_module, "check_alike", lambda _: None)
    assert main(["add", str(path), "--results", str(store)]) == 0
    assert "entry 1 and entry 3" in faults(store)["protocols"] and says in faults(store)["protocols"]


def test_a_folder_without_an_index_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(tmp_path, "beauty")
    assert "it is no store, but a folder of local records" in refused(capsys, "verify", tmp_path)


@pytest.fixture
def committed(store: Path) -> Path:
    """The store in a repository of its own, committed."""
    git(store.parent, "init", "-q")
    git(store.parent, "add", "results")
    git(store.parent, "commit", "-qm", "first")
    return store


def test_rows_of_one_protocol_hash_have_the_same_data() -> None:
    records = [(name, read_record(POPULARITY[name])) for name in ("beauty", "scientific")]
    check_alike(records)
    records[1][1].protocol_hash = records[0][1].protocol_hash
    with pytest.raises(UserError, match=r"^beauty and scientific have .*, and differ in data"):
        check_alike(records)


def test_one_configuration_is_of_one_method() -> None:
    records = [(name, read_record(POPULARITY["beauty"])) for name in ("one", "other")]
    check_alike(records)
    records[1][1].method = "mine"
    with pytest.raises(
        UserError, match=r"^one and other have .*, and are of the methods 'popularity' and 'mine'"
    ):
        check_alike(records)


def git(folder: Path, *words: str) -> None:
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *name, *words], cwd=folder, check=True, env={**os.environ, **own})


def test_history_holds_what_was_committed(committed: Path) -> None:
    path = committed / read_index(committed).entries[0].record
    for _ in range(2):  # a correction, and one of that
        keep_indexed(path)
        made_again(path)
        assert main(["add", str(path), "--results", str(committed), "--because", "other seconds"]) == 0
        git(committed.parent, "add", "results")
        git(committed.parent, "commit", "-qm", "a correction")
    found = {finding.name: finding for finding in check_store(committed)}
    assert set(found) == {check.__name__ for check in CHECKS} and faults(committed) == {}
    assert not found["history"].promise.startswith("skipped")


def test_history_shows_a_change_that_was_taken_back(committed: Path) -> None:
    entry = read_index(committed).entries[0]
    before = (committed / entry.record).read_bytes()
    made_again(committed / entry.record)
    git(committed.parent, "commit", "-qam", "quietly")
    (committed / entry.record).write_bytes(before)
    git(committed.parent, "commit", "-qam", "and back")
    assert f"changed or removed {entry.record}, of entry 1" in faults(committed)["history"]


def test_history_shows_an_index_that_was_written_anew(committed: Path) -> None:
    (committed / INDEX).unlink()
    assert main(["add", str(committed), "--results", str(committed)]) == 0
    lines = (committed / INDEX).read_text().splitlines()
    entry = Entry.model_validate_json(lines[-1])
    fields = entry.model_dump(exclude={"previous", "checksum", "added"})
    lines[-1] = seal(entry.previous, **{**fields, "added": "2020-01-01T00:00:00Z"}).line
    (committed / INDEX).write_text("".join(f"{line}\n" for line in lines))
    assert "were removed or changed after it" in faults(committed)["history"]


@pytest.fixture
def branched(committed: Path) -> Path:
    """The committed store on a branch `side`, after `main` got a third entry."""
    git(committed.parent, "branch", "-M", "main")
    git(committed.parent, "branch", "side")
    added_and_committed(committed, copied(committed, "instruments"))
    git(committed.parent, "checkout", "-q", "side")
    return committed


def added_and_committed(results: Path, path: Path) -> None:
    assert main(["add", str(path), "--results", str(results)]) == 0
    git(results.parent, "add", "-A")
    git(results.parent, "commit", "-qm", "an entry")


def test_history_shows_what_a_merge_removed(branched: Path) -> None:
    git(branched.parent, "merge", "-q", "-s", "ours", "-m", "drops what main has", "main")
    assert "removed or changed lines that index.jsonl has" in faults(branched)["history"]
    git(branched.parent, "checkout", "-q", "main")
    git(branched.parent, "merge", "-q", "side")
    assert len(read_index(branched).entries) == 2
    assert "removed or changed lines that index.jsonl has" in faults(branched)["history"]


def test_history_accepts_a_merge_and_an_entry_that_is_added_again(branched: Path) -> None:
    (branched.parent / "README.md").write_text("of the side branch")
    git(branched.parent, "add", "README.md")
    git(branched.parent, "commit", "-qm", "no entry")
    git(branched.parent, "merge", "-qm", "normal", "main")
    assert len(read_index(branched).entries) == 3 and faults(branched) == {}
    path, text = branched / read_index(branched).entries[-1].record, (branched / INDEX).read_text()
    git(branched.parent, "checkout", "-q", "-b", "other", "side~1")
    added_and_committed(branched, copied(branched, "instruments"))
    index = (branched / INDEX).read_text().replace
    added = read_index(branched).entries[-1]
    again = seal(
        added.previous,
        **added.model_dump(exclude={"previous", "checksum", "added"}),
        added="2027-01-01T00:00:00Z",
    )
    (branched / INDEX).write_text(index(added.line, again.line))
    git(branched.parent, "commit", "-qa", "--amend", "-m", "the same record at another time")
    git(branched.parent, "merge", "-q", "-s", "ours", "-m", "a conflict", "side")
    (branched / INDEX).write_text(text)
    git(branched.parent, "commit", "-qa", "--amend", "-m", "a conflict: the file of side")
    assert path.exists() and faults(branched) == {}


def test_a_repository_without_a_commit_is_said_to_be_one(store: Path) -> None:
    git(store.parent, "init", "-q")
    (found,) = (finding for finding in check_store(store) if finding.name == "history")
    assert (found.promise, found.fault) == ("skipped: index.jsonl is in no commit yet", "")


def test_history_does_not_go_by_dates(branched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (branched / INDEX).read_bytes().splitlines(keepends=True)
    for date, content in (("2001-01-01T00:00:00Z", lines[:1]), ("1999-01-01T00:00:00Z", lines)):
        (branched / INDEX).write_bytes(b"".join(content))
        git(branched.parent, "commit", "-qam", "an entry less, and again")
        monkeypatch.setenv("GIT_COMMITTER_DATE", date)
    monkeypatch.delenv("GIT_COMMITTER_DATE")
    git(branched.parent, "checkout", "-q", "main")
    git(branched.parent, "merge", "-q", "-s", "ours", "-m", "of both", "side")
    assert "removed or changed lines that index.jsonl has" in faults(branched)["history"]


def test_history_reads_any_name_of_a_file(committed: Path) -> None:
    kept = committed / "replaced" / "1" / "x\ny\x1b"
    kept.parent.mkdir(parents=True)
    for path in (committed / "a\n:b", Path(os.fsdecode(os.fsencode(committed) + b"/z\xff")), kept):
        path.write_text("1")
        git(committed.parent, "add", "-A")
        git(committed.parent, "commit", "-qm", "a file")
        assert faults(committed) == {}
        path.unlink()
        git(committed.parent, "commit", "-qam", "no file")
    assert faults(committed)["history"].endswith(
        r" took away replaced/1/x\ny\x1b, which is kept of an entry that was replaced."
    )


def test_an_old_index_that_cannot_be_read_is_one_line(committed: Path) -> None:
    (committed / read_index(committed).entries[0].record).write_text("changed")
    (committed / INDEX).write_bytes(b"\xff\n")
    git(committed.parent, "commit", "-qam", "no index")
    git(committed.parent, "checkout", "-q", "HEAD~1", "--", "results")
    git(committed.parent, "commit", "-qm", "back")
    said = faults(committed)["history"]
    assert said.startswith("index.jsonl of commit ") and said.endswith(" has a line that is no entry.")


def test_a_repository_that_git_cannot_read_is_a_fault(committed: Path) -> None:
    inner = committed.parent / "inner"
    for name in (".git", "results"):
        shutil.copytree(committed.parent / name, inner / name)
    assert faults(inner / "results") == {}
    shutil.rmtree(inner / ".git" / "objects")  # git would now read the repository above
    assert "git cannot read the repository of" in faults(inner / "results")["history"]
    shutil.rmtree(committed.parent / ".git" / "objects")
    said = faults(committed)["history"]
    assert said.startswith("`git rev-parse` failed in ") and "\n" not in said
    shutil.rmtree(committed.parent / ".git")
    (found,) = (finding for finding in check_store(committed) if finding.name == "history")
    assert (found.promise, found.fault) == ("skipped: the folder is in no git repository", "")
