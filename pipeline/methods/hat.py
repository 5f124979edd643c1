"""HAT, helper-based training (Rade and Moosavi-Dezfooli, ICLR 2022): margins need not grow.

    CE(f(x), y) + beta KL(p(x) || p(x')) + gamma CE(f(x + h (x' - x)), argmax f_std(x'))

The helper point lies h times as far as the adversarial one, beyond the ball and even the box, and
is labelled by a standard network's answer to x'. Three forwards, in this order: clean,
adversarial, helper (their batch statistics). Nothing in the KL is detached.

Departures: the helper network is the last of its training, where the authors take the best by test
images; with gamma 0 no helper point is made, which is TRADES.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts.fields import Parent
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy
from pipeline.methods._objectives import trades


@dataclass(frozen=True, kw_only=True)
class Hat(Method):
    """TRADES plus CE at helper points; `helper` is the standard network that labels them."""

    beta: float
    gamma: float
    h: float
    helper: Parent

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """TRADES's loss plus gamma CE at x + h (x' - x), [B]."""
        member = training.members[index]
        losses = trades(member, batch, adversarial, self.beta)
        if self.gamma == 0:
            return losses

        with torch.no_grad():
            labels = training.parents["helper"](adversarial).argmax(1)
        beyond = batch.images + self.h * (adversarial - batch.images)
        return losses + self.gamma * cross_entropy(member(beyond), labels)
