"""APGD: PGD that chooses its own step size (Croce and Hein 2020, Algorithm 1)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import (
    Objective,
    input_gradient,
    is_random,
    keep_worst,
    on_labels,
    rank_rivals,
    restrict,
)
from pipeline.core.draws import Draws
from pipeline.core.folding import folded
from pipeline.core.losses import cross_entropy, dlr, dlr_targeted
from pipeline.core.norms import per_image, project, steepest, surface_start
from pipeline.errors import UserError

MOMENTUM = 0.75  # the paper's alpha: weight of the new step against the last one
FIRST_INTERVAL, SHORTEST_INTERVAL, INTERVAL_CUT = 0.22, 0.06, 0.03  # shares of the steps


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Momentum ascent whose step starts at 2 eps and is halved where progress stalls.

    `dlr_targeted` runs once per restart for each of the `targets` most likely wrong classes. A
    fooled sample leaves at once with the iterate that fooled; the others end at their best loss.
    Under a random model no image leaves, and every step averages `eot` forwards.
    Where paper and code differ (a share of exactly rho halves) the authors' code is followed.
    """

    norm: Literal["linf", "l2"]
    eps: Radius
    steps: int
    restarts: int
    loss: Literal["ce", "dlr", "dlr_targeted"]
    targets: int
    rho: float
    eot: int

    def __post_init__(self) -> None:
        """Refuse targets without a targeted loss, and the reverse."""
        if (self.loss == "dlr_targeted") != (self.targets > 0):
            raise UserError(
                f"params.yaml: attacks: loss {self.loss} with targets {self.targets}: "
                "dlr_targeted needs 1 or more, the other losses need targets: 0"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        fast = folded(model)
        objectives = self._objectives(fast, images, labels)

        def run(number: int, rows: Tensor) -> Tensor:
            objective = restrict(objectives[number % len(objectives)], rows)
            # Forked by run and selected by row: images that left before change no draw.
            start = surface_start(
                self.norm, images[rows], self.eps, draws.fork(number).select(rows)
            )
            return self._climb(fast, objective, images[rows], labels[rows], start)

        runs = [partial(run, number) for number in range(self.restarts * len(objectives))]
        return keep_worst(runs, model, images, labels, votes=self.eot)

    def _objectives(self, model: nn.Module, images: Tensor, labels: Tensor) -> list[Objective]:
        """What the runs of one restart ascend."""
        if self.loss == "dlr_targeted":
            with torch.no_grad():
                # Ranked once, on the clean image, as in the authors' code.
                rivals = rank_rivals(model(images), labels, self.targets)
            return [_towards(column, labels) for column in rivals.unbind(1)]

        return [on_labels(cross_entropy if self.loss == "ce" else dlr, labels)]

    def _climb(
        self, model: nn.Module, objective: Objective, images: Tensor, labels: Tensor, start: Tensor
    ) -> Tensor:
        """One run: `steps` steps, and one gradient more than that."""
        intervals = dict(_checkpoints(self.steps))
        front = _Front.begin(images, start, 2 * self.eps)
        result = start.clone()

        for step in range(self.steps + 1):
            # Algorithm 1: a plain first step; later ones are mixed with the last movement.
            if step > 0:
                self._move(front, 1.0 if step == 1 else MOMENTUM)
            logits, values, gradient = self._look(model, objective, front)
            # Under a random model one fooled draw proves nothing.
            fooled = (logits.argmax(1) != labels[front.rows]) & (not is_random(model))
            front.observe(values, gradient, fooled)

            if fooled.any():
                result[front.rows] = front.best
                front = front.keep(~fooled)
                if not len(front.rows):
                    return result

            if step in intervals:
                front.check(self.rho * intervals[step])

        result[front.rows] = front.best
        return result

    def _look(
        self, model: nn.Module, objective: Objective, front: "_Front"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean logits, objective and gradient over `eot` forwards."""
        looks = [input_gradient(model, objective, front.moved, front.rows) for _ in range(self.eot)]
        if self.eot == 1:
            return looks[0]

        logits, values, gradients = zip(*looks, strict=True)
        return (
            torch.stack(logits).mean(0),
            torch.stack(values).mean(0),
            torch.stack(gradients).mean(0),
        )

    def _move(self, front: "_Front", weight: float) -> None:
        """The projected step, mixed with the last movement and projected again."""
        # z = P(x + step), x' = P(x + a (z - x) + (1 - a) (x - previous)), P the projection
        step = per_image(front.step_size, front.moved) * steepest(self.norm, front.gradient)
        target = project(self.norm, front.moved + step, front.clean, self.eps)
        mixed = (
            front.moved
            + weight * (target - front.moved)
            + (1 - weight) * (front.moved - front.previous)
        )

        front.previous = front.moved
        front.moved = project(self.norm, mixed, front.clean, self.eps)


@dataclass
class _Front:
    """What APGD remembers of the samples still in the batch; every field is per sample."""

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


def _towards(targets: Tensor, labels: Tensor) -> Objective:
    return lambda logits, rows: dlr_targeted(logits, labels[rows], targets[rows])


def _checkpoints(steps: int) -> Iterator[tuple[int, int]]:
    """Steps at which progress is judged, each with the number of steps since the last."""
    interval = max(int(FIRST_INTERVAL * steps), 1)
    step = interval
    while step <= steps:
        yield step, interval
        cut = max(int(INTERVAL_CUT * steps), 1)
        interval = max(interval - cut, int(SHORTEST_INTERVAL * steps), 1)
        step += interval
