"""A cache that cannot be written is used where it has all that is needed; else a line says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_folders import BLINK
from permissions import permissions_bind, read_only
from raw_server import serving
from test_data_download import recipe_of, use

from benchmark.cli import main
from benchmark.data import download
from benchmark.data.catalogue import find
from benchmark.data.download import fetch
from benchmark.data.prepare import prepare
from benchmark.llm.catalogue import resolve
from benchmark.llm.states import load_states
from benchmark.llm.token_states import keep_token_states
from benchmark.llm.tokens import load_tokens
from methods.errors import UserError

LINE = r"the cache .* cannot be written, and it lacks .*; make it writable, or set ADAPTREC_CACHE"


def test_permissions_bind_in_these_tests(tmp_path: Path) -> None:
    with read_only(tmp_path), pytest.raises(PermissionError):
        (tmp_path / "x").touch()
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(0)
    with permissions_bind(), pytest.raises(PermissionError):
        (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("locks", [True, False])
def test_prepared_data(locks: bool, folder: Path, tmp_path: Path) -> None:
    recipe = find(str(folder))
    key = prepare(recipe, tmp_path).key
    if not locks:  # copied without them
        for lock in tmp_path.rglob("*.lock"):
            lock.unlink()
    with read_only(tmp_path):
        assert prepare(recipe, tmp_path).key == key
        with pytest.raises(UserError, match=LINE):
            prepare(replace(recipe, core=2), tmp_path)


def test_damaged_prepared_data(folder: Path, tmp_path: Path) -> None:
    recipe = find(str(folder))
    file = prepare(recipe, tmp_path).folder / "items.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    with (
        read_only(tmp_path),
        pytest.raises(UserError, match=r"items\.arrow does not match.*writable"),
    ):
        prepare(recipe, tmp_path)
    assert file.exists()


def test_hidden_states(tmp_path: Path) -> None:
    llm, texts = resolve("random-tiny"), ["a saw", "a big saw"]

    def load(*layers: int) -> bool:
        return load_states(texts, llm, layers, "auto", "float32", tmp_path).hit

    load(2)
    with read_only(tmp_path):
        assert load(2)
        texts.append("another saw")
        with pytest.raises(UserError, match=LINE):
            load(2)


def test_token_states_are_not_kept_where_they_cannot_be(tmp_path: Path) -> None:
    llm = resolve("random-tiny")
    tokens = load_tokens(["a saw", "a big saw"], llm)
    with read_only(tmp_path):
        keep, why = keep_token_states("auto", 1.0, tokens, llm, 1, "float32", tmp_path / "cache")
        assert not keep and "cannot be written" in why
        with pytest.raises(UserError, match="cannot be written"):
            keep_token_states("on", 1.0, tokens, llm, 1, "float32", tmp_path / "cache")


def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SETTLED_SECONDS", -1.0)
    with serving({"/x/a.bin": b"data", "/x/b.bin": b"data"}) as server:
        recipe = recipe_of(f"{server.url}/x/a.bin")
        path = use(recipe, tmp_path)
        with read_only(tmp_path):
            assert use(recipe, tmp_path) == path
            with pytest.raises(UserError, match=LINE):
                fetch(recipe_of(f"{server.url}/x/b.bin"), tmp_path)


def test_a_whole_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTREC_CACHE", str(tmp_path / "cache"))
    of = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", "tmoe", "--set", *BLINK]
    assert main([*of, "--results", str(tmp_path / "first")]) == 0
    with read_only(tmp_path / "cache"):
        assert main([*of, "--results", str(tmp_path / "second")]) == 0
    ranks = [sorted((tmp_path / name).rglob("*.parquet")) for name in ("first", "second")]
    assert ranks[0][0].read_bytes() == ranks[1][0].read_bytes()
