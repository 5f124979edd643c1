"""Particles that climb their models' losses and repel each other (SVGD; Liu and Wang 2016)."""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import project, uniform_start


@dataclass(frozen=True, kw_only=True)
class Particles:
    """n perturbed copies of each image, one for each of n models, in the linf ball.

    phi_i = (1/n) sum_j [k_ij G_j + gamma k_ij (x_i - x_j) / h^2] with
    k_ij = exp(-|x_i - x_j|^2 / 2h^2). kernel: `fixed` has h = width; `median` has
    h^2 = median |x_i - x_j|^2 / (2 log(n + 1)) for each image and step; `none` is one plain PGD
    for each model. gradients: `own` is model j's at x_j, `every` model i's at x_j, as printed.
    is_balanced: both sums of phi get unit length before they are added. is_signed: steps along
    sign(phi) instead of phi. divided: which sums are divided by n; AT-AKA prints it in front of
    the repulsion alone.
    """

    eps: float
    step_size: float
    steps: int
    kernel: Literal["median", "fixed", "none"]
    width: float
    gamma: float
    gradients: Literal["own", "every"]
    is_balanced: bool
    is_signed: bool
    divided: Literal["both", "repulsion"]

    def climb(
        self, models: list[nn.Module], images: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:
        """Particles [n, B, C, H, W] after the steps, detached."""
        starts = [
            uniform_start("linf", images, self.eps, draws.fork(i)) for i in range(len(models))
        ]

        points_KBD = torch.stack(starts).flatten(2)
        self._warn_of_no_kernel(points_KBD)

        for _ in range(self.steps):
            moves_KBD = self._moves(models, points_KBD, images, labels)
            moves_KBD = moves_KBD.sign() if self.is_signed else moves_KBD
            moved = (points_KBD + self.step_size * moves_KBD).view(-1, *images.shape)
            kept = [project("linf", m, images, self.eps) for m in moved]
            points_KBD = torch.stack(kept).flatten(2)
        return points_KBD.view(-1, *images.shape)

    def _moves(
        self, models: list[nn.Module], points_KBD: Tensor, images: Tensor, labels: Tensor
    ) -> Tensor:
        def rises(model: nn.Module, points: Tensor) -> Tensor:
            return _rises(model, points.view_as(images), labels).flatten(1)

        # rise_KKBD[i, j]: what particle i is told of point j; `own` is the same for every i.
        if self.kernel != "none" and self.gradients == "every":
            rise_KKBD = torch.stack(
                [torch.stack([rises(m, x) for x in points_KBD]) for m in models]
            )
        else:
            own = [rises(m, x) for m, x in zip(models, points_KBD, strict=True)]
            rise_KKBD = torch.stack(own).expand(len(own), -1, -1, -1)

        # Without a kernel no particle feels another: n attacks side by side.
        if self.kernel == "none":
            return rise_KKBD[0]

        pull_KBD, push_KBD = stein(points_KBD, rise_KKBD, self._squared_width(points_KBD))
        if self.divided == "repulsion":
            # stein divides both sums by n.
            pull_KBD = len(points_KBD) * pull_KBD
        if self.is_balanced:
            pull_KBD, push_KBD = _unit(pull_KBD), _unit(push_KBD)
        return pull_KBD + self.gamma * push_KBD

    def _warn_of_no_kernel(self, points_KBD: Tensor) -> None:
        """Say so where no particle feels another, as with the width that AT-AKA prints."""
        count = len(points_KBD)
        if self.kernel == "fixed" and count > 1:
            kernel_KKB = _kernel(points_KBD, self._squared_width(points_KBD))
            # The n diagonal entries of each image alone are not 0: no pair is near enough.
            if int(kernel_KKB.count_nonzero()) == count * points_KBD.shape[1]:
                warnings.warn(f"svgd: width {self.width}: all kernels are 0", stacklevel=2)

    def _squared_width(self, points_KBD: Tensor) -> Tensor:
        """h^2 of each image, [B]."""
        if self.kernel == "fixed":
            return points_KBD.new_full(points_KBD.shape[1:2], self.width**2)
        return median_width(points_KBD)


def _rises(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of CE in the images."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        losses = cross_entropy(model(images), labels)
    return gradient_in(images, losses)


def median_width(points_KBD: Tensor) -> Tensor:
    """h^2 = median over pairs of |x_i - x_j|^2 / (2 log(n + 1)), [B]; 1 for one particle."""
    count = len(points_KBD)
    if count == 1:
        return points_KBD.new_ones(points_KBD.shape[1])

    # Each pair once, and no particle's distance to itself
    upper = torch.triu_indices(count, count, 1, device=points_KBD.device)
    pairs = _squared_distances(points_KBD)[upper[0], upper[1]]

    tiny = torch.finfo(pairs.dtype).tiny
    return (pairs.quantile(0.5, dim=0) / (2 * math.log(count + 1))).clamp_min(tiny)


def _squared_distances(points_KBD: Tensor) -> Tensor:
    """[n, n, B]."""
    return torch.stack([(points_KBD - x).square().sum(-1) for x in points_KBD])


def _kernel(points_KBD: Tensor, squared_width: Tensor) -> Tensor:
    """[n, n, B], 1 of a particle with itself."""
    return (-_squared_distances(points_KBD) / (2 * squared_width)).exp()


def stein(points_KBD: Tensor, rise_KKBD: Tensor, squared_width: Tensor) -> tuple[Tensor, Tensor]:
    """Both sums of phi, [n, B, D]: the smoothed rise, and the push away from the others.

    rise_KKBD[i, j] is the gradient that particle i is told of point j.
    """
    count = len(points_KBD)
    kernel_KKB = _kernel(points_KBD, squared_width)
    pull, push = [], []
    for i, point in enumerate(points_KBD):
        weights_KB1 = kernel_KKB[i][..., None]
        pull.append((weights_KB1 * rise_KKBD[i]).sum(0) / count)
        # The gradient of k_ij in x_j is k_ij (x_i - x_j) / h^2.
        apart = (point - points_KBD) / squared_width[:, None]
        push.append((weights_KB1 * apart).sum(0) / count)
    return torch.stack(pull), torch.stack(push)


def _unit(moves: Tensor) -> Tensor:
    """Moves of unit length; 0 stays 0."""
    length: Tensor = moves.norm(dim=-1, keepdim=True)
    return moves / length.clamp_min(torch.finfo(moves.dtype).tiny)
