"""Blur: the worst of several Gaussian blurs, a shift of data that no ball describes."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.ascent import keep_worst
from pipeline.core.draws import Draws

REACH = 3  # standard deviations that the kernel covers on each side


@dataclass(frozen=True, kw_only=True)
class Blur:
    """`widths` are standard deviations in pixels; borders are reflected."""

    widths: list[float]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Blurred images [B, C, H, W], detached; draws nothing."""

        def run(width: float, rows: Tensor) -> Tensor:
            return blur(images[rows], width)

        with torch.no_grad():
            runs = [partial(run, width) for width in self.widths]
            return keep_worst(runs, model, images, labels, votes=1)


def blur(images: Tensor, width: float) -> Tensor:
    """Images convolved with a Gaussian of a standard deviation of `width` pixels."""
    if width == 0:
        return images
    # Reflection needs a border narrower than the image.
    reach = min(max(1, round(REACH * width)), min(images.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = (-(offsets**2) / (2 * width**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)

    # A Gaussian is separable: along the rows, then along the columns.
    padded = F.pad(images, [reach] * 4, mode="reflect")
    across = F.conv2d(padded, weights, groups=images.shape[1])
    both = F.conv2d(across, weights.transpose(2, 3), groups=images.shape[1])
    return both.clamp(0, 1)
