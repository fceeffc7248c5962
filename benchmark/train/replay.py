"""Whether the gradients of a step are replayed from CUDA graphs or computed operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.model.batch import Batch
from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender
from benchmark.train.graphs import StepGraphs

if TYPE_CHECKING:
    from accelerate import Accelerator


class Replay:
    """Adds up the gradients of a step's batches, from recorded graphs where the run allows it."""

    def __init__(
        self,
        model: Recommender,
        parameters: Sequence[nn.Parameter],
        accelerator: Accelerator,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.parameters, self.log = model, parameters, log
        self.device: torch.device = accelerator.device
        settings = model.settings
        self.enabled = (
            settings.replay == "auto"
            and self.device.type == "cuda"
            and world_size() == 1
            and accelerator.scaler is None
            and type(model.method).replayable
            and model.encoder.inputs.lengths is None
            and settings.encode != "occurrences"  # only there has a step more than one `Batch`
        )
        """Whether a step executes the same operations each time, in one process on a GPU."""
        self.graphs: StepGraphs | None = None
        """The recorded graphs, from the first replayed step on."""

    def run(self, gradients: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> Tensor:
        """Call `gradients`, which adds those of one batch to the parameters, or replay an earlier call.

        Returns the sum of its results, `[2]` fp64, to be read before the next call.
        """
        if not self.enabled:
            sums = torch.zeros(2, dtype=torch.float64, device=self.device)
            for batch in batches:
                sums += gradients(batch)
            return sums
        (batch,) = batches
        self.graphs = self.graphs or StepGraphs(gradients, self.parameters, self.device, self.log)
        encoder, before = self.model.encoder, self.model.encoder.encoded
        sums = self.graphs.run(batch)
        encoder.encoded = before + len(batch.share.items)  # fillers and recording encode nothing that counts
        return sums
