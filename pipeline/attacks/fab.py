"""FAB: the closest adversarial image by projections on linearised boundaries (Croce, Hein 2020)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Attempt, gradient_in, keep_worst, rank_rivals, refuse_random
from pipeline.core.draws import Draws
from pipeline.core.folding import folded
from pipeline.core.losses import gap
from pipeline.core.norms import lengths, per_image, project, room, surface_start, water_level

SHORTEST = 1e-8  # least length of a projection where two of them are compared, against 0 / 0


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Minimal l_inf perturbations; a sample leaves once one within eps is found.

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
                start = surface_start("linf", start, self.eps / 2, own)
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
        nearest = moved
        distances = torch.full((len(clean),), torch.inf, device=clean.device)

        for _ in range(self.steps):
            moved = self._step(moved, clean, *_nearest_boundary(model, moved, labels, candidates))
            fooled = model(moved).argmax(1) != labels

            reached = lengths("linf", moved - clean)
            closer = fooled & (reached < distances)
            nearest = torch.where(per_image(closer, moved), moved, nearest)
            distances = torch.where(closer, reached, distances)
            done = distances <= self.eps

            # The paper's backward step: go on from between the success and the clean image.
            back = clean + self.beta * (moved - clean)
            moved = torch.where(per_image(fooled, moved), back, moved)

            if done.any():
                result[rows], keep = project("linf", nearest, clean, self.eps), ~done
                kept = [rows, clean, labels, candidates, moved, nearest, distances]
                rows, clean, labels, candidates, moved, nearest, distances = (
                    each[keep] for each in kept
                )
                if not len(rows):
                    break

        result[rows] = project("linf", nearest, clean, self.eps)
        return result

    def _step(self, moved: Tensor, clean: Tensor, gaps: Tensor, normals: Tensor) -> Tensor:
        """Past the boundary from the iterate and from the clean image, mixed by their lengths."""
        # The linearised gap at the clean image is gaps + normals . (clean - moved).
        from_clean = -gaps - (normals * (clean - moved)).flatten(1).sum(1)
        there = _to_hyperplane(moved, normals, -gaps)
        direct = _to_hyperplane(clean, normals, from_clean)

        # The nearer the iterate's own boundary point, the less the clean image's one counts.
        far = lengths("linf", there).clamp_min(SHORTEST)
        far_direct = lengths("linf", direct).clamp_min(SHORTEST)
        bias = per_image((far / (far + far_direct)).clamp_max(self.alpha_max), moved)
        mixed = (1 - bias) * (moved + self.eta * there) + bias * (clean + self.eta * direct)
        return mixed.clamp(0, 1)


def _nearest_boundary(
    model: nn.Module, images: Tensor, labels: Tensor, candidates: Tensor
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
        # The l_inf distance to a hyperplane is |gap| over the l1 norm of its normal.
        size = slopes.flatten(1).abs().sum(1).clamp_min(torch.finfo(slopes.dtype).tiny)
        distance = values.detach().abs() / size

        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        gaps = torch.where(nearer, values.detach(), gaps)
        normals = torch.where(per_image(nearer, slopes), slopes, normals)
    return gaps, normals


def _to_hyperplane(images: Tensor, normals: Tensor, changes: Tensor) -> Tensor:
    """The shortest l_inf moves inside the box with normals . move = change, or as far as it goes.

    Every pixel moves to the same level, or to the box where that is nearer.
    """
    directions = normals * per_image(changes.sign(), normals)
    caps = room(directions, images)
    level = water_level(directions.flatten(1).abs(), caps.flatten(1), changes.abs())
    return directions.sign() * torch.minimum(caps, per_image(level, caps))
