"""ARoW (Yang, Kong and Kim, ICML 2023): TRADES that cares most for what is not robust.

    CE_a(f(x), y) + 2 lambda KL(p(x) || p(x')) (1 - p_y(x'))

CE_a has smoothed labels (a on the uniform distribution). Nothing is detached: the gradient also
flows through the weight 1 - p_y(x'). `weight_regulariser` is the authors' code's, twice the
paper's lambda.

Departures: one precision throughout, where the authors' code runs in half precision; the weight
averaging of its recipe is an entry of `averages:`. AUTE's rows (`arow_joint`) craft by CE on the
whole ensemble, with weight 6.
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import kl, label_smoothed_cross_entropy, true_probability


@dataclass(frozen=True, kw_only=True)
class Arow(Method):
    """Smoothed CE on clean images plus KL, weighted by the doubt on adversarial ones."""

    weight_regulariser: float
    smoothing: float

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """CE_a(f(x), y) + weight_regulariser KL(p(x) || p(x')) (1 - p_y(x')), [B]."""
        member = training.members[index]
        clean = member(batch.images)
        losses = label_smoothed_cross_entropy(clean, batch.labels, self.smoothing)
        if self.weight_regulariser == 0:
            return losses

        attacked = member(adversarial)
        doubt = 1 - true_probability(attacked, batch.labels)
        return losses + self.weight_regulariser * kl(clean, attacked) * doubt
