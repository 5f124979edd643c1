"""What a method's update works on: members, their optimisers, the training attack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.contracts.recipe import Recipe
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws
from pipeline.core.ensemble import Combination


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W] in [0, 1]; labels int64 [B]; one stream of draws an image."""

    images: Tensor
    labels: Tensor
    draws: Draws


@dataclass
class Training:
    """Members in training, and assistants that train along but are no part of the ensemble.

    `epoch` is 1-based, `parents` are frozen models by field name.
    """

    members: list[nn.Module]
    ensemble: Combination
    recipe: Recipe
    attack: Attack | None
    classes: int
    parents: Mapping[str, nn.Module] = field(default_factory=dict)
    assistants: list[nn.Module] = field(default_factory=list)
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    epoch: int = 1

    @property
    def networks(self) -> list[nn.Module]:
        """All that is trained, in the order of the optimisers."""
        return [*self.members, *self.assistants]

    def sgd(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The recipe's optimiser; its rate is set at every step by the schedule."""
        r = self.recipe
        return torch.optim.SGD(
            parameters,
            lr=r.lr,
            momentum=r.momentum,
            weight_decay=r.weight_decay,
            nesterov=r.nesterov,
        )

    def craft(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Training examples against `model` (default: the ensemble) in the recipe's BN mode.

        The images themselves when the recipe has no attack.
        """
        if self.attack is None:
            return batch.images
        target = self.ensemble if model is None else model
        with attack_mode(target, self.recipe.attack_bn_mode):
            return self.attack(target, batch.images, batch.labels, batch.draws.fork("attack"))

    def update(self, index: int, losses: Tensor) -> Tensor:
        """One step of optimiser `index` on the mean of losses [B]; returns that mean."""
        return _descend([self.optimisers[index]], losses.mean())

    def update_members(self, loss: Tensor) -> Tensor:
        """One step of every member's optimiser down one common loss; returns it."""
        return _descend(self.optimisers[: len(self.members)], loss)


def _descend(optimisers: list[torch.optim.Optimizer], loss: Tensor) -> Tensor:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        optimiser.step()
    return loss.detach()
