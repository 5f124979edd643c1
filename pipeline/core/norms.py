"""Geometry of the threat models: steps, starts, projections for the l_inf, l2 and l1 ball.

A perturbed image lies within eps of its clean image x (pixels in [0, 1]) and within the box
[0, 1]; both hold after every function here that returns images.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.core.draws import Draws

Norm: TypeAlias = Literal["linf", "l2"]
Ball: TypeAlias = Literal["linf", "l2", "l1"]

GAUSSIAN_START = 0.001  # standard deviation, in the code of TRADES (Zhang et al. 2019)
WATER_ROUNDS = 30  # far more than was ever needed; stopping early would only undershoot


def lengths(norm: Ball, deltas: Tensor) -> Tensor:
    """Norm of every perturbation, [B]."""
    flat = deltas.flatten(1)
    if norm == "l1":
        return flat.abs().sum(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values [B] shaped to broadcast over images [B, ...]."""
    return values.view(-1, *[1] * (images.dim() - 1))


def steepest(norm: Norm, gradients: Tensor) -> Tensor:
    """Unit direction of steepest ascent: the sign, or the l2-normalised gradient; 0 stays 0."""
    if norm == "linf":
        return gradients.sign()
    tiny = torch.finfo(gradients.dtype).tiny
    # First to size 1: the squares of an over-confident model's gradients would underflow.
    scaled = gradients / per_image(lengths("linf", gradients).clamp_min(tiny), gradients)
    return scaled / per_image(lengths("l2", scaled).clamp_min(tiny), gradients)


def uniform_start(norm: Norm, images: Tensor, eps: float, draws: Draws) -> Tensor:
    """Images plus noise drawn uniformly from the ball, clipped to the box."""
    shape = images.shape[1:]
    if norm == "linf":
        noise = eps * (2 * draws.uniform(*shape) - 1)
    else:
        direction = steepest("l2", draws.normal(*shape))
        # The volume of a ball of d dimensions grows with its radius to the power d.
        radius = eps * draws.uniform() ** (1 / math.prod(shape))
        noise = direction * per_image(radius, images)
    return project(norm, images + noise, images, eps)


def gaussian_start(norm: Norm, images: Tensor, eps: float, draws: Draws) -> Tensor:
    """Images plus small normal noise, projected: where losses without slope at x are climbed."""
    noise = GAUSSIAN_START * draws.normal(*images.shape[1:])
    return project(norm, images + noise, images, eps)


def surface_start(norm: Ball, images: Tensor, eps: float, draws: Draws) -> Tensor:
    """Images plus noise of length eps, clipped to the box: where APGD (not in l1) and FAB start."""
    shape = images.shape[1:]
    noise = 2 * draws.uniform(*shape) - 1 if norm == "linf" else draws.normal(*shape)
    moved = images + eps * noise / per_image(lengths(norm, noise), noise)
    return project(norm, moved, images, eps)


def project(norm: Ball, moved: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest images to `moved` that lie in the ball around `images` and in the box.

    For l2 the optimality conditions give clip(x + t (moved - x)) with one t <= 1 per image, for l1
    clip(x + sign(d) max(|d| - t, 0)) of d = moved - x with one t >= 0 (Croce and Hein 2021).
    """
    deltas = moved - images
    if norm == "linf":
        # Ball and box are products of intervals: one clamp after the other is the projection.
        return (images + deltas.clamp(-eps, eps)).clamp(0, 1)

    if norm == "l1":
        return (images + _l1_soften(deltas, images, eps)).clamp(0, 1)

    shrink = per_image(_l2_shrink(deltas.flatten(1), images.flatten(1), eps), images)
    return (images + shrink * deltas).clamp(0, 1)


def _l2_shrink(deltas: Tensor, images: Tensor, eps: float) -> Tensor:
    """The largest t <= 1, [B], with |clip(x + t d) - x|_2 <= eps.

    With room c to the box the squared length is sum(min(t |d|, c)^2) = sum(d^2 min(t^2, (c/d)^2)).
    """
    sizes = deltas.abs()
    reach = room(deltas, images) / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    # The water level of t^2, with weights d^2 and caps (c / d)^2
    return water_level(sizes.square(), reach.square(), eps**2).sqrt().clamp_max(1)


def _l1_soften(deltas: Tensor, images: Tensor, eps: float) -> Tensor:
    """The moves sign(d) min(max(|d| - t, 0), c), c the room to the box, of l1 norm eps at most.

    The norm falls in t, each entry's part from t = |d| - c on and until t = |d|: sorted, these ends
    say between which two of them the t lies that gives eps.
    """
    sizes = deltas.flatten(1).abs().double()
    caps = torch.minimum(room(deltas, images).flatten(1).double(), sizes)

    ends, order = torch.cat([sizes - caps, sizes], 1).sort(1)
    # How many parts fall behind each end: one more where one begins, one less where it is gone.
    falling = torch.where(order < sizes.shape[1], 1, -1).cumsum(1)[:, :-1]
    fallen = (falling * ends.diff(dim=1)).cumsum(1)
    norms = caps.sum(1, keepdim=True) - pad(fallen, (1, 0))

    # The last end at which the norm is still too large; t lies behind it, or at 0.
    last = (norms > eps).sum(1, keepdim=True) - 1
    at = last.clamp(0, falling.shape[1] - 1)
    level = ends.gather(1, at) + (norms.gather(1, at) - eps) / falling.gather(1, at).clamp_min(1)
    level = torch.where(last < 0, 0, level)

    found = torch.minimum((sizes - level).clamp_min(0), caps).to(deltas.dtype)
    # Rounding: shrinking towards the image leaves neither ball nor box.
    length = found.sum(1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    return deltas.sign() * (found * (eps / length).clamp_max(1)).view_as(deltas)


def room(directions: Tensor, images: Tensor) -> Tensor:
    """How far every pixel can move in its direction before it meets the box."""
    return torch.where(directions > 0, 1 - images, images)


def water_level(weights: Tensor, caps: Tensor, totals: Tensor | float) -> Tensor:
    """The level l with sum(weights * min(l, caps)) = total, per row of [B, d]; inf if none has it.

    Solve for l over the free entries, see which of them meet their cap, repeat: l grows from
    below and is exact after finitely many rounds, here one more than it needs.
    """
    level = torch.zeros_like(weights[:, 0])
    full, none = weights * caps, torch.zeros_like(weights)

    for _ in range(WATER_ROUNDS):
        free = caps > level[:, None]
        left = totals - torch.where(free, none, full).sum(1)
        slope = torch.where(free, weights, none).sum(1)
        # With no free entry left, no level reaches the total.
        raised = torch.where(slope > 0, left / slope, torch.inf)
        if torch.equal(raised, level):
            break

        level = torch.maximum(level, raised)
    return level
