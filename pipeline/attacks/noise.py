"""Noise: random points of the ball, no attack at all; every attack must do better."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import keep_worst
from pipeline.core.draws import Draws
from pipeline.core.norms import uniform_start


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The worst of several uniform draws from the ball."""

    norm: Literal["linf", "l2"]
    eps: Radius
    tries: int

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""

        def run(number: int, rows: Tensor) -> Tensor:
            own = draws.fork(number).select(rows)
            return uniform_start(self.norm, images[rows], self.eps, own)

        runs = [partial(run, number) for number in range(self.tries)]
        with torch.no_grad():
            return keep_worst(runs, model, images, labels, votes=1)
