"""PGD: projected gradient ascent from a random start, with restarts (Madry et al. 2018)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, Objective, keep_worst, on_labels, refuse_random, restrict
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, dlr, kl, margin
from pipeline.core.norms import project, uniform_start
from pipeline.errors import UserError

GAUSSIAN_START = 0.001  # standard deviation, in the code of TRADES (Zhang et al. 2019)
LABEL_LOSSES = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Ascends the loss; `kl` ascends KL(model(x) || model(x')) as TRADES does, blind to labels.

    With restarts a sample keeps its worst run. Without `any_iterate` a run's result is its last
    iterate; with it, the first one that fools.
    """

    norm: Literal["linf", "l2"]
    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    start: Literal["uniform", "gaussian", "none"]
    loss: Literal["ce", "kl", "margin", "dlr"]
    any_iterate: bool

    def __post_init__(self) -> None:
        """Refuse restarts that would repeat one run."""
        if self.start == "none" and self.restarts > 1:
            raise UserError(
                f"params.yaml: attacks: restarts {self.restarts} with start none repeats one run: "
                "set restarts: 1 or start: uniform"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        if self.any_iterate:
            refuse_random(model, "any_iterate: true")

        objective = self._objective(model, images, labels)
        ascent = Ascent(
            norm=self.norm,
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=self.any_iterate,
        )

        def run(number: int, rows: Tensor) -> Tensor:
            clean = images[rows]
            # Forked by run and selected by row: images that left before change no draw.
            start = self._first(clean, draws.fork(number).select(rows))
            return ascent.climb(model, restrict(objective, rows), clean, labels[rows], start)

        runs = [partial(run, number) for number in range(self.restarts)]
        return keep_worst(runs, model, images, labels, votes=1)

    def _objective(self, model: nn.Module, images: Tensor, labels: Tensor) -> Objective:
        if self.loss == "kl":
            with torch.no_grad():
                clean = model(images)
            return lambda logits, rows: kl(clean[rows], logits)
        return on_labels(LABEL_LOSSES[self.loss], labels)

    def _first(self, images: Tensor, draws: Draws) -> Tensor:
        if self.start == "uniform":
            return uniform_start(self.norm, images, self.eps, draws)
        if self.start == "gaussian":
            noise = GAUSSIAN_START * draws.normal(*images.shape[1:])
            return project(self.norm, images + noise, images, self.eps)
        return images
