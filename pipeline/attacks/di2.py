"""DI2-FGSM and M-DI2-FGSM: iterated FGSM on randomly resized images (Xie et al. 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, keep_worst, on_labels, restrict
from pipeline.core.draws import Draws
from pipeline.core.layers import skip_gamma
from pipeline.core.losses import cross_entropy, margin
from pipeline.core.norms import uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DI2:
    """Momentum steps, l_inf, each at a fresh random resize of the iterate.

    `decay` 0 is DI2, 1 is M-DI2; `probability` 0 is momentum PGD, and with `gamma` below 1 the
    gradient through every residual branch is scaled by it (SGM, Wu et al. 2020). The margin loss
    stops growing at `confidence`, as in DVERGE's transfer sets (theirs masks by multiplication).
    """

    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    start: Literal["uniform", "none"]
    loss: Literal["ce", "margin"]
    confidence: float
    decay: float
    probability: float
    resize_rate: float
    gamma: float

    def __post_init__(self) -> None:
        """Refuse restarts that would repeat one run."""
        if self.start == "none" and self.probability == 0 and self.restarts > 1:
            raise UserError(
                f"params.yaml: attacks: restarts {self.restarts} with start none repeats one run: "
                "set restarts: 1 or start: uniform"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        objective = on_labels(self._loss, labels)
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=self.decay,
            any_iterate=False,
        )

        def run(number: int, rows: Tensor) -> Tensor:
            own, clean = draws.fork(number).select(rows), images[rows]
            start = clean
            if self.start == "uniform":
                start = uniform_start("linf", clean, self.eps, own.fork("start"))

            # One stream for the whole run: every step draws a new resize.
            sizes = own.fork("sizes")
            with skip_gamma(model, self.gamma):
                return ascent.climb(
                    lambda moved: model(self._resized(moved, sizes)),
                    restrict(objective, rows),
                    clean,
                    labels[rows],
                    start,
                )

        runs = [partial(run, number) for number in range(self.restarts)]
        return keep_worst(runs, model, images, labels, votes=1)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "ce":
            return cross_entropy(logits, labels)
        return margin(logits, labels).clamp_max(self.confidence)

    def _resized(self, images: Tensor, draws: Draws) -> Tensor:
        if self.probability == 0:
            return images
        return diversify(images, self.resize_rate, self.probability, draws)


def diversify(images: Tensor, rate: float, probability: float, draws: Draws) -> Tensor:
    """With `probability` per image: bilinear to a side in [rate H, H), zeros around, at random.

    Every image draws for itself, so that nothing depends on its batch.
    """
    side = images.shape[-1]
    if images.shape[-2] != side:
        raise UserError(f"params.yaml: attacks: di2 needs square images, not {images.shape[-2:]}")

    # Below the whole side, or nothing would be resized.
    least = min(int(rate * side), side - 1)
    sizes = least + draws.integers(side - least)
    down, across = (draws.uniform(2) * (side - sizes + 1)[:, None]).long().unbind(1)

    # Two matrix products resize and place the image at once.
    rows, columns = (resize_matrix(sizes, first, side)[:, None] for first in (down, across))
    changed = rows @ images @ columns.transpose(2, 3)

    chosen = draws.uniform() < probability
    return torch.where(chosen[:, None, None, None], changed, images)


def resize_matrix(sizes: Tensor, firsts: Tensor, side: int) -> Tensor:
    """[B, side, side]: row first + i takes line i of a bilinear resize to `size`; others are 0."""
    lines = torch.arange(side, device=sizes.device)
    inner = lines - firsts[:, None]
    inside = (inner >= 0) & (inner < sizes[:, None])
    # Centres at half pixels, as torch's bilinear resize with align_corners=False
    place = ((inner + 0.5) * side / sizes[:, None] - 0.5).clamp(0, side - 1)
    weights = (1 - (place[:, :, None] - lines).abs()).clamp_min(0)
    return weights * inside[:, :, None]
