"""Energy of phases: counters of processors and GPUs, read from stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from core_worlds import make_world, recommender, trainer, with_settings
from report_ranks import ranked
from test_advice import advice_of, ranks

from benchmark import measure
from benchmark.report import answer

CPU = torch.device("cpu")


def package(root: Path, name: str, microjoules: int, most: int = 10_000_000) -> Path:
    """A folder as Linux has it for a domain of a processor."""
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_parts_of_a_package_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 1_000_000), package(tmp_path, "intel-rapl:1", 9_000_000)
    part = package(tmp_path, "intel-rapl:0:0", 0)
    monkeypatch.setattr(measure.energy_counters, "__defaults__", (tmp_path,))
    clock = measure.Stopwatch(CPU)
    with clock.phase("train"):
        first.write_text("3500000")  # 2.5 J
        second.write_text("2000000")  # past the largest value of 10 J: 3 J
        part.write_text("7000000")
    assert clock.joules["train"] == {"cpu": pytest.approx(2.5 + 3.0)}


@pytest.mark.parametrize("content", [None, "", "much"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path: Path, content: str | None) -> None:
    file = package(tmp_path, "intel-rapl:0", 1)
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert measure.energy_counters(CPU, tmp_path) == []


def test_a_gpu_counts_in_millijoules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stood = iter([0, 1_000, 6_500])  # the first read finds out whether there is a counter
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(stood),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="u"))
    (counter,) = measure.energy_counters(torch.device("cuda"), tmp_path)
    before = counter.read()
    assert (counter.kind, counter.since(before)) == ("gpu", 5.5)


def test_a_gpu_without_a_counter_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(handle: str) -> int:
        raise RuntimeError("Not Supported")

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=fails,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="u"))
    assert measure.energy_counters(torch.device("cuda"), tmp_path) == []


def test_the_answer_has_the_energy_up_to_the_chosen_epoch(tmp_path: Path) -> None:
    runs = [ranked(tmp_path, name, ranks(60)) for name in ("ssna", "tmoe")]
    for epoch in runs[0].record.curve:
        epoch.train_joules = {"gpu": 1800.0, "cpu": 900.0}
    block = answer.choices_block(advice_of(*runs))
    column = block.heads.index("training, Wh")
    # the chosen epoch is the eighth: 8 x 2700 J
    assert {row[0].text: row[column].text for row in block.rows} == {"ssna": "6", "tmoe": "n/a"}


def test_each_epoch_records_what_its_training_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package(tmp_path, "intel-rapl:0", 0)
    monkeypatch.setattr(measure.energy_counters, "__defaults__", (tmp_path,))
    settings, world = with_settings(epochs=2, patience=0), make_world(0)
    model = recommender(settings, world, "tmlp")
    made, _ = trainer(model, world.task(settings), settings, tmp_path / "checkpoint")
    train = made.train_epoch

    def uses_energy(epoch: int) -> tuple[float, float]:
        file.write_text(str(int(file.read_text()) + 1_000_000 * epoch))
        return train(epoch)

    made.train_epoch = uses_energy
    made.fit()
    assert [epoch.train_joules for epoch in made.progress.curve] == [{"cpu": 1.0}, {"cpu": 2.0}]
