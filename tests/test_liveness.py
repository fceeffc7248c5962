"""The certificate of a run: what it counts, and that each way of being dead is named."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch
import torch.distributed as dist
from core_worlds import make_world, recommender, trainer, with_settings
from forked import ended, fork_pair
from torch import nn

from benchmark.train.liveness import Liveness, NotAliveError, combined, digest


class Tuned(nn.Module):
    """Made up, with one tensor of every kind: a frozen base, LoRA's pair, buffers kept and not kept."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3, 3, bias=False).requires_grad_(False)
        self.a = nn.Parameter(torch.ones(2, 3))
        self.b = nn.Parameter(torch.zeros(3, 2))
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("lost", torch.zeros(2), persistent=False)
        self.problem = None

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T

    def fault(self):
        return self.problem


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.method = Tuned()
        self.top = nn.Linear(3, 1)

    def forward(self, x):
        return self.top(self.method(x))


def alive(steps=2, **group):
    """A model after `steps` of Adam, and its watcher."""
    torch.manual_seed(0)
    model = Model()
    optimiser = torch.optim.Adam([{"params": [p for p in model.parameters() if p.requires_grad], **group}])
    watcher = Liveness(model, optimiser)
    for _ in range(steps):
        step(model, optimiser)
    return model, optimiser, watcher


def step(model, optimiser):
    optimiser.zero_grad()
    model(torch.ones(4, 3) + torch.arange(3.0)).square().mean().backward()
    optimiser.step()


def judged(watcher, ranks_moved=0.5):
    watcher.trained()
    return watcher.certificate(ranks_moved)


def test_a_live_run_by_hand():
    model, _, watcher = alive()
    found = judged(watcher)
    assert found.problems == []
    assert (found.trainable_tensors, found.trainable_parameters) == (4, 6 + 6 + 3 + 1)
    assert (found.reached, found.changed, found.frozen_tensors) == (4, 4, 3)
    assert (found.decayed, found.pruned, found.moved_buffers, found.ranks_moved) == (0, 0, [], 0.5)
    frozen = {
        "method.base.weight": digest(model.method.base.weight),
        "method.kept": digest(torch.zeros(())),
        "method.lost": digest(torch.zeros(2)),
    }
    assert found.frozen_digest == combined(frozen)


def test_digest_is_sha256_of_type_shape_and_bytes():
    wanted = hashlib.sha256(b"torch.float32 [2, 1]" + struct.pack("<2f", 1.5, -2.0)).hexdigest()
    assert digest(torch.tensor([[1.5], [-2.0]])) == wanted
    turned = torch.arange(6.0).reshape(2, 3).T
    assert digest(turned) == digest(turned.contiguous())
    assert len({digest(torch.zeros(shape)) for shape in ((6,), (2, 3), (3, 2), (0,), ())}) == 5
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, dtype=torch.int32))
    assert digest(torch.ones(2).bfloat16()) == digest(torch.ones(4).bfloat16()[::2])


def test_a_tensor_that_no_gradient_reaches():
    model, optimiser, watcher = alive(steps=0)
    model.method.b.register_hook(torch.zeros_like)  # so that a never gets one either
    for _ in range(3):
        step(model, optimiser)
    found = judged(watcher)
    assert found.problems[0] == "no gradient reached method.a, method.b"
    assert found.problems[1] == "training did not change method.a, method.b"
    assert (found.reached, found.changed) == (2, 2)


def test_a_tensor_that_never_had_a_gradient_at_all():
    model, _, _ = alive(steps=0)
    model.unused = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    watcher = Liveness(model, optimiser)
    for _ in range(2):
        step(model, optimiser)
    assert judged(watcher).problems == ["no gradient reached unused", "training did not change unused"]


def test_a_run_of_one_step_is_named_as_the_cause():
    """What `b`, which begins at zero, multiplies cannot have a gradient before the second step."""
    problem = judged(alive(steps=1)[2]).problems[0]
    assert (
        problem.startswith("the run had one optimiser step in all")
        and "raise epochs or lower batch_size" in problem
    )
    assert problem.endswith("No gradient reached method.a")


def test_gradients_that_move_nothing():
    model, _, watcher = alive(lr=1e-12)  # lost in rounding
    model.method.b.data.fill_(1e-12)
    found = judged(watcher)
    assert found.reached == 4
    assert found.problems == ["training did not change method.a, top.bias, top.weight"]


def test_decay_alone_is_not_taken_for_a_gradient():
    found = judged(alive(weight_decay=0.1)[2])
    assert (found.reached, found.decayed, found.changed, found.problems) == (0, 4, 4, [])
    decoupled = judged(alive(weight_decay=0.1, decoupled_weight_decay=True)[2])
    assert (decoupled.reached, decoupled.decayed) == (4, 0)


def test_best_epoch_before_a_tensor_moved():
    model, optimiser, watcher = alive(steps=1)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(best["method.a"], torch.ones(2, 3))
    step(model, optimiser)
    watcher.trained()
    model.load_state_dict(best)
    assert watcher.certificate(0.5).problems == []


def test_a_tensor_pruned_back_to_zero_is_alive_and_counted():
    model, _, watcher = alive()
    model.method.b.data.zero_()
    found = judged(watcher)
    assert (found.problems, found.pruned, found.changed) == ([], 1, 4)


def test_frozen_weights_and_unsaved_buffers_must_stay():
    model, _, watcher = alive()
    model.method.base.weight.data[0, 0] += 1e-6
    model.method.lost += 1
    found = judged(watcher)
    assert found.problems == ["training changed what is frozen: method.base.weight, method.lost"]


def test_a_saved_buffer_may_move_and_is_named():
    model, _, watcher = alive()
    model.method.kept += 1
    found = judged(watcher)
    assert (found.problems, found.moved_buffers) == ([], ["method.kept"])


def test_what_requires_gradients_must_be_what_trains():
    model = Model()
    every = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(NotAliveError, match=r"in no group .*would not train: method\.a$"):
        Liveness(model, torch.optim.Adam(every[1:]))
    with pytest.raises(NotAliveError, match=r"but frozen .*: method\.base\.weight$"):
        Liveness(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(NotAliveError, match=r"no part of the model.*: one of shape \[7\]$"):
        Liveness(model, torch.optim.Adam([*every, nn.Parameter(torch.ones(7))]))
    with pytest.raises(
        NotAliveError, match=r"learning rate of 0: method\.a, method\.b, top\.bias and 1 more$"
    ):
        Liveness(model, torch.optim.Adam(every, lr=0.0))
    with pytest.warns(UserWarning), pytest.raises(NotAliveError, match=r"more than once .*: method\.a$"):
        Liveness(model, torch.optim.Adam([*every, every[0]]))


def test_what_trains_must_not_change_on_the_way():
    model, _, watcher = alive()
    model.method.a.requires_grad_(False)
    assert "but frozen (requires_grad is False): method.a" in judged(watcher).problems[0]


def test_a_tensor_that_comes_or_goes():
    model, _, watcher = alive()
    model.register_buffer("new", torch.ones(1))
    del model.method.lost
    problems = judged(watcher).problems
    assert problems[:2] == [
        "the model no longer has method.lost",
        "the model has, and had not before training, new",
    ]


def test_ranks_that_stay_and_the_methods_own_fault():
    model, _, watcher = alive()
    model.method.problem = "no rank moved"
    assert judged(watcher, 0.0).problems == [
        "no user's rank differs from the one before training",
        "no rank moved",
    ]


def test_proof_survives_a_resumed_run():
    model, optimiser, _ = alive()
    saved = (
        {name: p.clone() for name, p in model.named_parameters() if p.requires_grad},
        optimiser.state_dict(),
    )
    twin, optimiser, watcher = alive(steps=0)
    twin.load_state_dict(saved[0], strict=False)
    optimiser.load_state_dict(saved[1])
    assert judged(watcher).problems == []


@pytest.mark.parametrize("method", ["id", "tmlp", "tmoe", "ssna", "ssna-mean", "ssna-weighted"])
def test_real_runs_are_alive_and_so_are_resumed_ones(method, tmp_path):
    settings, world = with_settings(epochs=2, patience=0), make_world(0)

    def run(settings, folder):
        made, _ = trainer(recommender(settings, world, method), world.task(settings), settings, folder)
        watcher = Liveness(made.model, made.optimiser)
        made.fit()
        watcher.trained()
        made.test()
        return watcher.certificate(1.0)

    found = run(settings, tmp_path)
    assert found.problems == []
    assert found.reached == found.changed == found.trainable_tensors > 20
    assert run(settings, tmp_path) == found  # goes on after the last epoch: nothing is left to train


TOGETHER = {
    "alike": [],
    "one is ill": ["rank 1 is ill"],
    "apart": ["the processes trained apart: their weights differ after the last epoch"],
}
"""What ails rank 1, and what both then say."""


def judge_together(folder):
    """One of two processes; what it finds goes into a file."""
    rank, problem = dist.get_rank(), {}
    for case in TOGETHER:
        model, _, watcher = alive()
        if rank and case == "apart":
            model.top.bias.data += 1e-6
        if rank and case == "one is ill":
            model.method.problem = "rank 1 is ill"
        problem[case] = judged(watcher).problems
    (folder / f"{rank}.json").write_text(json.dumps(problem))


def test_processes_come_to_one_judgement(tmp_path):
    pair = fork_pair(lambda: judge_together(tmp_path), tmp_path / "store")
    assert [ended(process) for process in pair] == [0, 0]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [TOGETHER, TOGETHER]
