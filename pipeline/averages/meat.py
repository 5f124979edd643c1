"""MEAT (Hu et al., ICASSP 2024): the element-wise median of the late trajectory.

Departures from the released code: there the snapshot counter never advances, so that its median
is the first snapshot; and snapshots start at epoch 75 instead of the paper's 60. An even number
of snapshots takes the mean of the two middle values (numpy's rule, as in that code).
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.average import Average
from pipeline.contracts.fields import Epoch


@dataclass(frozen=True, kw_only=True)
class Meat(Average):
    """Median of the end-of-epoch weights from epoch `start` to `stop` (0: the last)."""

    start: Epoch  # first epoch of the average
    stop: Epoch

    def combine(self, values: Tensor) -> Tensor:
        """Median over the first axis."""
        ordered = values.sort(0).values
        middle = len(values) // 2

        if len(values) % 2:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2
