"""BIM: iterated FGSM from the clean image (Kurakin, Goodfellow, Bengio 2017)."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class BIM:
    """Signed gradient steps on the cross-entropy, projected onto the l_inf ball and the box."""

    eps: Radius
    step_size: Radius
    steps: int

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; draws nothing."""
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )
        return ascent.climb(model, on_labels(cross_entropy, labels), images, labels, images)
