"""Per-step exponential average of the weights, a field of training (WA in MEAT's text)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.contracts.recipe import Recipe
from pipeline.store.checkpoint import Weights, view


class Ema:
    """theta' <- tau theta' + (1 - tau) theta after every step.

    It starts as a copy at its first step, or from the initial weights; with a warm-up tau is at
    most (t + 1) / (t + 10) at update t (Gowal et al. 2020, SEAT).
    """

    def __init__(self, members: Sequence[nn.Module], recipe: Recipe) -> None:
        self.decay, self.first = recipe.ema_decay, recipe.ema_start
        self.with_buffers = recipe.ema_buffers == "averaged"
        self.device = next(members[0].parameters()).device
        self.warms_up, self.updates = recipe.ema_warmup, 0
        self.average: list[dict[str, torch.Tensor]] | None = None
        if recipe.ema_first == "initial":
            self.average = [self._values(m) for m in members]

    def started(self, epoch: int) -> bool:
        """Whether averaging has begun in this 1-based epoch."""
        return epoch >= self.first

    def update(self, members: Sequence[nn.Module], epoch: int) -> None:
        """Take the members' weights in after a step."""
        if not self.started(epoch):
            return

        if self.average is None:
            self.average = [self._values(m) for m in members]
            return

        decay, t = self.decay, self.updates
        self.updates += 1
        # A young average forgets faster, or its first weights would count for thousands of steps.
        if self.warms_up:
            decay = min(decay, (t + 1) / (t + 10))
        with torch.no_grad():
            for average, member in zip(self.average, members, strict=True):
                for name, value in self._values(member, copy=False).items():
                    average[name].lerp_(value, 1 - decay)

    def _values(self, member: nn.Module, *, copy: bool = True) -> dict[str, torch.Tensor]:
        """What is averaged: parameters, and floating-point buffers where asked."""
        named = {n for n, _ in member.named_parameters()}
        if self.with_buffers:
            # Counters of batches are integers, of which there is no average.
            named |= {n for n, b in member.named_buffers() if b.is_floating_point()}
        wanted = {n: v for n, v in member.state_dict().items() if n in named}
        return {n: v.clone() if copy else v for n, v in wanted.items()}

    def weights(self, members: Sequence[nn.Module]) -> Weights:
        """The averaged weights, no copies; whatever is not averaged is the members' own."""
        weights = view(members)
        for i, average in enumerate(self.average or []):
            weights |= {f"{i}.{n}": v for n, v in average.items()}
        return weights

    def state(self) -> Any:
        """For the resume file."""
        return {"average": self.average, "updates": self.updates}

    def restore(self, state: Any) -> None:
        """From the resume file, which was read to the CPU."""
        self.updates, average = state["updates"], state["average"]
        if average is not None:
            self.average = [{n: v.to(self.device) for n, v in values.items()} for values in average]
