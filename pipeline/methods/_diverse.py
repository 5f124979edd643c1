"""What ADP, GAL, and TRS share: all members learn together, and apart from each other."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Diverse(Method):
    """One step of all members down their cross-entropies and a regulariser of their differences.

    optimiser: the recipe's SGD, or Adam with the recipe's rate and weight decay and `adam_eps`.
    cross_entropy: mean or sum over members. scale: of the whole loss. adversarial: what examples
    against all members add to it: nothing, their cross-entropy, or the whole objective.
    """

    optimiser: Literal["sgd", "adam"]
    adam_eps: float
    cross_entropy: Literal["mean", "sum"]
    adversarial: Literal["none", "cross_entropy", "objective"]
    scale: float

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """One optimiser of the chosen kind for each member."""
        if self.optimiser == "sgd":
            return super().setup(training)

        recipe = training.recipe
        return [
            torch.optim.Adam(
                m.parameters(), recipe.lr, eps=self.adam_eps, weight_decay=recipe.weight_decay
            )
            for m in training.networks
        ]

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of all members together."""
        crafted = batch.images if self.adversarial == "none" else training.craft(batch)
        loss = self._objective(training, batch)
        if self.adversarial == "cross_entropy":
            losses = [cross_entropy(member(crafted), batch.labels) for member in training.members]
            loss = loss + self._reduce(torch.stack(losses))
        elif self.adversarial == "objective":
            loss = loss + self._objective(training, replace(batch, images=crafted))

        return training.update_members(self.scale * loss)

    @abstractmethod
    def terms(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses [members, B] on the batch, and the regulariser: [B], or its mean."""

    def _objective(self, training: Training, batch: Batch) -> Tensor:
        losses_KB, regulariser = self.terms(training, batch)
        return self._reduce(losses_KB) + regulariser.mean()

    def _reduce(self, losses_KB: Tensor) -> Tensor:
        """Over the batch the mean, over members as `cross_entropy` says."""
        return losses_KB.mean() if self.cross_entropy == "mean" else losses_KB.sum(0).mean()
