"""DeepFool: to the nearest linearised boundary until the label flips (Moosavi-Dezfooli 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in, rank_rivals, refuse_random
from pipeline.core.draws import Draws
from pipeline.core.losses import gap
from pipeline.core.norms import per_image, steepest


@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """Steps of |f_k| / |w_k|_2 + 1e-4 along w_k to the nearest of the `rivals` likeliest classes.

    The overshoot multiplies the total perturbation, and an image is done only when the image that
    is returned was misclassified together with its whole batch: torchattacks overshoots step by
    step and stops on the boundary. An image that resists stays unchanged.
    """

    steps: int
    overshoot: float
    rivals: int

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in the box, detached; draws nothing."""
        refuse_random(model, "deepfool")
        total, moved = torch.zeros_like(images), images.clone()
        logits = model(images)
        candidates = rank_rivals(logits, labels, self.rivals)
        right = logits.argmax(1) == labels

        for _ in range(self.steps):
            if not right.any():
                return moved
            total[right] += _shortest_step(model, moved[right], labels[right], candidates[right])
            moved = (images + (1 + self.overshoot) * total).clamp(0, 1)
            right = model(moved).argmax(1) == labels

        return torch.where(per_image(right, images), images, moved)


def _shortest_step(model: nn.Module, images: Tensor, labels: Tensor, candidates: Tensor) -> Tensor:
    """The move to the nearest boundary of the linearised model; 0 where there is no slope."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        gaps = [gap(logits, labels, targets) for targets in candidates.unbind(1)]

    best = torch.zeros_like(images)
    shortest = torch.full_like(gaps[0], torch.inf).detach()
    for values in gaps:
        slopes = gradient_in(images, values, keep_graph=True)
        direction = steepest("l2", slopes)
        size = (slopes * direction).flatten(1).sum(1)  # without squares, which may underflow
        # The l2 distance to a hyperplane is |gap| over the length of its normal.
        distance = torch.where(size > 0, values.detach().abs() / size, torch.inf)
        nearer = distance < shortest
        # the authors' 1e-4: at the boundary itself a step must still go somewhere
        step = per_image(distance + 1e-4, slopes) * direction

        best = torch.where(per_image(nearer, step), step, best)
        shortest = torch.where(nearer, distance, shortest)
    return best.detach()
