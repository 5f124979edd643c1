"""FAB: the closest adversarial image by projections on linearised boundaries (Croce, Hein 2020)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Attempt, gradient_in, keep_worst, rank_rivals, refuse_random
from pipeline.core.draws import Draws
from pipeline.core.folding import folded
from pipeline.core.losses import gap
from pipeline.core.norms import Ball, lengths, per_image, project, room, surface_start, water_level

DUAL: dict[Ball, Ball] = {"linf": "l1", "l2": "l2", "l1": "linf"}
SHORTEST = 1e-8  # least length of a projection where two of them are compared, against 0 / 0


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Minimal perturbations in the norm; a sample leaves once one within eps is found.

    Each restart runs once for each of the `targets` most likely wrong classes (FAB-T); with
    targets 0 it runs once, every step towards the nearest boundary, at one backward per class.
    A sample without success ends at its closest adversarial image, projected onto the ball.
    """

    eps: Radius
    steps: int
    restarts: int
    targets: int
    alpha_max: float
    eta: float
    beta: float
    norm: Literal["linf", "l2", "l1"] = "linf"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        refuse_random(model, "fab")
        fast = folded(model)
        with torch.no_grad():
            logits = fast(images)

        # FAB-T has a run for each class, plain FAB one run that looks at all of them.
        rivals = rank_rivals(logits, labels, self.targets or logits.shape[1])
        groups = list(rivals.unsqueeze(2).unbind(1)) if self.targets else [rivals]

        def run(number: int, rows: Tensor) -> Tensor:
            start = images[rows]
            if number >= len(groups):  # a restart
                own = draws.fork(number).select(rows)
                # At half the radius, so that the search begins inside the ball.
                start = surface_start(self.norm, start, self.eps / 2, own)
            candidates = groups[number % len(groups)][rows]
            return self._search(fast, images[rows], labels[rows], candidates, start)

        runs: list[Attempt] = [lambda rows: images[rows]]  # errors there need no search
        runs += [partial(run, number) for number in range(self.restarts * len(groups))]
        return keep_worst(runs, model, images, labels, votes=1)

    @torch.no_grad()
    def _search(
        self, model: nn.Module, clean: Tensor, labels: Tensor, candidates: Tensor, moved: Tensor
    ) -> Tensor:
        """One run towards the candidate classes [B, m]: per step a linearisation and a check."""
        rows, result = torch.arange(len(clean), device=clean.device), moved.clone()
        norm = self.norm
        nearest = moved
        distances = torch.full((len(clean),), torch.inf, device=clean.device)

        for _ in range(self.steps):
            boundary = _nearest_boundary(model, norm, moved, labels, candidates)
            moved = self._step(moved, clean, *boundary)
            fooled = model(moved).argmax(1) != labels

            reached = lengths(norm, moved - clean)
            closer = fooled & (reached < distances)
            nearest = torch.where(per_image(closer, moved), moved, nearest)
            distances = torch.where(closer, reached, distances)
            done = distances <= self.eps

            # The paper's backward step: go on from between the success and the clean image.
            back = clean + self.beta * (moved - clean)
            moved = torch.where(per_image(fooled, moved), back, moved)

            if done.any():
                result[rows], keep = project(norm, nearest, clean, self.eps), ~done
                kept = [rows, clean, labels, candidates, moved, nearest, distances]
                rows, clean, labels, candidates, moved, nearest, distances = (
                    each[keep] for each in kept
                )
                if not len(rows):
                    break

        result[rows] = project(norm, nearest, clean, self.eps)
        return result

    def _step(self, moved: Tensor, clean: Tensor, gaps: Tensor, normals: Tensor) -> Tensor:
        """Past the boundary from the iterate and from the clean image, mixed by their lengths."""
        # The linearised gap at the clean image is gaps + normals . (clean - moved).
        from_clean = -gaps - (normals * (clean - moved)).flatten(1).sum(1)
        there = _to_hyperplane(self.norm, moved, normals, -gaps)
        direct = _to_hyperplane(self.norm, clean, normals, from_clean)

        # The nearer the iterate's own boundary point, the less the clean image's one counts.
        far = lengths(self.norm, there).clamp_min(SHORTEST)
        far_direct = lengths(self.norm, direct).clamp_min(SHORTEST)
        bias = per_image((far / (far + far_direct)).clamp_max(self.alpha_max), moved)
        mixed = (1 - bias) * (moved + self.eta * there) + bias * (clean + self.eta * direct)
        return mixed.clamp(0, 1)


def _nearest_boundary(
    model: nn.Module, norm: Ball, images: Tensor, labels: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """z_t - z_y [B] and its gradient, for the candidate t whose linearised boundary is nearest."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        boundaries = [gap(logits, labels, targets) for targets in candidates.unbind(1)]

    gaps, normals = boundaries[0].detach(), torch.zeros_like(images)
    shortest = torch.full_like(gaps, torch.inf)
    for values in boundaries:
        slopes = gradient_in(images, values, keep_graph=len(boundaries) > 1)
        # The distance to a hyperplane is |gap| over the dual norm of its normal.
        size = lengths(DUAL[norm], slopes).clamp_min(torch.finfo(slopes.dtype).tiny)
        distance = values.detach().abs() / size

        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        gaps = torch.where(nearer, values.detach(), gaps)
        normals = torch.where(per_image(nearer, slopes), slopes, normals)
    return gaps, normals


def _to_hyperplane(norm: Ball, images: Tensor, normals: Tensor, changes: Tensor) -> Tensor:
    """The shortest moves inside the box with normals . move = change, or as far as it goes."""
    directions = normals * per_image(changes.sign(), normals)
    caps, slopes = room(directions, images).flatten(1), directions.flatten(1).abs()

    if norm == "linf":
        # Every pixel moves to the same level, or to the box where that is nearer.
        sizes = torch.minimum(caps, water_level(slopes, caps, changes.abs())[:, None])
    elif norm == "l2":
        # Every pixel moves in proportion to its slope, or to the box.
        tiny = torch.finfo(slopes.dtype).tiny
        # First to size 1: squares of an over-confident model's gradients would underflow.
        steepest = slopes.amax(1).clamp_min(tiny)
        shares = slopes / steepest[:, None]
        reach = caps / shares.clamp_min(tiny)
        level = water_level(shares.square(), reach, changes.abs() / steepest)
        sizes = shares * torch.minimum(reach, level[:, None])
    else:
        sizes = _fill_steepest(slopes, caps, changes.abs())
    return directions.sign() * sizes.view_as(directions)


def _fill_steepest(slopes: Tensor, caps: Tensor, totals: Tensor) -> Tensor:
    """Moves [B, d] with slopes . move = total: the steepest pixels to the box, the last in part."""
    order = slopes.argsort(stable=True, dim=1, descending=True)
    gains = (slopes * caps).gather(1, order)
    before = gains.cumsum(1) - gains
    tiny = torch.finfo(gains.dtype).tiny
    shares = ((totals[:, None] - before) / gains.clamp_min(tiny)).clamp(0, 1)
    return caps * torch.zeros_like(caps).scatter(1, order, shares)
