"""Losses whose gradient in the images is itself part of a loss (double backward)."""

from itertools import combinations

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
