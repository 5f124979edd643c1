"""Standard training: cross-entropy on clean images."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.losses import cross_entropy
from pipeline.method import Method
from pipeline.training import Batch, Training


@dataclass(frozen=True, kw_only=True)
class Standard(Method):
    """Members learn clean images; its entry has `attack: none`."""

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """CE(f(x), y), [B]."""
        return cross_entropy(training.members[index](batch.images), batch.labels)
