"""Level L3: what the data at hand show of a bundle whose arithmetic is right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_folders import TEN, TWELVE, write_folder
from forged import Forge, column, invented

from benchmark.cli import main
from benchmark.data.prepare import Prepared
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.run.run import run
from benchmark.run.spec import RunSpec
from benchmark.verify.bundle import make_bundle
from benchmark.verify.levels import verify
from benchmark.verify.truth import RunOnData, prepared_data

ROOT = Path(__file__).resolve().parents[1]
SETS = ("tiny", "tiny-shuffled")


@pytest.fixture(scope="module")
def forges(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> dict[str, tuple[Forge, Prepared]]:
    """Of each planted set: a good bundle of a control, and the data."""
    folder, found = tmp_path_factory.mktemp("bundle"), {}
    for name in SETS:
        path, _ = run(RunSpec(name, "none", "popularity"), folder / "results")
        out = folder / f"{name}.adaptrec.zip"
        make_bundle([path], out)
        (prepared,) = prepared_data([name], NO_OPTIONS)
        assert verify(out, "L3", [prepared]).reached == "L3"
        found[name] = Forge.of(out), prepared
    return found


def cold(prepared: Prepared) -> Any:
    on = RunOnData(None, prepared)  # type: ignore[arg-type]
    return on.is_cold


def first(rank: Any) -> Any:
    return np.ones_like(rank)


def all_first(forge: Forge, data: Prepared) -> Forge:
    """The best figures that there are."""
    return invented(forge, cold(data), rank=first, tied=first, rank_masked=first, tied_masked=first)


def a_little_better(forge: Forge, data: Prepared) -> Forge:
    """Every third target of the last ranks is first."""

    def some(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) % 3 > 0, 1, rank)

    return invented(forge, cold(data), rank=some, rank_masked=some, tied=first, tied_masked=first)


def cold_first(forge: Forge, data: Prepared) -> Forge:
    """Cold targets are found, as if their texts said something, and warm ones are not."""

    def some(rank: Any) -> Any:
        return np.where(cold(data), 1, 250)

    return invented(forge, cold(data), rank=some, rank_masked=some, tied=first, tied_masked=first)


def masked_too_far(forge: Forge, data: Prepared) -> Forge:
    def last(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) == 5, 280, rank)

    def near(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) == 5, 1, rank)

    return invented(forge, cold(data), rank=last, rank_masked=near, tied=first, tied_masked=first)


def beyond_what_is_left(forge: Forge, data: Prepared) -> Forge:
    def last(rank: Any) -> Any:
        return np.where(np.arange(len(rank)) == 5, 300, rank)

    return invented(forge, cold(data), rank=last, rank_masked=last, tied=first, tied_masked=first)


def history_in_a_list(forge: Forge, data: Prepared) -> Forge:
    def change(rows: list[Any]) -> list[Any]:
        own = data.items[: data.offsets[1]].tolist()
        seen = next(item for item in own[:-1] if item not in rows[0])
        return [[*rows[0][:-1], seen], *rows[1:]]

    return forge.table(".top.parquet", column("items", change))


def other_targets(forge: Forge, data: Prepared) -> Forge:
    """Two targets that stand in no list change places."""

    def change(values: list[Any]) -> list[Any]:
        out = [*values]
        one, other = np.flatnonzero(cold(data))[:2]  # the control ranks them last
        out[one], out[other] = (values[other], values[one]) if values[one] != values[other] else (0, 1)
        return out

    return forge.table(".top.parquet", column("target", change))


def no_cold_targets(forge: Forge, data: Prepared) -> Forge:
    def change(fields: dict[str, Any]) -> None:
        fields["cold_targets"] = 0
        fields["metrics"] = {
            name: value
            for name, value in fields["metrics"].items()
            if "warm" not in name and "cold" not in name
        }

    return forge.edit(change)


def cold_targets_found(forge: Forge, data: Prepared) -> Forge:
    """Cold targets do better, and warm ones so much worse that together they give the same test metrics."""
    share = cold(data).mean()

    def change(fields: dict[str, Any]) -> None:
        warm, cold = (fields["metrics"][f"test_{part}_masked"] for part in ("warm", "cold"))
        cold["recall@50"] += 0.01
        warm["recall@50"] -= 0.01 * share / (1 - share)

    return forge.edit(change)


def no_parts(forge: Forge, data: Prepared) -> Forge:
    """Nothing is said of warm and cold targets, though the data have both."""

    def change(fields: dict[str, Any]) -> None:
        for part in ("warm", "cold"):
            for form in ("", "_masked"):
                del fields["metrics"][f"test_{part}{form}"]

    return forge.edit(change)


def cold_weight(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields.update(cold_weight=float(cold(data).sum())))


def other_content(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["fingerprint"].update(sha256="0" * 64))


def other_counts(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["fingerprint"].update(interactions=1))


def other_split(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["recipe"].update(split="by-time"))


def no_core(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["recipe"].pop("core"))


def other_ceiling(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["ceiling"]["test"].update({"recall@10": 1.0}))


def other_chance(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["chance"]["test_masked"].update({"recall@10": 0.001}))


def no_chance(forge: Forge, data: Prepared) -> Forge:
    return forge.edit(lambda fields: fields["data"]["chance"].pop("test"))


BAD: list[tuple[str, Callable[[Forge, Prepared], Forge], str]] = [
    ("tiny", all_first, "its test recall@10 is 1.0000; the best possible one is"),
    ("tiny", a_little_better, "the best possible one is"),
    ("tiny-shuffled", cold_first, "chance among cold items, whose texts are shuffled, is"),
    ("tiny", masked_too_far, "masking moves the rank of user 5"),
    ("tiny", beyond_what_is_left, "a masked rank of user 5 lies beyond"),
    ("tiny", history_in_a_list, "the list of user 0 has an item of the user's history"),
    ("tiny", other_targets, "its lists have other targets than the data"),
    ("tiny", no_cold_targets, "it counts 0 cold test targets, and the data have"),
    ("tiny", cold_targets_found, "test_warm_masked recall@50 is"),
    ("tiny", no_parts, "it has no metrics of test_warm, of which the data have"),
    ("tiny", cold_weight, "its cold test targets weigh"),
    ("tiny", other_content, "they are other data under the same name"),
    ("tiny", other_counts, "its fingerprint has 1 interactions, and the data have"),
    ("tiny", other_split, "its data were made with 'split' 'by-time', and those at hand with"),
    ("tiny", no_core, "its data were made with 'core' 'None', and those at hand with"),
    ("tiny", other_ceiling, "it states another ceiling"),
    ("tiny", other_chance, "its test_masked recall@10 of a random order is 0.001, and its data give"),
    ("tiny", no_chance, "it does not state what a random order gives on each split"),
]


@pytest.mark.parametrize(("name", "forged", "message"), BAD)
def test_data_show_what_arithmetic_cannot(
    forges: dict[str, tuple[Forge, Prepared]], tmp_path: Path, name: str, forged: Any, message: str
) -> None:
    forge, data = forges[name]
    path = tmp_path / "x.adaptrec.zip"
    path.write_bytes(forged(deepcopy(forge), data).packed())
    found = verify(path, "L3", [data])
    assert found.reached == "L2", found.faults
    assert message in found.faults[0]


def test_data_of_another_key(forges: dict[str, tuple[Forge, Prepared]], tmp_path: Path) -> None:
    forge, data = forges["tiny"]
    path = tmp_path / "x.adaptrec.zip"
    path.write_bytes(forge.packed())
    found = verify(path, "L3", [replace(data, key="0" * 12)])
    assert found.reached == "L2"
    assert f"its data have the key '{data.key}', and those at hand 000000000000" in found.faults[0]


def test_data_that_are_not_at_hand_are_named(
    forges: dict[str, tuple[Forge, Prepared]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.adaptrec.zip"
    path.write_bytes(forges["tiny"][0].packed())
    assert main(["verify", str(path), "--data", "tiny-shuffled"]) == 1
    assert "its data are not at hand; name 'tiny' by --data" in capsys.readouterr().out
    assert main(["verify", str(path), "--data", "tiny-shuffled", "tiny"]) == 0
    assert capsys.readouterr().out.endswith("level reached: L3\n")
    assert main(["verify", str(path), "--level", "L3"]) == 2
    assert "L3 and L4 need the data" in capsys.readouterr().err


def run_on(folder: Path, results: Path) -> tuple[Path, Prepared]:
    """A bundle of a control on the data in a folder, and these data."""
    path, _ = run(RunSpec(str(folder), "none", "popularity"), results)
    make_bundle([path], out := results / "x.adaptrec.zip")
    (prepared,) = prepared_data([str(folder)], NO_OPTIONS)
    return out, prepared


def test_other_data_under_the_name_of_a_recipe(
    forges: dict[str, tuple[Forge, Prepared]], tmp_path: Path
) -> None:
    """Also where they are the only data at hand."""
    path, prepared = run_on(write_folder(tmp_path / "tiny", TWELVE, TEN), tmp_path / "results")
    found = verify(path, "L3", [prepared])
    assert found.reached == "L2"
    for digest in (prepared.fingerprint["sha256"], forges["tiny"][1].fingerprint["sha256"]):
        assert digest in found.faults[0]
    path, prepared = run_on(write_folder(tmp_path / "scientific", TWELVE, TEN), tmp_path / "results")
    (fault,) = verify(path, "L3", [prepared]).faults
    assert "its data have 12 users, and the recipe 'scientific' expects 8442" in fault


def test_other_data_under_the_name_of_the_projects_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "results"
    _, own = run_on(write_folder(tmp_path / "a" / "shop", TWELVE, TEN), store)
    path, prepared = run_on(folder := write_folder(tmp_path / "b" / "shop", texts=TEN), tmp_path / "theirs")
    found = verify(path, "L3", [prepared], store)
    assert found.reached == "L3"
    assert any("'shop', whose data no record of the project and no" in line for line in found.lines())
    assert main(["add", str(store), "--results", str(store)]) == 0
    capsys.readouterr()
    assert main(["verify", str(path), "--data", str(folder), "--results", str(store)]) == 1
    shown = capsys.readouterr().out
    assert (
        f"{prepared.fingerprint['sha256']}, and entry 1 of the store has {own.fingerprint['sha256']}" in shown
    )


def test_the_truth_needs_no_torch(forges: dict[str, tuple[Forge, Prepared]], tmp_path: Path) -> None:
    path = tmp_path / "x.adaptrec.zip"
    path.write_bytes(forges["tiny"][0].packed())
    code = (
        "import sys\nfrom pathlib import Path\nfrom benchmark.data.recipe import NO_OPTIONS\n"
        "from benchmark.verify.levels import verify\nfrom benchmark.verify.truth import prepared_data\n"
        f"assert verify(Path({str(path)!r}), 'L3', prepared_data(['tiny'], NO_OPTIONS)).reached == 'L3'\n"
        "print(*sorted({'torch', 'transformers', 'methods.registry'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_committed_records_reach_l3(real_data: Path, tmp_path: Path) -> None:
    """Of two methods and a control, of both versions of ranks, with and without lists."""
    options = FolderOptions(recipe="scientific")
    data = prepared_data([str(real_data / "scientific")], options)
    records = sorted((ROOT / "results/scientific").glob("minilm/t[em]*/*.json"))
    out = tmp_path / "x.adaptrec.zip"
    made = make_bundle(records, out)
    found = verify(out, "L3", data)
    assert found.reached == "L3" and found.runs == made.runs == len(records) > 10, found.faults
