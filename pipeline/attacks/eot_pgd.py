"""EoT-PGD: PGD on a gradient averaged over several draws of a random model (Athalye 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import uniform_start


@dataclass(frozen=True, kw_only=True)
class EOTPGD:
    """g = (1 / draws) sum grad CE, fresh draws at every step; a random start, l_inf."""

    eps: Radius
    step_size: Radius
    steps: int
    eot: int

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )

        def objective(logits_EBC: Tensor, rows: Tensor) -> Tensor:
            # The mean of the losses has the mean of their gradients: one backward for all draws.
            losses = [cross_entropy(logits, labels[rows]) for logits in logits_EBC]
            return torch.stack(losses).mean(0)

        start = uniform_start("linf", images, self.eps, draws)
        return ascent.climb(
            lambda moved: torch.stack([model(moved) for _ in range(self.eot)]),
            objective,
            images,
            labels,
            start,
        )
