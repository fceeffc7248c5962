"""Liveness: which tensors trained and which stayed, from the weights and the optimiser of the run itself.

Tensors are compared by SHA-256 of their bytes, so that the starting values need not be kept. That a gradient
arrived is read from Adam's moments, which are zero until one does. They are in the checkpoint, so that this
works for a resumed run too, and a training step costs no more.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender
from benchmark.results.record import Certificate

LISTED = 3
"""Names of tensors that a message lists."""


class NotAliveError(RuntimeError):
    """The method did not train the parameters that it declares as trainable."""


class Liveness:
    """Watches one model and its optimiser (Adam) from the start of a run to its certificate.

    Build it before training, and before a checkpoint is loaded: a model built again from the same seed has
    the same starting values. Call `trained` after the last epoch, load the weights to test, call
    `certificate`. Processes that train together make each call together.

    Raises `NotAliveError` where the optimiser would not train exactly the parameters that require gradients.
    """

    def __init__(self, model: Recommender, optimiser: torch.optim.Optimizer) -> None:
        self.model, self.optimiser = model, optimiser
        if problems := misdeclared(model, optimiser, at_start=True):
            raise NotAliveError(problems[0])
        self.trainable = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
        tensors = _tensors(model)
        self.start = {name: digest(tensor) for name, tensor in tensors.items()}
        self.zero = {name for name in self.trainable if not tensors[name].any()}
        self.changed: set[str] = set()
        """Trainable tensors seen with another value than they began with."""
        self.last = ""
        """Digest of the weights that the last epoch left in this process."""

    def trained(self) -> None:
        """Look at the weights of the last epoch.

        The weights that are tested may be those of an epoch in which a tensor had not moved yet: LoRA's `A`
        gets no gradient in the first step, while `B` is zero.
        """
        self.last = combined({name: value for name, value in self._now().items() if name in self.trainable})

    def certificate(self, ranks_moved: float) -> Certificate:
        """Judge the weights that the model holds now; the same answer in every process.

        `ranks_moved` is the share of users whose validation rank under these weights is not the one before
        training. A certificate with `problems` is that of a failed run.
        """
        now = self._now()
        reached, decayed = self._reached()
        same = {name for name in now if now[name] == self.start.get(name)}
        # Adam moves a zero wherever a gradient reaches it, so the method itself has set these back
        pruned = same & self.zero & reached
        frozen = {name: value for name, value in now.items() if name not in self.trainable}
        kept = set(dict(self.model.named_buffers())) & set(self.model.state_dict())
        certificate = Certificate(
            trainable_tensors=len(self.trainable),
            trainable_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            frozen_tensors=len(frozen),
            frozen_digest=combined(frozen),
            reached=len(reached),
            decayed=len(decayed),
            changed=len(self.changed | pruned),
            pruned=len(pruned),
            moved_buffers=sorted(kept - same),
            ranks_moved=ranks_moved,
        )
        unreached = "no gradient reached"
        if self._steps() == 1:
            unreached = (
                "the run had one optimiser step in all, and in the first step what is multiplied by weights "
                "that begin at zero gets no gradient; raise epochs or lower batch_size. No gradient reached"
            )
        faults = {
            "the model no longer has": set(self.start) - set(now),
            "the model has, and had not before training,": set(now) - set(self.start),
            unreached: self.trainable - reached - decayed,
            "training did not change": self.trainable - self.changed - pruned,
            "training changed what is frozen:": set(frozen) - same - kept,
        }
        problems = misdeclared(self.model, self.optimiser)
        problems += [f"{what} {_some(names)}" for what, names in faults.items() if names]
        if not ranks_moved > 0:
            problems.append("no user's rank differs from the one before training")
        problems += [fault] if (fault := self.model.method.fault()) else []
        certificate.problems = self._agreed(problems)
        return certificate

    def _now(self) -> dict[str, str]:
        """Digests of all tensors; notes which trainable ones are not what they began as."""
        digests = {name: digest(tensor) for name, tensor in _tensors(self.model).items()}
        self.changed |= {name for name in self.trainable if digests.get(name) != self.start[name]}
        return digests

    def _steps(self) -> int:
        """Steps that the optimiser took, also before the run was resumed."""
        return max(
            (int(state["step"]) for state in self.optimiser.state.values() if "step" in state), default=0
        )

    def _reached(self) -> tuple[set[str], set[str]]:
        """Parameters that a gradient reached, and those whose moments cannot tell: weight decay moves them
        too, as Adam counts it in with the gradient."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        reached, decayed = set(), set()
        for group in self.optimiser.param_groups:
            mixed = group.get("weight_decay", 0) and not group.get("decoupled_weight_decay", False)
            for parameter in group["params"]:
                name, state = names[id(parameter)], self.optimiser.state.get(parameter, {})
                if mixed:
                    decayed.add(name)
                elif any(
                    bool(state[moment].any()) for moment in ("exp_avg_sq", "exp_avg") if moment in state
                ):
                    reached.add(name)
        return reached, decayed

    def _agreed(self, problems: list[str]) -> list[str]:
        """The problems of all processes, each once; weights that differ between processes are one more."""
        if world_size() == 1:
            return problems
        everyone: list[tuple[str, list[str]]] = [("", [])] * world_size()
        dist.all_gather_object(everyone, (self.last, problems))
        merged = list(dict.fromkeys(problem for _, own in everyone for problem in own))
        if len({weights for weights, _ in everyone}) > 1:
            merged.append("the processes trained apart: their weights differ after the last epoch")
        return merged


def misdeclared(model: nn.Module, optimiser: torch.optim.Optimizer, at_start: bool = False) -> list[str]:
    """Why the optimiser's groups are not the parameters that require gradients, each exactly once.

    Learning rates are looked at before training alone: a schedule may end at 0.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    given = Counter(names[id(parameter)] for parameter in members if id(parameter) in names)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = [group for group in optimiser.param_groups if at_start and not group["lr"]]
    still = {names.get(id(parameter), "?") for group in idle for parameter in group["params"]}
    strangers = [f"one of shape {list(p.shape)}" for p in members if id(p) not in names]
    faults: dict[str, Iterable[str]] = {
        "in no group of param_groups, so they would not train:": trainable - set(given),
        "in param_groups, but frozen (requires_grad is False):": set(given) - trainable,
        "in param_groups with a learning rate of 0:": still,
        "more than once in param_groups:": {name for name in given if given[name] > 1},
        "in param_groups, but no part of the model, so they would not be saved:": strangers,
    }
    return [f"{what} {_some(names)}" for what, names in faults.items() if names]


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    data = tensor.detach().cpu().contiguous().reshape(-1)  # [...] -> [n]
    sha = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    sha.update(data.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """One SHA-256 over names and digests, in the order of names."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return ", ".join(ordered[:LISTED]) + more
