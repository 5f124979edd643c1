"""One epoch of a trajectory, after the same BN pass as the averages that end in it."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.average import Average
from pipeline.contracts.fields import Epoch


@dataclass(frozen=True, kw_only=True)
class Snapshot(Average):
    """The end-of-epoch weights of epoch `stop` (0: the last); `start` is the trajectory's."""

    start: Epoch  # first epoch of the average
    stop: Epoch

    def combine(self, values: Tensor) -> Tensor:
        """The last of the first axis."""
        return values[-1]
