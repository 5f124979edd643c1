"""PGD adversarial training (Madry et al., ICLR 2018), called SAT or AT in the papers.

Departure from Rice et al.'s code: no extra clean forward in training mode for logging, which
there put 13 % of clean batches into the running statistics.
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class PgdAt(Method):
    """Members learn worst-case points found by the recipe's attack."""

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """CE(f(x'), y), [B]."""
        return cross_entropy(training.members[index](adversarial), batch.labels)
