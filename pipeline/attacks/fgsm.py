"""FGSM: one signed gradient step to the ball's surface (Goodfellow, Shlens, Szegedy 2015)."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """x' = clip(x + eps sign grad CE), l_inf, without a random start."""

    eps: Radius

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; draws nothing."""
        ascent = Ascent(
            norm="linf", eps=self.eps, step_size=self.eps, steps=1, decay=0, any_iterate=False
        )
        return ascent.climb(model, on_labels(cross_entropy, labels), images, labels, images)
