"""Losses whose gradient in the images is itself part of a loss (double backward)."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.core.losses import cross_entropy


def loss_and_gradient(member: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """CE [B] and its gradient in each image [B, pixels], both differentiable in the weights.

    Always in float32 or wider: products of half-precision gradients vanish.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().requires_grad_()
        losses = cross_entropy(member(images), labels)
        # The graph is kept, since this gradient is differentiated again in the weights.
        (gradient,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
    return losses, gradient.flatten(1)


def losses_and_gradients(
    members: Sequence[nn.Module],
    images: Sequence[Tensor],
    labels: Tensor,
    gradient: Literal["image", "batch_mean"],
) -> tuple[Tensor, Tensor]:
    """Losses [members, B] and gradients [members, B, pixels], each member on its own images.

    gradient: of each image's loss, or of the batch's mean, which is smaller by the batch size.
    """
    found = [
        loss_and_gradient(member, own, labels) for member, own in zip(members, images, strict=True)
    ]
    losses, gradients = zip(*found, strict=True)
    size = len(labels) if gradient == "batch_mean" else 1
    return torch.stack(losses), torch.stack(gradients) / size


def similarity(gradients_KBD: Tensor, least: float) -> Tensor:
    """Mean over unordered pairs of members of |cos| between their gradients, [B].

    `least` bounds the product of norms from below, where gradients vanish.
    """
    pairs = [
        (a * b).sum(-1).abs() / (_norm(a) * _norm(b)).clamp_min(least)
        for a, b in combinations(gradients_KBD, 2)
    ]
    return torch.stack(pairs).mean(0) if pairs else gradients_KBD.new_zeros(gradients_KBD.shape[1])


def _norm(gradients: Tensor) -> Tensor:
    lengths: Tensor = gradients.norm(dim=-1)
    return lengths


def steepness(gradients_KBD: Tensor, squared: bool) -> Tensor:
    """Mean over members of the gradient's length, or of its square, [B]."""
    if squared:
        return gradients_KBD.square().sum(-1).mean(0)
    return _norm(gradients_KBD).mean(0)
