"""APGD in l1: sparse steps, at radii that fall to eps (Croce and Hein 2021, "Mind the box")."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from torch import Tensor

from pipeline.attacks._apgd import Front
from pipeline.core.draws import Draws
from pipeline.core.norms import per_image, project

Look: TypeAlias = Callable[[Front], tuple[Tensor, Tensor, Tensor]]  # logits, objective, gradient

RADII, EARLY = (3, 2, 1), 0.3  # times eps; share of the steps in each of the larger ones
INTERVAL = 0.04  # share of the steps between two checks
FEWER = 1.5  # a step moves the entries that the best image changed, divided by this
CUT, LEAST = 1.5, 10  # what divides the step otherwise, and what divides the radius at most


@dataclass(frozen=True)
class SparseAscent:
    """One run from noise at radii that fall to eps.

    Outside the ball no image leaves: it goes on at the next radius from its best point. At eps it
    does when it is fooled, unless `is_random`.
    """

    eps: float
    steps: int
    rho: float
    is_random: bool

    def climb(self, look: Look, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Images at the end, in ball and box."""
        moved = images + draws.normal(*images.shape[1:])
        early = min(math.ceil(EARLY * self.steps), self.steps // 2)
        counts = (early, early, self.steps - 2 * early)

        for factor, count in zip(RADII, counts, strict=True):
            radius = factor * self.eps
            front = _Sparse.begin_at(images, project("l1", moved, images, radius), radius)
            stops = factor == RADII[-1] and not self.is_random
            moved = self._climb(look, front, labels, radius, count, stops)
        return moved

    def _climb(
        self,
        look: Look,
        front: "_Sparse",
        labels: Tensor,
        radius: float,
        steps: int,
        stops: bool,
    ) -> Tensor:
        """`steps` steps at one radius, and one gradient more than that."""
        every = max(int(INTERVAL * steps), 1)
        result = front.best.clone()
        for step in range(steps + 1):
            if step > 0:
                front.take_step(radius)
            logits, values, gradient = look(front)
            fooled = (logits.argmax(1) != labels[front.rows]) & stops
            front.observe(values, gradient, fooled)

            if fooled.any():
                result[front.rows] = front.best
                front = front.keep(~fooled)
                if not len(front.rows):
                    return result

            if step and step % every == 0:
                front.check_support(radius, self.rho)

        result[front.rows] = front.best
        return result


@dataclass
class _Sparse(Front):
    """What APGD remembers in l1 too."""

    share: Tensor  # of the entries that a step moves
    support: Tensor  # entries that the best point changed at the last check

    @classmethod
    def begin_at(cls, clean: Tensor, start: Tensor, radius: float) -> Self:
        """A step of the radius's length over as many entries as the start changed, or fewer."""
        support = _count_changed(start, clean)
        share = support / FEWER / clean[0].numel()
        return cls(**vars(Front.begin(clean, start, radius)), share=share, support=support)

    def take_step(self, radius: float) -> None:
        """Move the steepest entries by equal amounts, and project."""
        slopes = self.gradient.flatten(1)
        count = slopes.shape[1]
        least = ((1 - self.share) * count).long().clamp(0, count - 1)
        # Entries that tie with the least of them move too.
        bar = slopes.abs().sort(1).values.gather(1, least[:, None])
        step = torch.where(slopes.abs() >= bar, slopes.sign(), 0)
        length = step.abs().sum(1).clamp_min(1)

        moved = self.moved + per_image(self.step_size / length, self.moved) * step.view_as(
            self.moved
        )
        self.moved = project("l1", moved, self.clean, radius)

    def check_support(self, radius: float, rho: float) -> None:
        """A long step again, from the best point, where that grew sparser; else a shorter one."""
        support = _count_changed(self.best, self.clean)
        sparser = support < rho * self.support
        shorter = (self.step_size / CUT).clamp_min(radius / LEAST)
        self.step_size = torch.where(sparser, radius, shorter)
        self.share = support / FEWER / self.clean[0].numel()
        self.support = support

        wide = per_image(sparser, self.moved)
        self.moved = torch.where(wide, self.best, self.moved)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


def _count_changed(moved: Tensor, clean: Tensor) -> Tensor:
    """How many entries of every image are not the clean one's, [B]."""
    return (moved != clean).flatten(1).sum(1).to(moved.dtype)
