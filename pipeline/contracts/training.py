"""What a method's update works on: members, their optimisers, the training attack."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.contracts.recipe import Recipe
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W] in [0, 1]; labels int64 [B]; one stream of draws an image.

    augment: the same images augmented by other draws; None where images are not augmented.
    """

    images: Tensor
    labels: Tensor
    draws: Draws
    augment: Callable[[Draws], Tensor] | None = None

    @property
    def ids(self) -> Tensor:
        """The images' numbers in the training set, int64 [B]: rows of a memory."""
        return self.draws.ids

    def select(self, rows: slice) -> Self:
        """Some images, with their labels and draws; views of them are not to be had."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            draws=self.draws.select(rows),
            augment=None,
        )

    def view(self, number: int) -> Tensor:
        """The same images augmented independently of `images` and of other numbers' views."""
        if self.augment is None:
            return self.images
        return self.augment(self.draws.fork("augment").fork(number))


@dataclass
class Training:
    """Members in training, and assistants that train along but are no part of the ensemble.

    `epoch` is 1-based; `parents` are frozen models and `attacks` built ones, by the method's
    field that names them. `images` is the size of the training set.
    """

    members: list[nn.Module]
    ensemble: Combination
    recipe: Recipe
    attack: Attack | None
    classes: int
    parents: Mapping[str, nn.Module] = field(default_factory=dict)
    assistants: list[nn.Module] = field(default_factory=list)
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    seed: int = 0
    epoch: int = 1
    images: int = 0
    memories: dict[str, Tensor] = field(default_factory=dict)

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

    def memory(self, name: str, *shape: int) -> Tensor:
        """What the method keeps of every training image, float32 [images, *shape].

        Zeros at first; written in place at `batch.ids`; saved and resumed with the members.
        """
        if name not in self.memories:
            where = next(self.members[0].parameters()).device
            self.memories[name] = torch.zeros(self.images, *shape, device=where)
        return self.memories[name]

    def draws(self, purpose: str) -> Draws:
        """One stream of numbers for the whole of this epoch."""
        return Draws(derive(self.seed, purpose, self.epoch), torch.zeros(1, dtype=torch.int64))

    def craft(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        attack: Attack | None = None,
        bn_mode: str = "",
    ) -> Tensor:
        """Training examples against `model` (default: the ensemble).

        By the recipe's attack, or another one; the images themselves when there is none. In the
        recipe's BN mode, or another one.
        """
        crafting = self.attack if attack is None else attack
        if crafting is None:
            return batch.images

        target = self.ensemble if model is None else model
        with attack_mode(target, bn_mode or self.recipe.attack_bn_mode) as climbed:
            return crafting(climbed, batch.images, batch.labels, batch.draws.fork("attack"))

    def update(self, index: int, losses: Tensor, clip: float = 0) -> Tensor:
        """One step of optimiser `index` on the mean of losses [B]; returns that mean.

        clip: largest l2 norm of its gradient; 0 is no bound.
        """
        return _descend([self.optimisers[index]], losses.mean(), clip)

    def update_members(self, loss: Tensor, clip: float = 0) -> Tensor:
        """One step of every member's optimiser down one common loss; returns it."""
        return _descend(self.optimisers[: len(self.members)], loss, clip)


def _descend(optimisers: list[torch.optim.Optimizer], loss: Tensor, clip: float) -> Tensor:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)

    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        if clip:
            moved = [p for group in optimiser.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(moved, clip)
        optimiser.step()
    return loss.detach()
