from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from raw_server import Server, amazon_2014, amazon_2018, amazon_2023, interactions, movielens, served, serving

from benchmark.cli import main
from benchmark.data import transfer as module
from benchmark.data.catalogue import find
from benchmark.data.download import fetch, raw_folder, record_checksums
from benchmark.data.prepare import describe, prepare
from benchmark.data.recipe import Recipe
from benchmark.data.transfer import UnavailableError, transfer
from methods.errors import UserError

DATA = bytes(range(256)) * 1000
PATH = "/x/a.bin"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small blocks, short waits, and nothing of the user's environment."""
    for name, value in (("BLOCK", 40_000), ("WAIT_SECONDS", 0.01), ("SILENT_SECONDS", 0.5)):
        monkeypatch.setattr(module, name, value)
    for name in ("ADAPTREC_DATA", "ADAPTREC_DATA_MIRROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving({PATH: DATA}) as running:
        yield running


def recipe_of(*urls: str, name: str = "own", **options: object) -> Recipe:
    return Recipe(name, format="movielens", files={"archive": urls}, **options)  # type: ignore[arg-type]


def use(recipe: Recipe, cache: Path) -> Path:
    """The recipe's file, from which something has been prepared."""
    files = fetch(recipe, cache)
    record_checksums(recipe, files.values(), cache)
    return files["archive"]


def test_a_file_arrives_whole_and_leaves_nothing_else(server: Server, tmp_path: Path):
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_cut_connection_goes_on_where_it_broke(server: Server, tmp_path: Path, capsys):
    server.cut_after[PATH] = 100_000
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked(PATH) == ["", "bytes=100000-"], "no byte is asked for twice"
    assert "a.bin: the connection was cut; again in 0.01 s\n" in capsys.readouterr().err


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    server.cut_after[PATH] = 100_000
    with pytest.raises(UnavailableError):
        transfer(server.url + PATH, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").read_bytes() == DATA[:100_000]
    server.requests.clear()
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked(PATH) == ["bytes=100000-"]


@pytest.mark.parametrize("etags", [True, False])
def test_a_part_of_another_version_is_not_continued(server: Server, tmp_path: Path, monkeypatch, etags):
    monkeypatch.setattr(module, "TRIES", 1)
    server.cut_after[PATH], server.etags = 100_000, etags
    with pytest.raises(UnavailableError):
        transfer(server.url + PATH, tmp_path / "a.bin")
    server.files[PATH] = DATA[::-1]
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA[::-1]


def test_a_file_that_changes_meanwhile_is_fetched_anew(server: Server, tmp_path: Path):
    server.cut_after[PATH], server.replaced_by[PATH] = 100_000, DATA[::-1]
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA[::-1]


def test_a_file_of_the_hub_is_fetched_from_its_address(server: Server, tmp_path: Path, monkeypatch):
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server.files = {"/datasets/o/n/resolve/main/f/a.bin": DATA, "/o/n/resolve/v1/a.bin": DATA[::-1]}
    for url, data in {"hf://datasets/o/n/f/a.bin": DATA, "hf://o/n@v1/a.bin": DATA[::-1]}.items():
        transfer(url, tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == data
    with pytest.raises(UnavailableError, match=r"hf://datasets/<owner>/<name>/<file>"):
        transfer("hf://datasets/o", tmp_path / "b.bin")


def test_a_server_without_ranges_streams_and_starts_anew(server: Server, tmp_path: Path):
    server.ranges, server.cut_after[PATH] = False, 100_000
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_passing_errors_are_tried_again_and_lasting_ones_are_not(server: Server, tmp_path: Path):
    server.answers[PATH] = [500, 503]
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    server.answers["/x/gone"] = [404] * 9
    with pytest.raises(UnavailableError, match="HTTP 404"):
        transfer(server.url + "/x/gone", tmp_path / "gone")
    assert len(server.answers["/x/gone"]) == 8, "asked once"
    server.answers["/x/ill"] = [500] * 99
    with pytest.raises(UnavailableError, match="HTTP 500"):
        transfer(server.url + "/x/ill", tmp_path / "ill")


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(module, "TRIES", 2)
    server.pause = 0.5
    with pytest.raises(UnavailableError, match="Timeout"):
        transfer(server.url + PATH, tmp_path / "a.bin")


def test_a_full_disk_is_reported_before_the_download(server: Server, tmp_path: Path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB .* ADAPTREC_CACHE"):
        transfer(server.url + PATH, tmp_path / "a.bin")


def test_mirrors_in_order_then_the_record_of_what_was_used(server: Server, tmp_path: Path):
    recipe = recipe_of("http://127.0.0.1:9/x/a.bin", f"{server.url}/none/a.bin", server.url + PATH)
    path = use(recipe, tmp_path)
    assert path == tmp_path / "raw" / "own" / "a.bin" and path.read_bytes() == DATA
    entry = json.loads((path.parent / "files.json").read_text())["files"]["a.bin"]
    assert (entry["size"], entry["url"]) == (len(DATA), server.url + PATH) and len(entry["sha256"]) == 64
    server.requests.clear()
    assert fetch(recipe, tmp_path)["archive"] == path and not server.requests


def test_one_line_names_the_files_and_their_folder(tmp_path: Path, monkeypatch, capsys):
    recipe = Recipe(
        "own",
        format="amazon-2018",
        files={
            "interactions": ("http://127.0.0.1:9/X.csv",),
            "items": ("http://127.0.0.1:9/meta_X.json.gz",),
        },
    )
    with pytest.raises(UserError) as caught:
        fetch(recipe, tmp_path)
    text = str(caught.value)
    assert "\n" not in text and "X.csv of 'own' cannot be fetched" in text and "--data-dir" in text
    assert "put X.csv (from http://127.0.0.1:9/X.csv), meta_X.json.gz (from " in text
    assert str(raw_folder("own", tmp_path)) in text
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"into .*/data/own, or into another folder"):
        fetch(recipe, tmp_path)
    assert f"X.csv: neither in {tmp_path}/data/own nor in {tmp_path}/data\n" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "X.csv").touch()
    with pytest.raises(
        UserError, match=r"^meta_X.json.gz of 'own' .* By hand: put meta_X.json.gz \(from \S*\) "
    ):
        fetch(recipe, tmp_path)


def test_without_a_network_one_reason_stands_for_all_hosts(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = ("https://a.invalid/X.bin", "https://b.invalid/X.bin", "hf://datasets/o/n/X.bin")
    with pytest.raises(UserError) as caught:
        fetch(recipe_of(*places), tmp_path)
    reason = (
        r"\(no connection \([^()]*\): a\.invalid, b\.invalid; no connection \(HF_HUB_OFFLINE is set\): hf://"
    )
    assert re.search(reason, str(caught.value))
    assert "again in" not in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "own"])
def test_files_put_there_by_hand_are_found_and_remembered(tmp_path: Path, monkeypatch, below):
    folder = tmp_path / "hand" / below
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(DATA)
    recipe = recipe_of("http://127.0.0.1:9/x/a.bin")
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path / "hand"))
    assert use(recipe, tmp_path / "cache") == folder / "a.bin"
    monkeypatch.delenv("ADAPTREC_DATA")
    assert fetch(recipe, tmp_path / "cache")["archive"] == folder / "a.bin"


def test_a_changed_file_is_an_error_until_the_record_is_deleted(server: Server, tmp_path: Path):
    recipe = recipe_of(server.url + PATH)
    path = use(recipe, tmp_path)
    os.utime(path, ns=(1, 1))
    assert fetch(recipe, tmp_path)["archive"] == path  # touched, not changed
    path.write_bytes(DATA + b"!")
    with pytest.raises(UserError, match=r"is not the file of this name that was used first.*files\.json"):
        fetch(recipe, tmp_path)
    path.unlink()
    assert fetch(recipe, tmp_path)["archive"].read_bytes() == DATA
    path.unlink()
    server.files[PATH] = DATA[::-1]
    with pytest.raises(UserError, match="is not the file of this name"):
        fetch(recipe, tmp_path)
    (path.parent / "files.json").unlink()
    assert fetch(recipe, tmp_path)["archive"].read_bytes() == DATA[::-1]


def test_a_file_that_nothing_came_of_is_not_kept_to(tmp_path: Path, monkeypatch):
    name, folder = "reviews_Sports_and_Outdoors_5.json.gz", tmp_path / "hand" / "sports"
    good = amazon_2014("Sports_and_Outdoors")
    folder.mkdir(parents=True)
    for file, data in good.items():
        (folder / file).write_bytes(data)
    monkeypatch.setenv("ADAPTREC_DATA", str(folder))
    for damaged in (good[name][:-30], good[name][:2000] + b"?" + good[name][2001:], b"<html>Log in</html>"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name} (is damaged|has no usable rows).*get it again"):
            prepare(find("sports"), tmp_path / "cache")
    (folder / name).write_bytes(good[name])
    assert prepare(find("sports"), tmp_path / "cache").fingerprint["users"] == 60


def test_the_message_on_a_damaged_record_states_what_to_do(server: Server, tmp_path: Path):
    recipe = recipe_of(server.url + PATH)
    fetch(recipe, tmp_path)
    (raw_folder("own", tmp_path) / "files.json").write_text("{")
    with pytest.raises(UserError, match=r"files\.json is damaged .*delete it"):
        fetch(recipe, tmp_path)


def test_a_mirror_replaces_the_official_addresses(tmp_path: Path, monkeypatch):
    urls = {"interactions": ("https://nowhere.invalid/a/X.csv",), "items": ("hf://no/such/meta_X.json.gz",)}
    recipe = Recipe("sci", format="amazon-2018", files=urls)
    with serving(served({"sci": amazon_2018("X")})) as server:
        monkeypatch.setenv("ADAPTREC_DATA_MIRROR", server.url)
        files = fetch(recipe, tmp_path / "a")
    assert {role: path.read_bytes() for role, path in files.items()} == dict(
        zip(("interactions", "items"), amazon_2018("X").values(), strict=True)
    )
    for name, data in amazon_2018("X").items():
        (tmp_path / "disk" / "sci").mkdir(parents=True, exist_ok=True)
        (tmp_path / "disk" / "sci" / name).write_bytes(data)
    monkeypatch.setenv("ADAPTREC_DATA_MIRROR", (tmp_path / "disk").as_uri())
    assert fetch(recipe, tmp_path / "b")["items"].read_bytes() == files["items"].read_bytes()
    monkeypatch.setenv("ADAPTREC_DATA_MIRROR", (tmp_path / "none").as_uri())
    with pytest.raises(UserError, match=r"\(no file \(No such file or directory\): file:///"):
        fetch(recipe, tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "files", "text"),
    [
        ("sci", amazon_2018(), "Steel & steel box no. 0. Industrial & Scientific steel. Acme."),
        ("beauty", amazon_2014(), "Steel & steel box no. 0"),
        ("amazon-2023-All_Beauty", amazon_2023(), "Steel & steel box no. 0 Beauty steel Acme"),
        ("ml-1m", movielens(), "Café steel (1995) Drama, War"),
    ],
)
def test_from_a_mirror_to_sequences(tmp_path: Path, monkeypatch, name, files, text):
    with serving(served({name: files})) as server:
        monkeypatch.setenv("ADAPTREC_DATA_MIRROR", server.url)
        server.cut_after[next(iter(server.files))] = 1000
        prepared = prepare(find(name), tmp_path)
    again = prepare(find(name), tmp_path)  # the server is gone
    assert again.key == prepared.key and "publisher's files" in describe(again)
    facts = prepared.fingerprint
    assert (facts["users"], facts["items"], facts["interactions"]) == (60, 30, 720)
    place = {item: index for index, item in enumerate(prepared.item_ids)}
    ids = [str(int(item[1:]) + 1) if name == "ml-1m" else item for _, item, _ in interactions()]
    assert prepared.items[:12].tolist() == [place[item] for item in ids[:12]]
    assert prepared.texts[place[ids[0]]] == text


def test_prepared_data_outlive_the_raw_files(tmp_path: Path, monkeypatch):
    cache = tmp_path / "cache"
    with serving(served({"sci": amazon_2018()})) as server:
        monkeypatch.setenv("ADAPTREC_DATA_MIRROR", server.url)
        first = prepare(find("sci"), cache)
    ratings, metadata = (raw_folder("sci", cache) / name for name in amazon_2018())
    ratings.unlink()
    again = prepare(find("sci"), cache)
    assert (again.key, again.fingerprint) == (first.key, first.fingerprint)
    gone = f"sci is used as it was prepared from files that are gone: {ratings.name}"
    assert again.warnings == (gone, *first.warnings)
    kept = metadata.read_bytes()
    metadata.write_bytes(kept + b"!")
    with pytest.raises(UserError, match="is not the file of this name that was used first"):
        prepare(find("sci"), cache)
    metadata.write_bytes(kept)
    with pytest.raises(UserError, match=rf"{ratings.name} of 'sci' cannot be fetched"):
        prepare(replace(find("sci"), core=4), cache)
    (first.folder / "items.arrow").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{ratings.name} of 'sci' cannot be fetched"):
        prepare(find("sci"), cache)


def test_exact_repeats_of_2018_count_once(tmp_path: Path, monkeypatch):
    ratings, metadata = amazon_2018().items()
    doubled = {ratings[0]: ratings[1] + ratings[1], metadata[0]: metadata[1]}
    for name, data in doubled.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path))
    prepared = prepare(find("sci"), tmp_path / "cache")
    assert prepared.fingerprint["interactions"] == 720
    assert 720 in prepared.fingerprint["dropped"].values()


def test_the_command_takes_a_folder_of_files(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("ADAPTREC_DATA", "")  # restored after the command has set it
    (tmp_path / "hand" / "sci").mkdir(parents=True)
    for name, data in amazon_2018().items():
        (tmp_path / "hand" / "sci" / name).write_bytes(data)
    assert main(["prepare", "--dataset", "sci", "--data-dir", str(tmp_path / "hand")]) == 0
    assert "sci (" in capsys.readouterr().out
    assert main(["prepare", "--dataset", "sci", "--data-dir", str(tmp_path / "none")]) == 2
    assert "--data-dir: there is no folder" in capsys.readouterr().err


def test_a_download_that_changes_before_it_is_used_is_noticed(server: Server, tmp_path: Path):
    recipe = recipe_of(server.url + PATH)
    (path,) = fetch(recipe, tmp_path).values()
    path.write_bytes(DATA[::-1])
    with pytest.raises(UserError, match=r"a\.bin has changed since it was fetched; delete it"):
        fetch(recipe, tmp_path)
    path.unlink()
    assert fetch(recipe, tmp_path)["archive"].read_bytes() == DATA


def test_a_changed_digit_of_the_checksums_is_noticed(server: Server, tmp_path: Path):
    recipe = recipe_of(server.url + PATH)
    stored = use(recipe, tmp_path).parent / "files.json"
    stored.write_text(stored.read_text().replace(f'"size": {len(DATA)}', f'"size": {len(DATA) + 1}'))
    with pytest.raises(UserError, match=r"files\.json is damaged \(it does not match its"):
        fetch(recipe, tmp_path)


def without_length(server: Server, framing: str) -> None:
    server.framing, server.ranges = framing, False


@pytest.mark.parametrize("name", ["a.csv.gz", "a.zip"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_cut_download_without_a_length_is_noticed_by_its_format(
    framing: str, name: str, server: Server, tmp_path: Path, capsys
):
    whole = movielens()["ml-1m.zip"] if name == "a.zip" else amazon_2023()["All_Beauty.csv.gz"]
    without_length(server, framing)
    server.files["/x/" + name], server.cut_after["/x/" + name] = whole, len(whole) - 9
    transfer(f"{server.url}/x/{name}", tmp_path / name)
    assert (tmp_path / name).read_bytes() == whole
    assert f"{name}: the connection was cut; again" in capsys.readouterr().err


def test_chunks_have_an_end_of_their_own(server: Server, tmp_path: Path):
    without_length(server, "chunked")
    server.cut_after[PATH] = 100_000
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("cut", [True, False])
def test_a_file_of_unknown_length_is_not_resumed(cut: bool, server: Server, tmp_path: Path):
    without_length(server, "close")
    if cut:
        server.cut_after[PATH] = 100_000
    recipe = recipe_of(server.url + PATH)
    with pytest.raises(UserError, match=r"a\.bin of 'own' cannot be fetched \(the server does not"):
        fetch(recipe, tmp_path)
    assert [path.name for path in raw_folder("own", tmp_path).iterdir() if path.suffix == ".bin"] == []


def test_a_known_digest_shows_where_the_file_ends(server: Server, tmp_path: Path, capsys):
    recipe = recipe_of(server.url + PATH)
    use(recipe, tmp_path).unlink()
    without_length(server, "close")
    server.cut_after[PATH] = 100_000
    assert fetch(recipe, tmp_path)["archive"].read_bytes() == DATA
    assert "a.bin: the connection was cut; again" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["flip", "shorter", "longer", "about", "nothing"])
def test_a_damaged_part_is_not_gone_on_from(fault: str, server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    server.cut_after[PATH] = 100_000
    with pytest.raises(UnavailableError):
        transfer(server.url + PATH, tmp_path / "a.bin")
    part, about = tmp_path / "a.bin.part", tmp_path / "a.bin.part.json"
    data = part.read_bytes()
    if fault == "about":
        about.write_text(about.read_text().replace("100000", "40000"))
    else:
        changed = {"flip": b"x" + data[1:], "shorter": data[:-1], "longer": data + b"x", "nothing": data}
        part.write_bytes(changed[fault])
    server.requests.clear()
    transfer(server.url + PATH, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    resumed = fault in ("longer", "nothing")  # what a killed process wrote and did not note is cut off
    assert server.asked(PATH) == (["bytes=100000-"] if resumed else [""])


def test_parts_that_cannot_be_resumed_are_removed(server: Server, tmp_path: Path, monkeypatch):
    recipe, folder = recipe_of(server.url + PATH), raw_folder("own", tmp_path)
    folder.mkdir(parents=True)
    monkeypatch.setattr(module, "TRIES", 1)
    server.files["/x/b.bin"], server.cut_after["/x/b.bin"] = DATA, 100_000
    with pytest.raises(UnavailableError):
        transfer(f"{server.url}/x/b.bin", folder / "b.bin")
    for name in ("c.bin.part", "d.bin.part.json", "files.json.abcdefgh.tmp"):
        (folder / name).write_bytes(b"{")
    fetch(recipe, tmp_path)
    assert sorted(path.name for path in folder.glob("*.part*")) == ["b.bin.part", "b.bin.part.json"]
    assert not list(folder.glob("*.tmp"))
