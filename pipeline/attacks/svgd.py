"""SVGD as an attack: repelling particles that climb one model's loss (AT-AKA, Eq. 2)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import keep_worst
from pipeline.core.draws import Draws
from pipeline.core.particles import Particles


@dataclass(frozen=True, kw_only=True)
class SVGD:
    """`particles` of one image at a time climb the same model; the worst of them is kept.

    The other fields are those of core/particles.py: literal is kernel fixed, width 0.001,
    unsigned.
    """

    eps: Radius
    step_size: Radius
    steps: int
    particles: int
    kernel: Literal["median", "fixed", "none"]
    width: float  # h of the kernel `fixed`
    repulsion: float
    is_balanced: bool
    is_signed: bool
    divided: Literal["both", "repulsion"]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        # One climb for all: particles feel each other, so each is an attempt only afterwards.
        found = self.climb(model, images, labels, draws)

        def particle(number: int, rows: Tensor) -> Tensor:
            return found[number, rows]

        attempts = [partial(particle, number) for number in range(self.particles)]
        with torch.no_grad():
            return keep_worst(attempts, model, images, labels, votes=1)

    def climb(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """All particles [n, B, C, H, W]."""
        cloud = Particles(
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            kernel=self.kernel,
            width=self.width,
            gamma=self.repulsion,
            gradients="own",
            is_balanced=self.is_balanced,
            is_signed=self.is_signed,
            divided=self.divided,
        )
        return cloud.climb([model] * self.particles, images, labels, draws)
