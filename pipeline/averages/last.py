"""The control row of every table with averages: the last weights after the same BN pass."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.average import Average


@dataclass(frozen=True, kw_only=True)
class Last(Average):
    """The training's final weights; needs no snapshots."""

    def combine(self, values: Tensor) -> Tensor:
        """The last of the first axis."""
        return values[-1]
