"""What verify says of forged costs, trials and seeds of committed rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from data_folders import BLINK
from forged import Fields, Forge

from benchmark.cli import main
from benchmark.verify.bundle import make_bundle
from benchmark.verify.levels import verify

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = {
    "search": "scientific/minilm/tmlp/ea239492fee7-s0.json",
    "mixture": "scientific/minilm/tmoe/2915566ea6b9-s0.json",
    "control": "scientific/minilm/text-knn/e544b4cf49e3-s0.json",
    "popularity": "beauty/none/popularity/aa42f82938f9-s0.json",
}


@pytest.fixture(scope="module")
def forge_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Forge]:
    """A bundle of a committed run that can be changed."""
    folder = tmp_path_factory.mktemp("rows")

    @cache
    def files(name: str) -> dict[str, bytes]:
        make_bundle([RESULTS / ROWS[name]], folder / f"{name}.adaptrec.zip")
        return Forge.of(folder / f"{name}.adaptrec.zip").files

    return lambda name: Forge(dict(files(name)))


def fault_of(forge: Forge, folder: Path) -> str:
    path = folder / "x.adaptrec.zip"
    path.write_bytes(forge.packed())
    return next(iter(verify(path, "L2").faults), "")


FORGED: dict[str, tuple[str, Callable[[Fields], Any], str]] = {
    "a search in no time": (
        "search", lambda f: f["tuning"].update(train_seconds=1.0), "its search took 1 train_seconds, and its",
    ),
    "a trial in less time than its run": (
        "search", lambda f: scaled(f, "train_seconds", 0.5), "its own trial took",
    ),
    "a trial of fewer epochs than its run": (
        "search", lambda f: own_trial(f).update(epochs_run=1, best_epoch=1), "its own trial 1 and 1",
    ),
    "a mixture in less time than its trials": (
        "mixture", lambda f: f["fusion"].update(seconds=0.5), "its mixture took less time than the trials",
    ),
    "a control validated in no time": (
        "control", lambda f: f["cost"].update(eval_seconds=0.001), "eval_seconds are 0.001, and its trials",
    ),
    "another language model's name": (
        "search", lambda f: f["llm_details"].update(name="e5-small"), "its details are those of 'e5-small'",
    ),
    "another language model's commit": (
        "search", lambda f: f["llm_details"].update(revision="0" * 40), "the short name means 1110a243",
    ),
    "another language model's weights": (
        "search", lambda f: f["llm_details"].update(digest="0" * 64), "the short name means 53aa5117",
    ),
    "details of no language model": (
        "popularity", lambda f: f["llm_details"].update(width=384), "its language model is 'None'",
    ),
    "a mixture without its control": (
        "mixture", lambda f: f.update(fusion=None), "the control of its mixture is 'none'",
    ),
    "a mixture that was not to be": (
        "mixture", lambda f: f["settings"].update(fuse="none"), "its fuse is 'none', and the control",
    ),
    "trained beyond its patience": (
        "search", lambda f: f["settings"].update(patience=2), "end it by patience after epoch",
    ),
    "a space without names": (
        "search", lambda f: f["tuning"].update(space=[{"x": 1}, {}]), "tuning.space.0",
    ),
    "a space with nothing to draw": (
        "search", lambda f: f["tuning"]["space"][0].update(low=1, high=1), "has neither values nor a range",
    ),
    "energy that came back": (
        "search", lambda f: f["curve"][0].update(train_joules={"cpu": -1e308}), "'curve.train_joules.cpu' is",
    ),
    "a trial before the first": (
        "search", lambda f: f.update(trial_of={"number": -7, "search": f["tuning"]}), "of.number' is -7",
    ),
    "a control that stopped": (
        "control", lambda f: f.update(stopped="epochs"), "it is of a control, which has no epochs",
    ),
    "a control with epochs": (
        "control", lambda f: f["cost"].update(train_seconds=1.0), "has no epochs, and has train_seconds",
    ),
}  # fmt: skip

IMPOSSIBLE: list[tuple[tuple[str, ...], float]] = [
    (("liveness", "trainable_parameters"), -1),
    (("liveness", "ranks_moved"), -1e308),
    (("generation",), -5),
    (("environment", "threads"), -1),
    (("environment", "world_size"), 0),
    (("environment", "load_average"), -1.0),
    (("cost", "peak_memory", "train", "host"), -1),
    (("cost", "peak_memory", "train", "host"), 2**51),
    (("cost", "prepare_seconds"), 1e308),
    (("tuning", "budget"), -7),
    (("tuning", "train_seconds"), -1.0),
]


@pytest.mark.parametrize(("path", "value"), IMPOSSIBLE)
def test_impossible_figures_are_refused(
    forge_of: Callable[[str], Forge], tmp_path: Path, path: tuple[str, ...], value: float
) -> None:
    def change(fields: Fields) -> None:
        for name in path[:-1]:
            fields = fields[name]
        assert path[-1] in fields
        fields[path[-1]] = value

    fault = fault_of(forge_of("search").edit(change), tmp_path)
    assert f"its '{'.'.join(path)}' is {value!r}; it is from" in fault


def own_trial(fields: Fields) -> Fields:
    trials: list[Fields] = fields["tuning"]["trials"]
    return next(trial for trial in trials if trial["config_hash"] == fields["config_hash"])


def scaled(fields: Fields, name: str, share: float) -> None:
    """The row's own trial took less, and the search with it."""
    trial, tuning = own_trial(fields), fields["tuning"]
    tuning[name] -= trial[name] * (1 - share)
    trial[name] *= share


@pytest.mark.parametrize("name", FORGED)
def test_invented_costs_are_refused(forge_of: Callable[[str], Forge], tmp_path: Path, name: str) -> None:
    row, change, message = FORGED[name]
    assert message in fault_of(forge_of(row).edit(change), tmp_path)


def as_seed_one(forge: Forge, change: Callable[[Fields], Any] = lambda fields: None) -> Forge:
    """The same run again, marked as seed 1."""
    other = Forge(dict(forge.files)).edit(lambda fields: (fields.update(seed=1), change(fields)))
    return Forge({name.replace("-s0.", "-s1."): content for name, content in other.files.items()})


def other_losses(fields: Fields) -> None:
    for point in fields["curve"]:
        point["loss"] += 1e-3


def test_one_run_is_not_two_seeds(forge_of: Callable[[str], Forge], tmp_path: Path) -> None:
    forge = forge_of("search")
    twice = Forge(forge.files | as_seed_one(forge).files)
    assert "of the seeds 0 and 1, and have the same curve" in fault_of(twice, tmp_path)
    hidden = Forge(forge.files | as_seed_one(forge, other_losses).files)
    assert "of the seeds 0 and 1, and have the same ranks" in fault_of(hidden, tmp_path)


def test_a_control_draws_nothing(forge_of: Callable[[str], Forge], tmp_path: Path) -> None:
    forge = forge_of("popularity")
    assert fault_of(Forge(forge.files | as_seed_one(forge).files), tmp_path) == ""


def test_one_run_is_not_two_seeds_of_a_store(
    forge_of: Callable[[str], Forge], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "results"
    store.mkdir()
    for number, forge in enumerate((forge_of("search"), as_seed_one(forge_of("search"), other_losses))):
        for name, content in forge.files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert main(["add", str(tmp_path / "0" / "runs"), "--results", str(store)]) == 0
    assert main(["add", str(tmp_path / "1" / "runs"), "--results", str(store)]) == 2
    said = capsys.readouterr().err
    assert "entry 1 and scientific/" in said and "one run stands for two" in said


def test_a_configuration_of_peft_is_named_by_its_parts(folder: Path, tmp_path: Path) -> None:
    config = '{"target_modules": ["query"], "peft_type": "IA3", "feedforward_modules": []}'
    command = ["run", "--dataset", str(folder), "--llm", "random-tiny", "--method", "peft"]
    command += ["--set", *BLINK, "epochs=1", f"config={config}", "--results", str(tmp_path)]
    assert main(command) == 0
    (record,) = tmp_path.rglob("*-s0.json")
    make_bundle([record], tmp_path / "all.adaptrec.zip")
    forge = Forge.of(tmp_path / "all.adaptrec.zip")
    assert fault_of(forge, tmp_path) == ""
    for config in ('{"peft_type": "<b>"}', '{"<b>": 1}', '{"peft_type": "<b>"', "[" * 99):
        other = Forge(dict(forge.files)).edit(lambda f, text=config: f["hyperparameters"].update(config=text))
        assert "a hyper-parameter is no plain name" in fault_of(other, tmp_path)
