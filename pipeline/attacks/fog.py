"""Fog: adversarial fog that an attacker shapes (Kang et al. 2019), an unforeseen attack."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.ascent import input_gradient
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError

AMPLITUDE = 100.0  # of the coarsest level, as in the authors' code; only ratios matter


@dataclass(frozen=True, kw_only=True)
class Fog:
    """x' = (x + strength fog(v)) / (max_c x + strength), v climbing the cross-entropy in [0, 1].

    `strength` is in pixels of [0, 1] (the authors' 128 is 128/255); no norm bounds the result.
    Fog is a diamond-square fractal whose offsets v are the variables; each level's amplitude is
    the coarser one's divided by `decay`. With 0 steps the fog is random. The centre crop is
    (map - side) / 2: the authors' fixed 16 pixels fit sides of 32 and 224 only.
    """

    strength: float  # of the fog, in pixels of [0, 1]
    step_size: float  # of the variables in [0, 1]
    steps: int
    decay: float  # by which the amplitude of each finer level is divided

    def __post_init__(self) -> None:
        """Refuse levels that are no finer."""
        if self.decay <= 0:
            raise UserError("params.yaml: attacks: fog needs a decay above 0; 2 halves each level")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Foggy images [B, C, H, W] in the box, detached."""
        # The least power of two above the image's sides
        side = 2 * 2 ** (max(images.shape[-2:]).bit_length() - 1)
        offsets = draws.uniform(side * side - 1)
        rows = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            _, _, slope = input_gradient(
                lambda v: model(self.blend(images, v, side)),
                lambda logits, _: cross_entropy(logits, labels),
                offsets,
                rows,
            )
            offsets = (offsets + self.step_size * slope.sign()).clamp(0, 1)
        with torch.no_grad():
            return self.blend(images, offsets, side)

    def blend(self, images: Tensor, offsets: Tensor, side: int) -> Tensor:
        """Images [B, C, H, W] behind the fog of offsets [B, side^2 - 1]."""
        height, width = images.shape[-2:]
        top, left = (side - height) // 2, (side - width) // 2
        fog = fractal(offsets, side, self.decay)[:, top : top + height, left : left + width]

        # Divided by the brightest pixel of the channel with all fog, so that nothing exceeds 1.
        brightest = images.amax((2, 3), keepdim=True) + self.strength
        tiny = torch.finfo(images.dtype).tiny  # a black channel without fog stays black
        return ((images + self.strength * fog[:, None]) / brightest.clamp_min(tiny)).clamp(0, 1)


def fractal(offsets: Tensor, side: int, decay: float) -> Tensor:
    """A periodic diamond-square map [B, side, side] from 0 to 1; `side` is a power of two."""
    grid, amplitude, used = offsets.new_zeros(len(offsets), 1, 1), AMPLITUDE, 0
    while (count := grid.shape[-1]) < side:
        noise = offsets[:, used : used + 3 * count**2].view(-1, 3, count, count)
        noise = amplitude * (2 * noise - 1)

        # Diamond step: a centre is the mean of its four corners, plus noise.
        across = grid + grid.roll(-1, 2)
        middle = (across + across.roll(-1, 1)) / 4 + noise[:, 0]
        # Square step: an edge is the mean of its two corners and two centres, plus noise.
        upper = (across + middle + middle.roll(1, 1)) / 4 + noise[:, 1]
        lower = (grid + grid.roll(-1, 1) + middle + middle.roll(1, 2)) / 4 + noise[:, 2]

        # Old and new points in turn: the grid doubles.
        even, odd = torch.stack([grid, upper], 3), torch.stack([lower, middle], 3)
        grid = torch.stack([even.flatten(2), odd.flatten(2)], 2).flatten(1, 2)
        used, amplitude = used + 3 * count**2, amplitude / decay

    lowest = grid.amin((1, 2), keepdim=True)
    return (grid - lowest) / (grid.amax((1, 2), keepdim=True) - lowest)
