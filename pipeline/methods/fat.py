"""FAT, friendly adversarial training (Zhang et al., ICML 2020): PGD that stops soon after success.

An image that is misclassified moves on for tau more steps (of K in all) and then stays where it
is; tau grows with the epochs. `objective` is learnt on these images: CE, or TRADES's or MART's
loss for FAT-TRADES and FAT-MART. The steps climb what the authors' do: CE, and for FAT-TRADES
KL(p(x) || p(x')) to the clean answer, asked once. Each step of the plain version adds `noise`
N(0, 1).

Departures: images keep their places in the batch (the authors' bookkeeping permutes them), and
every image is looked at in every step, which changes no iterate.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Epoch, Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import Objective, input_gradient, on_labels
from pipeline.core.batchnorm import attack_mode
from pipeline.core.losses import cross_entropy, kl
from pipeline.core.norms import gaussian_start, per_image, project, uniform_start
from pipeline.errors import UserError
from pipeline.methods._objectives import objective


@dataclass(frozen=True, kw_only=True)
class Fat(Method):
    """A base loss on early-stopped examples; tau: its values before, between and after `rises`."""

    objective: Literal["ce", "trades", "mart"]
    beta: float
    eps: Radius
    step_size: Radius
    steps: int
    start: Literal["uniform", "gaussian"]
    noise: float
    tau: list[int]
    rises: list[Epoch]

    def __post_init__(self) -> None:
        """Refuse epochs that do not fit the values."""
        if len(self.tau) != len(self.rises) + 1:
            raise UserError(
                "params.yaml: methods: fat: tau needs one value more than rises; add it"
            )
        if self.rises != sorted(self.rises):
            raise UserError(f"params.yaml: methods: fat: rises {self.rises}: must not fall")

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every member on examples crafted on all of them."""
        # An epoch of `rises` itself still has the old value.
        tau = self.tau[bisect_left(self.rises, training.epoch)]
        with attack_mode(training.ensemble, training.recipe.attack_bn_mode) as climbed:
            adversarial = self.climb(climbed, batch, tau)

        losses = [
            training.update(i, objective(self.objective, member, batch, adversarial, self.beta))
            for i, member in enumerate(training.members)
        ]
        return torch.stack(losses).mean()

    def climb(self, model: nn.Module, batch: Batch, tau: int) -> Tensor:
        """Images that stopped tau steps after they were first misclassified, detached."""
        images, labels, draws = batch.images, batch.labels, batch.draws.fork("noise")
        climbed, moved = self._find_climbed(model, batch), self.first(batch)
        rows = torch.arange(len(labels), device=labels.device)
        left = torch.full_like(labels, tau)
        goes = torch.ones_like(labels, dtype=torch.bool)

        for number in range(self.steps):
            logits, _, gradient = input_gradient(model, climbed, moved, rows)

            # An image that is misclassified with no step left stays where it is from now on.
            wrong = logits.argmax(1) != labels
            goes &= ~(wrong & (left == 0))
            left -= (wrong & goes).to(left.dtype)

            step = self.step_size * gradient.sign()
            if self.noise:
                step = step + self.noise * draws.fork(number).normal(*images.shape[1:])
            there = project("linf", moved + step, images, self.eps)
            moved = torch.where(per_image(goes, images), there, moved)
        return moved

    def _find_climbed(self, model: nn.Module, batch: Batch) -> Objective:
        """What the steps ascend: for TRADES's loss its KL, else the cross-entropy."""
        if self.objective != "trades":
            return on_labels(cross_entropy, batch.labels)

        with torch.no_grad():
            clean = model(batch.images)
        return lambda logits, rows: kl(clean[rows], logits)

    def first(self, batch: Batch) -> Tensor:
        """Where the steps start."""
        make = uniform_start if self.start == "uniform" else gaussian_start
        return make("linf", batch.images, self.eps, batch.draws.fork("attack").fork(0))
