"""Costs on paper: hand-computed cases, and counted work against closed formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.llm.catalogue import resolve
from studies.__main__ import main
from studies.arithmetic import cost as arithmetic
from studies.arithmetic.cost import Assumptions, Schedule, Work, cost
from studies.arithmetic.table import span
from studies.arithmetic.work import count, llm_forward, schedule

A = Assumptions(
    items=1_000_000, users=100_000, interactions=1_300_000, text_tokens=10, epochs=2, evaluated_users=1000,
    matrix_tflops=100, fp32_tflops=10, utilisation=0.5, memory_gb=10, memory_gb_s=1000, host_gb_s=10,
    disk_gb_s=1, exchange_gb_s=10, step_ms=0, machine_gpus=8, gpu_hour=2, disk_gb_month=0.1, chunk_tokens=100,
)  # fmt: skip
S = Schedule(batch=1000, samples=3900, width=8, layers=1, inner=16, slots=4)
READER = Work("reader", "states", 2, 500, 1e6, 3e6, False, 1000, 0, 0, 16.0)


def test_a_step_by_hand() -> None:
    assert arithmetic.predictions(A) == 1_000_000  # 13 interactions a user, 10 predictions
    assert arithmetic.items_of_prediction(A, S) == pytest.approx(1 + 0.1 + 3.9)
    assert arithmetic.items_of_prediction(replace(A, items=900), S) == pytest.approx(1 + 0.1 + 0.9)
    block = 2 * (4 * 64 + 2 * 8 * 16 + 2 * 4 * 8)
    assert arithmetic.recommender_flops(S) == 3 * (block + 2 * 3900 * 8)
    assert arithmetic.prediction_flops(READER, A, S) == pytest.approx(5 * 3e6 + 3 * (block + 62_400))


def test_states_and_time_on_one_gpu() -> None:
    costs = cost(READER, 1e9, A, S, 1)
    assert costs.states == 1_000_000 * 2 * 500 * 2  # 2 GB, which the GPU holds
    assert costs.fetch == 0 and costs.exchange == 0
    assert costs.encode == pytest.approx(1e6 * 1e9 / 50e12)  # 20 s; writing 2 GB would take 2
    assert costs.table == 1e6 * 8 * 4
    assert costs.products == pytest.approx(1e6 * arithmetic.prediction_flops(READER, A, S) / 50e12)
    assert costs.optimiser == pytest.approx(1000 * 32 * 1000 / 1e12)
    assert costs.evaluation == pytest.approx(1e6 * 1e6 / 50e12 + 1000 * 1e6 * 16 / 5e12)
    assert costs.total == pytest.approx(20 + 2 * (costs.products + costs.optimiser + costs.evaluation))
    assert costs.dollars == pytest.approx(costs.total / 3600 * 2 + 2 * 0.1)


def test_states_that_do_not_fit_are_fetched() -> None:
    costs = cost(READER, 1e9, replace(A, memory_gb=2), S, 2)
    assert costs.fetch == pytest.approx(1e6 * 5 * 2000 / (2 * 10e9))
    assert costs.evaluation == pytest.approx(cost(READER, 1e9, A, S, 2).evaluation + 2e9 / 20e9)
    assert costs.epoch == pytest.approx(max(costs.products, costs.fetch) + costs.optimiser + costs.exchange)


def test_vectors_of_items_fill_the_memory_of_every_gpu() -> None:
    own = Work("own vectors", "ids", 0, 0, 0, 0, False, 0, 8, 0, 0.0)
    single, many = cost(own, 1e9, A, S, 1), cost(own, 1e9, A, S, 8)
    assert single.resident == pytest.approx(16 * 8e6 + 3 * 4 * 1000 * 3900)
    assert many.resident == single.resident and many.optimiser == single.optimiser  # replicated
    assert single.optimiser == pytest.approx(1000 * 32 * 8e6 / 1e12)
    assert many.exchange == pytest.approx(1000 * (8 * 8e6 + 12 * 5000 * 8) / 10e9)
    full = arithmetic.most_items(own, A, S)
    there = replace(A, items=round(full))
    assert arithmetic.resident_bytes(own, there, S) + 4 * there.items * 8 == pytest.approx(10e9, rel=1e-6)


def test_chunks_and_the_least_time_of_a_step() -> None:
    tuned = Work("tuned", "tokens", 0, 500, 1e6, 3e6, True, 1000, 0, 5000, 2e6)
    # ten texts of a chunk, not the step's 5,000, have their graph in memory
    assert arithmetic.resident_bytes(tuned, A, S) == pytest.approx(20_000 + 16_000 + 2e7 + 46_800_000)
    assert arithmetic.prediction_flops(tuned, A, S) == pytest.approx(
        5 * 4e6 + arithmetic.recommender_flops(S)
    )
    slow = cost(tuned, 1e9, replace(A, step_ms=50), S, 64)
    assert slow.epoch == pytest.approx(1000 * 0.05 + slow.optimiser + slow.exchange)
    assert slow.states == slow.encode == slow.fetch == 0
    whitened = cost(replace(tuned, state_layers=1), 1e9, replace(A, memory_gb=0.1), S, 1)
    assert whitened.states == 1e9 and whitened.encode == pytest.approx(20) and whitened.fetch == 0


def test_counted_work_is_that_of_closed_formulas() -> None:
    llm = resolve("random-tiny")  # 3 layers of 32, feed-forward 64
    width, inner, tokens = 32, 64, 12
    layer = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    assert llm_forward(llm, tokens) == 3 * layer
    mlp = count("tmlp", llm, tokens, "fair")
    assert (mlp.reads, mlp.state_layers, mlp.frozen, mlp.trained_per_item) == ("states", 1, 0, 0)
    assert mlp.forward == 2 * 32 * 256 + 2 * 256 * 256  # two linear layers
    assert mlp.forward < mlp.training <= 3 * mlp.forward
    mixture = count("tmoe", llm, tokens, "fair")  # experts and routing, and what a step needs once
    assert 2 * 32 * 8 * 256 < mixture.forward < 1.25 * 2 * 32 * 8 * 256
    own = count("id", llm, tokens, "fair")
    assert (own.trained, own.trained_per_item, own.forward, own.state_layers) == (0, 256, 0, 0)
    low = count("lora", llm, tokens, "fair")
    assert low.state_layers == 1  # whose mean and spread `whitened` starts from
    assert low.replayed and low.forward > 3 * layer and low.frozen > low.trained
    assert 1.9 * low.forward < low.training < 3 * low.forward and low.kept > 3 * tokens * width * 4


def test_the_schedule_is_the_protocols() -> None:
    fair, paper = schedule("fair"), schedule("paper")
    assert (fair.batch, fair.samples, fair.slots) == (2048, 4096, 64)
    assert (paper.batch, paper.samples) == (256, 256)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["arithmetic", "--llm", "random-tiny", "--methods", "id,tmlp", "--gpus", "1,8"]
    assert main([*arguments, "--set", "items=1000000", "users=100000", "interactions=1300000"]) == 0
    output = capsys.readouterr().out
    assert "1.0 million predictions an epoch" in output and output.count("| tmlp ") == 4
    assert main([*arguments, "--set", "itmes=3"]) == 2
    assert "'itmes'. Did you mean 'items'" in capsys.readouterr().err
    assert main([*arguments, "--set", "utilisation=2"]) == 2
    assert "utilisation=2 is not valid" in capsys.readouterr().err


def test_spans() -> None:
    assert [span(value) for value in (0, 5, 90, 7200, 172_800)] == ["", "5 s", "1.5 min", "2 h", "2 d"]
