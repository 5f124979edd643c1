"""Weight averaging per epoch (Izmailov et al., UAI 2018; Chen et al., ICLR 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts.average import Average
from pipeline.contracts.fields import Epoch


@dataclass(frozen=True, kw_only=True)
class Wa(Average):
    """Equal mean of the end-of-epoch weights from epoch `start` to `stop` (0: the last)."""

    start: Epoch  # first epoch of the average
    stop: Epoch

    def combine(self, values: Tensor) -> Tensor:
        """Mean over the first axis, summed in float64 so that equal snapshots stay as they are."""
        return values.to(torch.float64).mean(0).to(values.dtype)
