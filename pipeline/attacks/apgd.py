"""APGD: PGD that chooses its own step size (Croce and Hein 2020, Algorithm 1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.attacks._apgd import Front
from pipeline.attacks._apgd_l1 import SparseAscent
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
from pipeline.core.norms import Norm, per_image, project, steepest, surface_start
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
    In l1 it is the sparse one of Croce and Hein 2021, where rho (0.95) is the share of a check's
    changed entries below which the step is long again.
    """

    norm: Literal["linf", "l2", "l1"]
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
        objectives, norm = self._objectives(fast, images, labels), self.norm

        def run(number: int, rows: Tensor) -> Tensor:
            objective = restrict(objectives[number % len(objectives)], rows)
            # Forked by run and selected by row: images that left before change no draw.
            own = draws.fork(number).select(rows)
            if norm == "l1":
                look = partial(self._look, fast, objective)
                ascent = SparseAscent(self.eps, self.steps, self.rho, is_random(fast))
                return ascent.climb(look, images[rows], labels[rows], own)
            start = surface_start(norm, images[rows], self.eps, own)
            return self._climb(fast, norm, objective, images[rows], labels[rows], start)

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
        self,
        model: nn.Module,
        norm: Norm,
        objective: Objective,
        images: Tensor,
        labels: Tensor,
        start: Tensor,
    ) -> Tensor:
        """One run: `steps` steps, and one gradient more than that."""
        intervals = dict(_checkpoints(self.steps))
        front = Front.begin(images, start, 2 * self.eps)
        result = start.clone()

        for step in range(self.steps + 1):
            # Algorithm 1: a plain first step; later ones are mixed with the last movement.
            if step > 0:
                self._move(norm, front, 1.0 if step == 1 else MOMENTUM)
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
        self, model: nn.Module, objective: Objective, front: Front
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

    def _move(self, norm: Norm, front: Front, weight: float) -> None:
        """The projected step, mixed with the last movement and projected again."""
        # z = P(x + step), x' = P(x + a (z - x) + (1 - a) (x - previous)), P the projection
        step = per_image(front.step_size, front.moved) * steepest(norm, front.gradient)
        target = project(norm, front.moved + step, front.clean, self.eps)
        mixed = (
            front.moved
            + weight * (target - front.moved)
            + (1 - weight) * (front.moved - front.previous)
        )

        front.previous = front.moved
        front.moved = project(norm, mixed, front.clean, self.eps)


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
