"""Two processes (gloo) compute what one computes: loss, gradients, ranks, when to stop."""

from __future__ import annotations

from typing import Any

import core_processes
import numpy as np
import pytest
import torch
from forked import ended, fork_pair


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process and two processes measured."""
    folder = tmp_path_factory.mktemp("processes")
    pair = fork_pair(lambda: core_processes.save(folder), folder / "store")
    one = core_processes.measure(folder)
    assert [ended(process) for process in pair] == [0, 0]
    return one, torch.load(folder / "two.pt", weights_only=False)


def test_there_were_two(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert [found["processes"] for found in both] == [1, 2]


CASES = [
    f"{method} {candidates}" for method in core_processes.METHODS for candidates in core_processes.CANDIDATES
]
CASES += [f"{method} {encode} silent" for method in core_processes.TUNED for encode in ("unique", "cached")]
CASES += [f"one row {candidates}" for candidates in core_processes.CANDIDATES] + ["auxiliary"]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient(both: tuple[dict[str, Any], dict[str, Any]], case: str) -> None:
    one, two = (found[case] for found in both)
    torch.testing.assert_close(one["sums"], two["sums"], rtol=1e-5, atol=1e-6)
    assert one["gradients"].keys() == two["gradients"].keys()
    largest = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    assert "one row" in case or largest > 1e-3
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(
            gradient, two["gradients"][name], rtol=1e-4, atol=1e-6, msg=f"{case}: {name}"
        )


@pytest.mark.parametrize("method", core_processes.TUNED)
def test_gradient_caching_is_exact_under_dropout(
    both: tuple[dict[str, Any], dict[str, Any]], method: str
) -> None:
    """In one process and in two, each with masks of its own."""
    for found in both:
        plain, cached = found[f"{method} unique"], found[f"{method} cached"]
        torch.testing.assert_close(plain["sums"], cached["sums"])
        for name, gradient in plain["gradients"].items():
            torch.testing.assert_close(gradient, cached["gradients"][name], rtol=1e-3, atol=1e-6)
        silent = found[f"{method} cached silent"]
        assert not torch.equal(silent["sums"], cached["sums"]), "dropout was on"


@pytest.mark.parametrize("method", core_processes.TUNED)
def test_a_tuned_run_is_the_same_run(both: tuple[dict[str, Any], dict[str, Any]], method: str) -> None:
    one, two = (found[f"{method} run"] for found in both)
    assert one["problems"] == two["problems"] == []
    assert one["extra"] == two["extra"], "the ranks of AdaLoRA among others"
    for name in ("reason", "best_epoch", "step"):
        assert one[name] == two[name]
    assert one["encodings"] <= two["encodings"] < one["encodings"] * 1.2, "shares are filled up to be equal"
    assert np.allclose(one["curve"], two["curve"], rtol=1e-3)
    assert np.array_equal(one["test"], two["test"])


def test_want_of_memory_in_one_process_shrinks_the_chunks_of_all(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for found in both:
        short, plain = found["short"], found["lora run"]
        assert (short["chunk_tokens"], short["halvings"]) == (core_processes.CHUNK, 2)
        assert np.allclose(short["curve"], plain["curve"], rtol=1e-3), "with the same loss"
        assert short["step"] == plain["step"]


@pytest.mark.parametrize("method", [*core_processes.METHODS, *core_processes.TUNED])
def test_per_user_ranks(both: tuple[dict[str, Any], dict[str, Any]], method: str) -> None:
    one, two = (found[f"{method} ranks"] for found in both)
    for field in ("user", "raw", "masked"):
        assert np.array_equal(one[field], two[field])


@pytest.mark.parametrize("method", core_processes.METHODS)
def test_ranks_of_mixtures(both: tuple[dict[str, Any], dict[str, Any]], method: str) -> None:
    one, two = (found[f"{method} mixtures"] for found in both)
    assert len(one) == 10 and all(map(np.array_equal, one, two))


@pytest.mark.parametrize("method", core_processes.METHODS)
def test_a_process_without_users(both: tuple[dict[str, Any], dict[str, Any]], method: str) -> None:
    for name in ("user", "position", "raw"):
        assert np.array_equal(*(found[f"{method} several targets"][name] for found in both))
    assert np.array_equal(*(found[f"{method} one user"]["raw"] for found in both))


def test_a_whole_run_stops_at_the_same_epoch(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = (found["run"] for found in both)
    assert one["reason"] == two["reason"] == "patience"
    assert len(one["curve"]) == len(two["curve"]) > 3
    for name in ("best_epoch", "step"):
        assert one[name] == two[name]
    assert one["candidates"] == pytest.approx(two["candidates"])
    assert np.allclose(one["curve"], two["curve"], rtol=1e-3)
    assert np.array_equal(one["test"], two["test"])
