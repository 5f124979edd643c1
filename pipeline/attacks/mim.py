"""MIM: iterated FGSM along a running mean of normalised gradients (Dong et al. 2018, Eq. 6-7)."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class MIM:
    """m <- decay m + g / mean|g|, x <- P(x + step sign m), l_inf, from the clean image.

    The paper divides by |g|_1: a constant factor, which the sign does not see.
    """

    eps: Radius
    step_size: Radius
    steps: int
    decay: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; draws nothing."""
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=self.decay,
            any_iterate=False,
        )
        return ascent.climb(model, on_labels(cross_entropy, labels), images, labels, images)
