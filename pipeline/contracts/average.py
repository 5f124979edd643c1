"""The contract of an average: snapshots of one training, tensor by tensor, to one network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Average(ABC):
    """Fields every average's entry has.

    bn_data: kept takes the snapshots' own running statistics through the average; clean and
    adversarial re-estimate them on augmented training images, adversarial ones being crafted on
    the averaged network by the training attack. bn_statistic: cumulative is the mean over the
    pass's images; median_of_ema is MEAT's released rule, the median over the pass of running
    statistics that start at (0, 1).
    """

    bn_data: Literal["kept", "clean", "adversarial"]
    bn_statistic: Literal["cumulative", "median_of_ema"]

    @abstractmethod
    def combine(self, values: Tensor) -> Tensor:
        """One tensor of the average from its snapshots [epochs, ...], floating point."""
