"""Level L5: the same configuration on planted data whose seed was drawn afterwards."""

from __future__ import annotations

import hashlib
import re
import time
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from forged import Forge, invented

from benchmark.cli import main
from benchmark.config import config_hash
from benchmark.data.catalogue import find
from benchmark.data.planted import parameters
from benchmark.data.recipe import NO_OPTIONS
from benchmark.files import path_component
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify.bundle import make_bundle
from benchmark.verify.challenge import TimeOverError, stopping, write_recipe
from benchmark.verify.guard import Request
from benchmark.verify.truth import RunOnData, prepared_data
from methods import CONTROLS

BEACON = "0123456789abcdef" * 4
COMMITTED = Path(__file__).resolve().parents[1] / "results/scientific/minilm/tmlp/ea239492fee7-s0.json"


SMALL = ("width=8", "sasrec_inner=8", "precision=no")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    """A bundle of a control on tiny."""
    folder = tmp_path_factory.mktemp("bundle")
    path, _ = run(RunSpec("tiny", "none", "transitions"), folder / "results")
    make_bundle([path], folder / "x.adaptrec.zip")
    return folder / "x.adaptrec.zip"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    """A bundle of a run on tiny that stopped long before its settings end it."""
    folder = tmp_path_factory.mktemp("trained")
    words = (*SMALL, "epochs=5000", "patience=1", "learning_rate=1")
    path, record = run(RunSpec("tiny", "none", "id", "fair", 0, words), folder / "results")
    assert record.epochs_run < 20
    make_bundle([path], folder / "x.adaptrec.zip")
    return folder / "x.adaptrec.zip"


def challenged(bundle: Path, out: Path, *words: str) -> int:
    return main(["challenge", str(bundle), "--beacon", BEACON, "--out", str(out), *words])


def test_an_honest_run_agrees(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert challenged(bundle, tmp_path) == 0
    shown = capsys.readouterr().out
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    bits = hashlib.sha256(f"adaptrec challenge 1\n{digest}\n{BEACON}\n".encode()).hexdigest()
    seed = int(bits[:16], 16) >> 1
    assert f"seed of the planted data: {seed}\n" in shown
    assert "recall@10: bundle" in shown and "ndcg@10: bundle" in shown and shown.count(": agrees") == 2
    assert shown.endswith("level L5 reached\n")
    for spread, least in re.findall(r"spread ([\d.]+)%.*no difference below [\d.]+ \(([\d.]+)%", shown):
        assert abs(float(least) - 4 * float(spread)) <= 0.25  # both are rounded
    assert shown.count("no difference below") == 2
    (folder,) = (tmp_path / "data").iterdir()
    assert parameters(find(str(folder))).seed == seed
    (record,) = tmp_path.glob("results/*/*/*/*.json")  # it can be looked at, and bundled
    assert record.parts[-4] == folder.name


def test_the_new_set_differs_from_the_old_one_by_its_seed_alone(tmp_path: Path) -> None:
    old, new = find("tiny"), find(str(write_recipe("tiny", 5, tmp_path)))
    assert new.synthetic == {**old.synthetic, "seed": 5}
    assert (new.settings, new.options() | {"synthetic": 0}) == (
        old.settings,
        old.options() | {"synthetic": 0},
    )


def test_invented_ranks_below_the_ceiling_do_not_agree(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data,) = prepared_data(["tiny"], NO_OPTIONS)
    is_cold = RunOnData(None, data).is_cold  # type: ignore[arg-type]

    def better(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) % 4 == 0, 1, rank)

    def alone(tied: Any) -> Any:
        return np.ones_like(tied)

    forge = invented(
        deepcopy(Forge.of(bundle)), is_cold, rank=better, rank_masked=better, tied=alone, tied_masked=alone
    )
    forged = tmp_path / "forged.adaptrec.zip"
    forged.write_bytes(forge.packed())
    assert main(["verify", str(forged), "--data", "tiny"]) == 0  # no other check can see it
    assert challenged(forged, tmp_path / "out") == 1
    shown = capsys.readouterr().out
    assert "DOES NOT AGREE" in shown and shown.endswith("level L5 not reached: 0 of 1 runs reached it\n")


def test_what_cannot_be_challenged_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real.adaptrec.zip"
    make_bundle([COMMITTED], real)
    other = tmp_path / "other.adaptrec.zip"
    forge = Forge.of(bundle).edit(lambda fields: fields["settings"].update(window=7))
    words = forge.record["data"]["key"], None, "none", "transitions", CONTROLS["transitions"]
    own = config_hash(*words, {"settings": {"window": 7}, "fixed": {}})
    other.write_bytes(forge.renamed(own).packed())
    for path, beacon, message in (
        (bundle, "12", "--beacon '12' is not 16 to 64 bytes"),
        (real, BEACON, "has no run on planted data"),
        (other, BEACON, "its window is '7', and the same options give '50' here"),
    ):
        assert main(["challenge", str(path), "--beacon", beacon, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "results").exists()


def test_the_bundle_does_not_choose_what_is_challenged(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = tmp_path / "hidden.adaptrec.zip"
    hidden.write_bytes(Forge.of(bundle).edit(lambda fields: fields["data"].pop("ceiling")).packed())
    assert challenged(hidden, tmp_path / "out") == 2
    assert "it states another ceiling than its planted data have" in capsys.readouterr().err
    both, files = tmp_path / "both.adaptrec.zip", Forge.of(bundle).files
    make_bundle([COMMITTED], both)
    both.write_bytes(Forge({**files, **Forge.of(both).files}).packed())
    assert challenged(both, tmp_path / "out") == 1
    *_, planted, real, last = capsys.readouterr().out.splitlines()
    assert planted.startswith("tiny/none/transitions/") and planted.endswith(": level L5 reached")
    assert real.startswith("scientific/minilm/tmlp/") and "not challenged" in real
    assert last == "level L5 not reached: 1 of 2 runs reached it"


def test_a_bundle_names_no_server_folder_or_file(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop(spec: RunSpec) -> None:
        asked.append(spec.llm)
        raise TimeOverError

    def at_l2(request: Request) -> SimpleNamespace:  # a control has no such words; L1 takes them
        digest = hashlib.sha256(request.path.read_bytes()).hexdigest()
        return SimpleNamespace(digest=digest, reaches=lambda level: True)

    monkeypatch.setattr("benchmark.verify.challenge.verify_guarded", at_l2)
    monkeypatch.setattr("benchmark.verify.challenge.resolve_run", stop)
    forged, server = tmp_path / "forged.adaptrec.zip", "tei:http://127.0.0.1:9999"
    config = Forge.of(bundle).edit(lambda fields: fields.update(overrides=["config=/etc/hostname"]))
    for forge, name in (
        (with_llm(bundle, server), server),
        (with_llm(bundle, "/tmp"), "/tmp"),
        (with_llm(bundle, "org/model"), "org/model"),
        (config, "/etc/hostname"),
    ):
        forged.write_bytes(forge.packed())
        assert challenged(forged, tmp_path / "out") == 2
        assert f"'{name}'" in capsys.readouterr().err.splitlines()[-1]
    assert asked == []
    for name, words in ((server, ("--llm", server)), ("minilm", ())):
        forged.write_bytes(with_llm(bundle, name).packed())
        assert challenged(forged, tmp_path / "out", *words) == 1
    assert asked == [server, "minilm"]


def with_llm(bundle: Path, name: str) -> Forge:
    """The bundle with another language model, at the path that this gives."""
    forge = Forge.of(bundle).edit(lambda fields: fields.update(llm=name))
    slug = path_component(name)
    return Forge({path.replace("/none/", f"/{slug}/"): content for path, content in forge.files.items()})


def test_training_is_bounded(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    challenged(trained, tmp_path)  # its figures are of no concern
    shown = capsys.readouterr().out
    most = 3 * len(Forge.of(trained).record["curve"])
    assert f"it trains epochs={most} at most" in shown and "recall@10: bundle" in shown


def test_time_is_bounded(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SMALL, "epochs=1000000", "patience=0")
    with pytest.raises(TimeOverError), stopping(time.monotonic() + 1.5):
        run(RunSpec("tiny", "none", "id", "fair", 0, words), tmp_path / "stopped")
    assert not [*tmp_path.glob("stopped/**/*.json"), *tmp_path.glob("stopped/**/*.lock")]

    def over(*_: object) -> None:
        raise TimeOverError

    monkeypatch.setattr("benchmark.verify.challenge.execute", over)
    assert challenged(bundle, tmp_path) == 1
    assert "stopped, since --seconds are over" in capsys.readouterr().out
