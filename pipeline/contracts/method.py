"""The contract of a training method: write `loss`; override another verb only if you must."""

from abc import ABC
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.contracts.maker import Maker
from pipeline.contracts.training import Batch, Training


@dataclass(frozen=True, kw_only=True)
class Method(ABC):  # noqa: B024 - a method writes `loss` or `step`; tests/methods/test_methods.py checks it
    """Fields every method's entry has.

    joint: the members share one run, its examples are crafted on the whole ensemble, and each
    member in turn is updated on them. Otherwise every member is a run of its own.
    combine: how the members answer together, in training and as a victim.
    """

    joint: bool
    combine: str

    def build(self, make: Maker, members: int) -> list[nn.Module]:
        """The members, which answer; `make(i)` is a fresh network with member i's weights."""
        return [make(i) for i in range(members)]

    def assist(self, make: Maker) -> list[nn.Module]:
        """Networks that train along and never answer, such as teachers."""
        return []

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """One optimiser for each member, then one for each assistant."""
        return [training.sgd(m.parameters()) for m in training.networks]

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every member on one batch; returns the mean loss."""
        parts = training.split(batch)
        crafted = [training.craft(part) for part in parts]

        def update(member: int, part: int) -> Tensor:
            losses = self.loss(training, member, parts[part], crafted[part])
            return training.update(member, losses)

        # A member learns from all parts before the next one, which may look at it, does.
        losses = [training.learn(parts, partial(update, i)) for i in range(len(training.members))]
        return torch.stack(losses).mean()

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """Losses [B] of member `index`; `adversarial` are the crafted images."""
        raise NotImplementedError(f"{type(self).__name__} writes neither `loss` nor `step`")


def learn(method: Method, training: Training, batch: Batch) -> Tensor:
    """One update by a method on one batch, in parts where the recipe asks for them; returns the
    mean loss."""
    parts = training.split(batch)
    # The common step splits by itself, a member at a time; no other looks at what it updated.
    if type(method).step is Method.step:
        parts = [batch]
    return training.learn(parts, lambda i: method.step(training, parts[i]))
