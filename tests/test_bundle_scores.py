"""Level L4: ranks follow from the embeddings of items and users."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import Forge, invented

from benchmark.cli import main
from benchmark.data.prepare import Prepared
from benchmark.data.recipe import NO_OPTIONS
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify.bundle import make_bundle
from benchmark.verify.levels import verify
from benchmark.verify.truth import RunOnData, prepared_data

SMALL = ("epochs=2", "width=8", "sasrec_inner=8", "precision=no")


@pytest.fixture(scope="module", params=["cosine", "dot"])
def forge(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, own_cache: Path
) -> tuple[Forge, Prepared]:
    """A bundle with embeddings that reaches L4, and the data."""
    folder = tmp_path_factory.mktemp("bundle")
    overrides = (*SMALL, f"similarity={request.param}")
    path, _ = run(RunSpec("tiny", "none", "id", "fair", 0, overrides), folder / "results", keep_model=True)
    data, out = prepared_data(["tiny"], NO_OPTIONS), folder / "x.adaptrec.zip"
    make_bundle([path], out, data)
    found = verify(out, "L4", data)
    assert found.reached == "L4", found.faults
    return Forge.of(out), data[0]


def refused(forge: Forge, data: Prepared, folder: Path) -> str:
    path = folder / "x.adaptrec.zip"
    path.write_bytes(forge.packed())
    found = verify(path, "L4", [data])
    assert found.reached != "L4"
    assert "could not be checked" not in found.faults[0]
    return found.faults[0]


def saved(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def array(ending: str, change: Callable[[Any], Any]) -> Callable[[Forge], None]:
    def do(forge: Forge) -> None:
        name = forge.name(ending)
        forge.files[name] = saved(change(np.load(io.BytesIO(forge.files[name]))))

    return do


def bytes_of(ending: str, content: bytes) -> Callable[[Forge], None]:
    return lambda forge: forge.files.update({forge.name(ending): content})


BAD: dict[str, tuple[Callable[[Forge], None], str]] = {
    "other users": (array(".users.npy", lambda x: x[::-1]), "and its embeddings give"),
    "other items": (array(".items.npy", lambda x: np.roll(x, 1, axis=0)), "and its embeddings give"),
    "noise": (array(".items.npy", lambda x: x + np.float32(0.05) * np.sin(np.arange(x.size, dtype=np.float32))
                    .reshape(x.shape)), "and its embeddings give"),
    "states without a length": (array(".users.npy", lambda x: 0 * x), "scores so close give no ranks"),
    "fewer users": (array(".users.npy", lambda x: x[1:]), "of users are float32 [399, 8]"),
    "another type": (array(".items.npy", lambda x: x.astype(np.float64)), "of items are float64 [300, 8]"),
    "another width": (array(".items.npy", lambda x: x[:, :7]), "different widths: 7 and 8"),
    "NaN": (array(".users.npy", lambda x: x * np.float32("nan")), "of users are not all finite"),
    "a pickle": (array(".items.npy", lambda x: np.array([{}], dtype=object)), "of items are no NPY file"),
    "no array": (bytes_of(".items.npy", b"items"), "of items are no NPY file"),
    "items alone": (lambda forge: forge.files.pop(forge.name(".users.npy")) and None, "needs both or none"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_forged_embeddings_are_refused(forge: tuple[Forge, Prepared], tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    own = deepcopy(forge[0])
    change(own)
    assert message in refused(own, forge[1], tmp_path)


def test_invented_ranks_do_not_follow_from_the_embeddings(
    forge: tuple[Forge, Prepared], tmp_path: Path
) -> None:
    own, data = deepcopy(forge[0]), forge[1]
    is_cold = RunOnData(None, data).is_cold  # type: ignore[arg-type]

    def better(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) == 7, np.maximum(rank - 20, 1), rank)

    invented(own, is_cold, rank=better, rank_masked=better)
    assert "of user 7 is" in refused(own, data, tmp_path)

    def with_a_giant(items: Any) -> Any:
        """One item is huge in a dimension that no state has, so that all scores are the same."""
        items = np.pad(items, ((0, 0), (0, 1)))
        items[-1, -1] = 1e8
        return items

    array(".items.npy", with_a_giant)(own)
    array(".users.npy", lambda x: np.pad(x, ((0, 0), (0, 1))))(own)
    assert "of user 7 is" in refused(own, data, tmp_path)


def test_a_run_without_embeddings_does_not_reach_l4(
    forge: tuple[Forge, Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = deepcopy(forge[0])
    for ending in (".users.npy", ".items.npy"):
        del own.files[own.name(ending)]
    path = tmp_path / "x.adaptrec.zip"
    path.write_bytes(own.packed())
    assert main(["verify", str(path), "--level", "L4", "--data", "tiny"]) == 1
    shown = capsys.readouterr().out
    assert "it has no embeddings" in shown and shown.endswith("level reached: L3\n")
