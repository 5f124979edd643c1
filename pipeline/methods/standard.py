"""Standard training: cross-entropy on clean images."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Standard(Method):
    """Members learn clean images; its entry has `attack: none`."""

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """CE(f(x), y), [B]."""
        return cross_entropy(training.members[index](batch.images), batch.labels)
