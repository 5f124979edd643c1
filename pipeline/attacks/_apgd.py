"""What APGD remembers of the images still in the batch (Croce and Hein 2020, Algorithm 1)."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from pipeline.core.norms import per_image


@dataclass
class Front:
    """One run of every sample still in the batch; every field is per sample."""

    rows: Tensor
    clean: Tensor
    moved: Tensor
    previous: Tensor
    gradient: Tensor
    values: Tensor
    best: Tensor
    best_gradient: Tensor
    best_values: Tensor
    step_size: Tensor
    improved: Tensor  # steps since the last checkpoint that raised the objective
    checked_values: Tensor  # best objective at the last checkpoint
    halved: Tensor  # whether the last checkpoint halved the step

    @classmethod
    def begin(cls, clean: Tensor, start: Tensor, step_size: float) -> Self:
        """Nothing seen yet: the start's value cannot count as an improvement, but is the best."""
        ones = torch.ones(len(clean), device=clean.device)
        return cls(
            rows=torch.arange(len(clean), device=clean.device),
            clean=clean,
            moved=start,
            previous=start,
            gradient=torch.zeros_like(start),
            values=ones * torch.inf,
            best=start,
            best_gradient=torch.zeros_like(start),
            best_values=ones * -torch.inf,
            step_size=ones * step_size,
            improved=ones * 0,
            checked_values=ones * -torch.inf,
            halved=ones.bool(),
        )

    def keep(self, mask: Tensor) -> Self:
        """The same of some samples."""
        return type(self)(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def observe(self, values: Tensor, gradient: Tensor, fooled: Tensor) -> None:
        """Take in the objective at `moved`; an iterate that fools is the best."""
        self.improved = self.improved + (values > self.values)
        self.values, self.gradient = values, gradient

        better = fooled | (values > self.best_values)
        wide = per_image(better, self.moved)
        self.best = torch.where(wide, self.moved, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_values = torch.where(better, values, self.best_values)

    def check(self, enough: float) -> None:
        """Halve the step and go back to the best point after too few improvements, or none."""
        # The paper's condition 2: neither the step nor the best value changed since the last check.
        idle = ~self.halved & (self.checked_values >= self.best_values)
        # Condition 1: too few of the steps since then rose.
        self.halved = idle | (self.improved <= enough)

        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        # A halved sample goes on from its best point, with the gradient there.
        wide = per_image(self.halved, self.moved)
        self.moved = torch.where(wide, self.best, self.moved)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)

        self.checked_values = self.best_values
        self.improved = torch.zeros_like(self.improved)
