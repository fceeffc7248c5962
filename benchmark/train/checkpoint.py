"""Checkpoints of a run: the last epoch to go on from, and the best epoch's weights.

A folder `<hash>-s<seed>.checkpoint/` beside the record holds `last.pt` (weights, optimiser, progress) and
`best-<epoch>.pt` (weights). Each is written to a temporary name and renamed, the best one first, so that a
kill at any moment leaves a state that training goes on from. The folder goes when the record is written.
Weights that are not trained are not kept: whoever goes on has read the same language model again.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark.files import replacing
from benchmark.model.parallel import say
from methods.errors import UserError

FORMAT = 2
"""Raise it when a checkpoint holds other things: a run is then not taken up by code that it is not for."""


class Checkpoint:
    """The checkpoint folder of one run.

    `identity` names the configuration and the code that trains it; a checkpoint with another one is not gone
    on from. None takes any.
    """

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        self.folder, self.identity = folder, identity

    def save(self, last: dict[str, Any], best_epoch: int, best: dict[str, Any] | None) -> None:
        """Write the state after an epoch; `best` holds the weights where this epoch is the best so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if best is not None:
            _write(self._best(best_epoch), best)
        _write(self.folder / "last.pt", {**last, "format": FORMAT, "identity": self.identity})
        for old in self.folder.glob("best-*.pt"):
            if old != self._best(best_epoch):
                old.unlink()

    def load(self, model: nn.Module) -> dict[str, Any] | None:
        """The last epoch's state, its weights put into `model`; None where there is none of this identity."""
        path = self.folder / "last.pt"
        if not path.exists():
            return None
        state = _read(path)
        if self._is_of_another(state):
            say(f"{self.folder} was made by other code of the method; training begins anew")
            return None
        if state.get("format") != FORMAT:
            raise UserError(f"checkpoint {path} is of another version; --fresh starts this run anew.")
        _restore(model, state["weights"], path)
        return state

    def epochs_done(self) -> int:
        """Epochs after which training would go on; 0 where there is nothing to go on from."""
        path = self.folder / "last.pt"
        state = _read(path) if path.exists() else None
        return int(state["progress"]["epoch"]) if state and not self._is_of_another(state) else 0

    def _is_of_another(self, state: dict[str, Any]) -> bool:
        return self.identity is not None and state.get("identity") != self.identity

    def load_best(self, epoch: int, model: nn.Module) -> None:
        """Put the weights of the best epoch into `model`."""
        _restore(model, _read(self._best(epoch)), self._best(epoch))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.pt"


def trained_part(model: nn.Module) -> dict[str, Any]:
    """The state dict of `model` without its frozen parameters."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _frozen(model: nn.Module) -> set[str]:
    everything = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in everything if not parameter.requires_grad}


def _restore(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    found = model.load_state_dict(weights, strict=False)
    wrong = [*found.unexpected_keys, *(set(found.missing_keys) - _frozen(model))]
    if wrong:
        raise UserError(
            f"checkpoint {path} is of another model ({sorted(wrong)[0]}); --fresh starts this run anew."
        )


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as file:  # ctrl-C too leaves nothing but what one goes on from
        torch.save(state, file)


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); --fresh starts this run anew."
        ) from error
