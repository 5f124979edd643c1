"""Sparse l1 ascent: steps on the steepest pixels, in the l1 ball (Tramer and Boneh 2019)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import input_gradient
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import per_image


@dataclass(frozen=True, kw_only=True)
class PGDL1:
    """Each step moves the `share` of entries with the largest gradient by equal amounts.

    Entries that the box holds are left out of the choice. step_size is the l1 length of a step.
    """

    norm: Literal["l1"]
    eps: Radius
    step_size: Radius
    steps: int
    share: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; draws nothing."""
        rows, moved = torch.arange(len(images), device=images.device), images.clone()
        for _ in range(self.steps):
            _, _, slope = input_gradient(
                model, lambda logits, _: cross_entropy(logits, labels), moved, rows
            )
            held = ((moved <= 0) & (slope < 0)) | ((moved >= 1) & (slope > 0))
            # A pixel at the edge of the box would waste its part of the step.
            slope = torch.where(held, 0, slope).flatten(1)

            count = max(1, int(self.share * slope.shape[1]))
            least = slope.abs().topk(count, dim=1).values[:, -1:]
            # Entries that tie with the least of them move too.
            step = torch.where((slope.abs() >= least) & (slope != 0), slope.sign(), 0)
            length = step.abs().sum(1, keepdim=True).clamp_min(1)

            moved = moved + (self.step_size / length * step).view_as(images)
            moved = self._project(moved, images)
        return moved

    def _project(self, moved: Tensor, images: Tensor) -> Tensor:
        """Into the box and then the ball: shrinking towards the image cannot leave the box."""
        moved = moved.clamp(0, 1)
        delta = soften((moved - images).flatten(1), self.eps).view_as(images)
        return (images + delta).clamp(0, 1)


def soften(deltas: Tensor, eps: float) -> Tensor:
    """The nearest deltas [B, d] of l1 norm eps at most (Duchi et al. 2008): all shrink alike."""
    sizes = deltas.abs()
    ordered = sizes.sort(1, descending=True).values
    # Soft threshold: of the k largest entries all, lowered alike, must sum to eps.
    excess = (ordered.cumsum(1) - eps) / torch.arange(
        1, sizes.shape[1] + 1, device=sizes.device, dtype=sizes.dtype
    )

    used = (ordered > excess).sum(1, keepdim=True).clamp_min(1)
    level = excess.gather(1, used - 1).clamp_min(0)
    return torch.where(
        per_image(sizes.sum(1) > eps, deltas), deltas.sign() * (sizes - level).clamp_min(0), deltas
    )
