"""Level L5: the same configuration on planted data whose seed was drawn afterwards."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import Forge, invented

from benchmark.cli import main
from benchmark.config import config_hash
from benchmark.data.catalogue import find
from benchmark.data.planted import parameters
from benchmark.data.recipe import NO_OPTIONS
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify.bundle import make_bundle
from benchmark.verify.challenge import write_recipe
from benchmark.verify.truth import RunOnData, prepared_data
from methods import CONTROLS

BEACON = "0123456789abcdef" * 4
COMMITTED = Path(__file__).resolve().parents[1] / "results/scientific/minilm/tmlp/ea239492fee7-s0.json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    """A bundle of a control on tiny, and of a run on real data."""
    folder = tmp_path_factory.mktemp("bundle")
    path, _ = run(RunSpec("tiny", "none", "transitions"), folder / "results")
    make_bundle([path], folder / "x.adaptrec.zip")
    return folder / "x.adaptrec.zip"


def challenged(bundle: Path, out: Path) -> int:
    return main(["challenge", str(bundle), "--beacon", BEACON, "--out", str(out)])


def test_an_honest_run_agrees(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert challenged(bundle, tmp_path) == 0
    shown = capsys.readouterr().out
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    bits = hashlib.sha256(f"adaptrec challenge 1\n{digest}\n{BEACON}\n".encode()).hexdigest()
    seed = int(bits[:16], 16) >> 1
    assert f"seed of the planted data: {seed}\n" in shown
    assert "recall@10: bundle" in shown and "ndcg@10: bundle" in shown and shown.count(": agrees") == 2
    assert shown.endswith("level L5 reached\n")
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
    assert "DOES NOT AGREE" in shown and shown.endswith("level L5 not reached\n")


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
