"""The contract of an attack."""

from typing import Protocol

from torch import Tensor, nn

from pipeline.core.draws import Draws


class Attack(Protocol):
    """Settings in the object, model in the call; result in the eps ball and in [0, 1]."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Adversarial images, detached, of the shape of `images`."""
        ...
