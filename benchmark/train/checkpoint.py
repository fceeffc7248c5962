"""Checkpoints of a run: the state after the last epoch, and the best epoch's weights.

A folder `<hash>-s<seed>.checkpoint/` beside the record holds `last.pt` (weights, optimiser, progress) and
`best-<epoch>.pt` (weights). Each is written to a temporary name and renamed, the best one first, so that a
kill at any moment leaves a state that training continues from. The folder is deleted when the record is
written. Weights that are not trained are not stored: a resumed run reads the same language model again.

Each file ends with its checksum, since `torch.load` does not detect changed bytes. Training is a function of
configuration and seed: with a damaged file it starts again from the first epoch and gives the same figures.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import nn

from benchmark.files import DamagedError, opening_checked, replacing_checked
from benchmark.model.parallel import is_main, log_main
from methods.errors import UserError

FORMAT = 4
"""Raise it when the content of a checkpoint changes: older checkpoints are then not used."""


ANEW = "--fresh starts this run anew"


class Checkpoint:
    """The checkpoint folder of one run.

    `identity` names the configuration and the code that trains it; a checkpoint with another one is not used.
    None accepts any.
    """

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        self.folder, self.identity = folder, identity

    def save(self, last: dict[str, Any], best_epoch: int, best: dict[str, Any] | None) -> None:
        """Write the state after an epoch; `best` holds the weights where this epoch is the best so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if best is not None:
            _write(self._best(best_epoch), best)
        _write(self._last, {**last, "format": FORMAT, "identity": self.identity})
        for old in self.folder.glob("best-*.pt"):
            if old != self._best(best_epoch):
                old.unlink()

    def load(self, model: nn.Module) -> dict[str, Any] | None:
        """Load the last epoch's weights into `model` and return the state; None if training starts anew.

        A log line gives the reason, unless there is no checkpoint.
        """
        if not any(self.folder.glob("*.pt")):
            return None
        try:
            state = self._read_last()
            best = state["progress"]["best_epoch"]
            if self._best_is_damaged(state) and is_main():
                _write(self._best(best), state["weights"])  # the last epoch is the best one
        except DamagedError as error:
            log_main(f"checkpoint {self.folder} cannot be used: {error}; training starts anew")
            return None
        restore(model, state["weights"], f"checkpoint {self._last}", ANEW)
        return state

    def epochs_done(self) -> int:
        """Finished epochs in the checkpoint; 0 without a usable one."""
        try:
            state = self._read_last()
            self._best_is_damaged(state)
        except DamagedError:
            return 0
        return int(state["progress"]["epoch"])

    def load_best(self, epoch: int, model: nn.Module) -> None:
        """Put the weights of the best epoch into `model`."""
        path = self._best(epoch)
        try:
            weights = _read(path)
        except DamagedError as error:
            raise UserError(
                f"checkpoint {self.folder} was damaged while the run went on: {error}; the same command "
                "trains anew."
            ) from error
        restore(model, weights, f"checkpoint {path}", ANEW)

    def _read_last(self) -> dict[str, Any]:
        """The last epoch's state. Raises `DamagedError` if it is damaged or of another run."""
        state = _read(self._last)
        if state.get("format") != FORMAT:
            raise DamagedError("another version of this program made it")
        if self.identity is not None and state.get("identity") != self.identity:
            raise DamagedError("it was made by other code of the method")
        return state

    def _best_is_damaged(self, state: dict[str, Any]) -> bool:
        """Whether the best epoch's weights are damaged, but are also those of `state`, the last epoch.

        Raises `DamagedError` if they are damaged and the last epoch is not the best one.
        """
        epoch, best = state["progress"]["epoch"], state["progress"]["best_epoch"]
        try:
            with _open_intact(self._best(best)):
                return False
        except DamagedError:
            if epoch != best:
                raise
        return True

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _last(self) -> Path:
        return self.folder / "last.pt"

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.pt"


def trained_part(model: nn.Module) -> dict[str, Any]:
    """The state dict of `model` without its frozen parameters."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _frozen(model: nn.Module) -> set[str]:
    everything = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in everything if not parameter.requires_grad}


def restore(model: nn.Module, weights: Mapping[str, Any], source: object, do: str) -> None:
    """Load the trained part of `model`; what is frozen stays.

    Raises `UserError`, which names the `source` and what to `do`, where these are not all weights that train,
    or others too.
    """
    result = model.load_state_dict(weights, strict=False)
    wrong = [*result.unexpected_keys, *(set(result.missing_keys) - _frozen(model))]
    if wrong:
        raise UserError(f"{source} is of another model ({sorted(wrong)[0]}); {do}.")


def _write(path: Path, state: dict[str, Any]) -> None:
    # Not durable, so that no epoch waits for the disk: after a loss of power the checksum shows that data is
    # missing, and training starts anew.
    with replacing_checked(path, durable=False) as file:
        torch.save(state, file)


@contextmanager
def _open_intact(path: Path) -> Iterator[BinaryIO]:
    """Open a file whose checksum is right. Raises `DamagedError` with its name."""
    try:
        with opening_checked(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    except DamagedError as error:
        raise DamagedError(f"{path.name} is damaged: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """The content of a file, on the CPU. Raises `DamagedError`."""
    with _open_intact(path) as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        except UnpicklingError as error:
            raise DamagedError("it holds what no checkpoint has") from error
