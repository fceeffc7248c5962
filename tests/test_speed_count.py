"""What `speed` counts, against arithmetic by hand; and the guard that stands on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from data_folders import write_folder
from torch import Tensor, nn

from benchmark.cli import main
from benchmark.model.items import Batch
from benchmark.run.build import build_trainer
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.speed.count import Counter, counting
from benchmark.speed.guard import guard
from benchmark.speed.measure import count_evaluation, count_training
from benchmark.speed.record import Counts
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Trainer
from methods.errors import UserError

CPU = torch.device("cpu")
ITEMS = "abcdefghij"
USERS = {f"u{n}": " ".join(ITEMS[(n * 3 + step) % 10] for step in range(6)) for n in range(12)}
SMALL = ["precision=no", "width=8", "sasrec_inner=8", "batch_size=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("data") / "small", USERS, {item: f"thing {item}" for item in ITEMS}
    )


def counted(action: Callable[[], object]) -> Counts:
    with counting(CPU, "all") as counter:
        action()
    assert not counter.not_counted
    return counter.counted().total


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def linear(x: Tensor) -> Tensor:
    return F.linear(x, leaf(3, 7), leaf(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_map_forward_and_backward(dtype: torch.dtype) -> None:
    x = leaf(5, 7)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert counted(lambda: linear(x)).flops == 2 * 5 * 7 * 3
        # the gradients of x and of the weights are a product each; nobody asks for that of a constant
        both = counted(lambda: linear(x).sum().backward())
        assert both.flops == 3 * 2 * 5 * 7 * 3
        assert both.flops_fp32 == (both.flops if dtype == torch.float32 else 0)
        assert counted(lambda: linear(x.detach()).sum().backward()).flops == 2 * 2 * 5 * 7 * 3


def test_attention_is_two_products_forward_and_five_backward_where_it_is_fused() -> None:
    q, k, v = (leaf(2, 3, 8, 4) for _ in range(3))
    mask, product = torch.ones(8, 8, dtype=torch.bool).tril(), 2 * (2 * 3) * 8 * 8 * 4
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)).flops == 2 * product
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, mask)).flops == 2 * product
    assert (
        counted(lambda: F.scaled_dot_product_attention(q, k, v, mask).sum().backward()).flops == 7 * product
    )
    # with dropout a CPU has no fused kernel: the scores are kept, not computed again
    dropped = counted(lambda: F.scaled_dot_product_attention(q, k, v, mask, 0.5).sum().backward())
    assert dropped.flops == 6 * product


def test_recurrent_layers() -> None:
    x, steps, rows = torch.randn(3, 4, 5), 3, 4
    gru, lstm = nn.GRU(5, 6), nn.LSTM(5, 6)
    inputs, states = 2 * rows * 5 * (3 * 6), 2 * rows * 6 * (3 * 6)  # of a time step
    forward = steps * (inputs + states)
    assert counted(lambda: gru(x)).flops == forward
    # backward: gradients of both weights, and of every state but the first, which is a constant
    backward = steps * (inputs + states) + (steps - 1) * states
    assert counted(lambda: gru(x)[1].sum().backward()).flops == forward + backward
    with torch.no_grad():  # on a CPU one fused operator does it
        assert counted(lambda: lstm(x)).flops == 3 * 2 * 4 * (5 + 6) * (4 * 6)


def test_products_that_torchs_own_formulas_lack() -> None:
    a, b, v = torch.randn(4, 5), torch.randn(5, 6), torch.randn(5)
    assert counted(lambda: torch._addmm_activation(torch.randn(6), a, b)).flops == 2 * 4 * 5 * 6
    assert counted(lambda: (a @ v, v.dot(v), torch.addmv(a @ v, a, v))).flops == 2 * (20 + 5 + 20 + 20)


def test_a_product_without_a_formula_is_named() -> None:
    @torch.library.custom_op("adaptrec_test::own", mutates_args=())
    def own(x: Tensor) -> Tensor:
        return x @ x

    with counting(CPU, "all") as counter:
        own(torch.ones(2, 2))
        torch.cummax(torch.ones(2), 0)
        torch.einsum("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2))
        torch.cdist(torch.ones(40, 2), torch.ones(40, 2))  # multiplies inside where it is large
    assert "adaptrec_test.own" in counter.counted().not_counted
    assert "aten.cummax" not in counter.counted().not_counted


def test_what_the_host_reads() -> None:
    x = torch.randn(6)
    reads: list[tuple[Callable[[Tensor], object], int]] = [
        (Tensor.numpy, 24), (Tensor.tolist, 24), (lambda x: x[0].item(), 4), (lambda x: float(x.sum()), 4),
        (lambda x: bool(x[0] > 0), 1), (lambda x: x.cpu().numpy(), 24), (lambda x: x[x > 0], 0),
        (torch.nonzero, 0),
    ]  # fmt: skip
    for read, size in reads:
        counts = counted(partial(read, x))
        assert (counts.host_copies, counts.host_bytes) == (1, size)
    index = torch.tensor([0, 1])
    quiet = counted(lambda: (x[index], x.cpu(), x.sum(), torch.where(x > 0, x, -x)))
    assert (quiet.host_copies, quiet.host_bytes) == (0, 0)


def test_parts_add_up_and_watching_them_adds_nothing(folder: Path, tmp_path: Path) -> None:
    spec = RunSpec(
        str(folder), "random-tiny", "lora", "paper", 0, (*SMALL, "accumulation=2", "chunk_tokens=16")
    )
    trainer, _ = build_trainer(resolve_run(spec), Checkpoint(tmp_path))
    count_training(trainer, 1, epoch=1)  # the optimiser makes its state
    whole = count_training(trainer, 0, epoch=1)
    assert whole.whole_epoch and whole.steps > 1 and not whole.not_counted
    unwatched = counted(lambda: trainer.train_epoch(1))
    assert whole.total == unwatched
    parts = whole.parts
    # chunks run again as at first, but for the last product, which no gradient needs
    assert 0.99 < parts["encode again"].flops / parts["encode forward"].flops < 1
    assert parts["sasrec backward"].flops == 2 * parts["sasrec forward"].flops
    # the loss has its scores and both gradients ready in the forward pass
    assert parts["loss backward"].flops == 0 < parts["loss forward"].flops
    assert parts["loss forward"].flops % 3 == 0
    assert parts["optimiser"].flops == parts["data"].flops == 0
    passes = count_evaluation(trainer)
    assert passes.total == counted(lambda: trainer.rank_users(trainer.task.valid))
    assert all(passes.parts[part].flops > 0 for part in ("encode", "sasrec", "rank"))


@pytest.fixture
def expected(folder: Path, tmp_path: Path) -> Path:
    run = {"dataset": str(folder), "llm": "none", "method": "id", "protocol": "paper", "steps": 2}
    file = tmp_path / "counted.json"
    file.write_text(json.dumps({"runs": [{**run, "overrides": SMALL}]}))
    return file


@pytest.mark.parametrize(
    ("more", "figures"),
    [
        (lambda: torch.ones(1), {"operators"}),
        (lambda: torch.ones(1, 1) @ torch.ones(1, 1), {"operators", "flops", "flops_fp32"}),
        (lambda: torch.ones(3).numpy(), {"operators", "host_copies", "host_bytes"}),
    ],
)
def test_the_guard_catches_one_more_of_anything(
    expected: Path, monkeypatch: pytest.MonkeyPatch, more: Callable[[], object], figures: set[str]
) -> None:
    text, good = guard(expected)
    assert good and "new" in text and "Expected with no version yet" in text
    assert guard(expected, write=True)[1]
    assert guard(expected) == (guard(expected)[0], True)
    assert "WORSE" not in guard(expected)[0]
    step = Trainer.step

    def slower(trainer: Trainer, batches: Sequence[Batch]) -> Tensor:
        more()
        return step(trainer, batches)

    monkeypatch.setattr(Trainer, "step", slower)
    text, good = guard(expected)
    worse = {line.split("|")[1].split()[-1] for line in text.splitlines() if "WORSE" in line}
    assert (worse, good) == (figures, False)
    assert "--write" in text
    text, good = guard(expected, write=True)
    assert good and guard(expected)[1]
    monkeypatch.undo()
    text, good = guard(expected)
    assert good and "better" in text


def test_other_versions_may_run_a_few_more_operators(expected: Path) -> None:
    guard(expected, write=True)
    saved = json.loads(expected.read_text())
    saved["packages"]["torch"] = "2.0"
    counts = saved["runs"][0]["training"]
    counts["operators"] = round(counts["operators"] / 1.04)
    expected.write_text(json.dumps(saved))
    text, good = guard(expected)
    assert good and "allowed" in text and "torch 2.0" in text
    counts["operators"] = round(counts["operators"] / 1.04)
    expected.write_text(json.dumps(saved))
    assert not guard(expected)[1]


def test_the_command_ends_with_1_for_a_change_for_the_worse(
    expected: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["speed", "--guard", str(expected), "--write"]) == 0
    saved = json.loads(expected.read_text())
    saved["runs"][0]["evaluation"]["operators"] -= 1
    expected.write_text(json.dumps(saved))
    assert main(["speed", "--guard", str(expected)]) == 1
    assert "WORSE" in capfd.readouterr().out


@pytest.mark.parametrize("content", [None, "{", '{"runs": [{}]}'])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json") as caught:
        guard(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_counter_is_off_when_it_is_left() -> None:
    with counting(CPU, "all") as counter:
        torch.ones(2).numpy()
    before = counter.counted().total.model_copy()
    torch.ones(2).numpy()
    assert isinstance(counter, Counter) and counter.counted().total == before
