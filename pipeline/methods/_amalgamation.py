"""What AT-AKA and CAT-AKA share: particles to train on, and answers to be amalgamated."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, kl
from pipeline.core.particles import Particles


@dataclass(frozen=True, kw_only=True)
class Amalgamating(Method):
    """Fields of the particles (pipeline/core/particles.py) and of the common target.

    alpha: weight of the distance to the target, 1 - alpha that of CE. amalgamation: see
    `weigh` and `find_closest`; pareto amalgamates probabilities and its distance is KL, the others
    amalgamate logits and theirs is the squared distance, summed over classes. sharpness: b of
    soft.
    """

    eps: Radius
    step_size: Radius
    steps: int
    kernel: Literal["median", "fixed", "none"]
    width: float
    repulsion: float
    gradients: Literal["own", "every"]
    is_balanced: bool
    is_signed: bool
    alpha: float
    amalgamation: Literal["naive", "linear", "soft", "pareto"]
    sharpness: float
    kl_order: Literal["teacher_student", "student_teacher"]

    def craft(self, training: Training, models: list[nn.Module], batch: Batch) -> Tensor:
        """One particle for each model, [n, B, C, H, W], in the recipe's crafting mode."""
        particles = Particles(
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            kernel=self.kernel,
            width=self.width,
            gamma=self.repulsion,
            gradients=self.gradients,
            is_balanced=self.is_balanced,
            is_signed=self.is_signed,
        )
        draws: Draws = batch.draws.fork("particles")
        with attack_mode(nn.ModuleList(models), training.recipe.attack_bn_mode):
            return particles.climb(models, batch.images, batch.labels, draws)

    def distance(self, student: Tensor, logits_KBC: Tensor, labels: Tensor) -> Tensor:
        """From the student's logits to the amalgamated ones, [B]; no gradient into those."""
        logits_KBC = logits_KBC.detach()
        if self.amalgamation == "pareto":
            probs_KBC = logits_KBC.softmax(-1)
            weights = find_closest(student.detach().softmax(-1), probs_KBC)
            target = fuse(weights, probs_KBC).log()
            forward = self.kl_order == "teacher_student"
            return kl(target, student) if forward else kl(student, target)
        losses_KB = torch.stack([cross_entropy(z, labels) for z in logits_KBC])
        weights = weigh(self.amalgamation, losses_KB, self.sharpness)
        return (student - fuse(weights, logits_KBC)).square().sum(-1)

    def mixed(self, student: Tensor, logits_KBC: Tensor, labels: Tensor) -> Tensor:
        """(1 - alpha) CE + alpha distance, [B]; at alpha 0 nothing is amalgamated."""
        losses = cross_entropy(student, labels)
        if self.alpha == 0:
            return losses
        return (1 - self.alpha) * losses + self.alpha * self.distance(student, logits_KBC, labels)


def weigh(rule: str, losses_KB: Tensor, sharpness: float) -> Tensor:
    """Weights [members, B] that sum to 1 and favour the members with a high loss.

    naive: the one with the highest loss. linear: l / sum l. soft: softmax(sharpness l).
    """
    if rule == "naive":
        highest = losses_KB.argmax(0, keepdim=True)
        return torch.zeros_like(losses_KB).scatter(0, highest, 1)
    if rule == "linear":
        shares = losses_KB + 1e-12  # equal weights where every loss is 0
        return shares / shares.sum(0)
    return (sharpness * losses_KB).softmax(0)


def fuse(weights_KB: Tensor, values_KBC: Tensor) -> Tensor:
    """Weighted sum of the members' values, [B, classes]."""
    return (weights_KB[..., None] * values_KBC).sum(0)


@torch.no_grad()
def find_closest(point_BC: Tensor, corners_KBC: Tensor) -> Tensor:
    """Weights [members, B] of the point of the corners' hull that is closest to `point`.

    Exact: the closest point of every face's plane that lies in the face, and of those the best.
    """
    corners_BKC = corners_KBC.transpose(0, 1).double()
    point_BC = point_BC.double()
    best = point_BC.new_full((len(point_BC),), torch.inf)
    chosen = point_BC.new_zeros(len(point_BC), len(corners_KBC))
    for size in range(1, len(corners_KBC) + 1):
        for face in combinations(range(len(corners_KBC)), size):
            found = _on_plane(point_BC, corners_BKC[:, face])
            weights_BK = torch.zeros_like(chosen)
            weights_BK[:, face] = found.clamp_min(0)
            weights_BK = weights_BK / weights_BK.sum(1, keepdim=True).clamp_min(1e-12)
            near = (weights_BK[:, None] @ corners_BKC)[:, 0]
            distance = (near - point_BC).square().sum(1)
            distance = distance.where((found >= -1e-9).all(1), torch.inf)
            better = distance < best
            best[better], chosen[better] = distance[better], weights_BK[better]
    return chosen.T.to(corners_KBC.dtype)


def _on_plane(point_BC: Tensor, corners_BKC: Tensor) -> Tensor:
    """Weights, summing to 1, of the plane's point that is closest; [B, size]."""
    origin = corners_BKC[:, :1]
    directions = (corners_BKC[:, 1:] - origin).transpose(1, 2)
    target = (point_BC - origin[:, 0])[..., None]
    rest = (torch.linalg.pinv(directions) @ target)[..., 0]
    return torch.cat([1 - rest.sum(1, keepdim=True), rest], 1)
