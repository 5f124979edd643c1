"""AWP, adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020): flat minima.

Examples are crafted on the weights w. One step up the loss gives a direction d, which each kernel
follows by gamma times its own length: v = gamma |w| d / |d|. The loss at w + v makes the update
(momentum and weight decay act there), then v is subtracted again. Kernels are weights of two or
more dimensions: no bias, no batch normalisation. `objective` is the loss that is perturbed:
AT-AWP, TRADES-AWP, MART-AWP.

Entries perturb from the first epoch of the authors' code on: AT-AWP's from 1, the others' from 10.

Departures: the direction is the gradient itself with the running statistics untouched, where the
authors make a step of a copy (its rate cancels); examples are crafted in the recipe's mode, where
AT-AWP's code crafts in training mode (as `awp_own`) and TRADES-AWP's in evaluation mode; and no
clean forward is made after the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Epoch
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import attack_mode
from pipeline.methods._objectives import objective


@dataclass(frozen=True, kw_only=True)
class Awp(Method):
    """A base loss at the worst weights nearby; warm_up: the last epoch without perturbation."""

    objective: Literal["ce", "trades", "mart"]
    beta: float
    gamma: float
    warm_up: Epoch

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every member at its perturbed weights."""
        adversarial = training.craft(batch)

        losses = []
        for i, member in enumerate(training.members):
            kernels = [w for n, w in member.named_parameters() if "weight" in n and w.ndim > 1]
            shifts = self.find_shifts(training, i, batch, adversarial, kernels)
            # The optimiser steps from w + v with the gradient of there; leaving subtracts v again.
            with shifted(kernels, shifts):
                losses.append(training.update(i, self.loss(training, i, batch, adversarial)))
        return torch.stack(losses).mean()

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """The base loss at the member's weights as they are, [B]."""
        return objective(self.objective, training.members[index], batch, adversarial, self.beta)

    def find_shifts(
        self,
        training: Training,
        index: int,
        batch: Batch,
        adversarial: Tensor,
        kernels: list[nn.Parameter],
    ) -> list[Tensor]:
        """v of each kernel; none where nothing is perturbed."""
        if self.gamma == 0 or training.epoch <= self.warm_up:
            return []

        with attack_mode(training.members[index], "train_frozen"):
            # Batch statistics as in the update that follows; the running ones stay as they are.
            loss = self.loss(training, index, batch, adversarial).mean()
        gradients = torch.autograd.grad(loss, kernels)
        return [
            self.gamma * w.detach().norm() * g / (g.norm() + 1e-20)
            for w, g in zip(kernels, gradients, strict=True)
        ]


@contextmanager
def shifted(weights: list[nn.Parameter], shifts: list[Tensor]) -> Iterator[None]:
    """Weights plus their shifts; afterwards the shifts are subtracted, whatever was learnt."""
    with torch.no_grad():
        # Not strict: where nothing is perturbed there are no shifts.
        for weight, shift in zip(weights, shifts, strict=False):
            weight.add_(shift)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, shift in zip(weights, shifts, strict=False):
                weight.sub_(shift)
