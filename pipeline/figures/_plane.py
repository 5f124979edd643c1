"""Planes through images: the steepest direction, a random one, and losses along them."""

import torch
from torch import Tensor

from pipeline.core.ascent import gradient_in
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError


def offsets(half: int) -> list[float]:
    """2 half + 1 even steps from -1 to 1; the middle one is exactly 0."""
    if half < 1:
        raise UserError(f"params.yaml: figures: half: {half} is no grid; at least 1")
    return [step / half for step in range(-half, half + 1)]


def losses(victim: Combination, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each member, [members, B], and of the victim, [B].

    A random victim's is the expectation: the mean over the members it draws from.
    """
    members_KB = torch.stack([cross_entropy(z, labels) for z in victim.logits(images)])
    if victim.random:
        return members_KB, members_KB.mean(0)
    return members_KB, cross_entropy(victim(images), labels)


def directions(
    victim: Combination, images: Tensor, labels: Tensor, ids: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Per image, both of unit linf length [B, C, H, W]: the sign of the loss's gradient (the
    adversarial direction) and random signs (a Rademacher vector), the same for every victim."""
    with torch.enable_grad():
        leaves = images.clone().requires_grad_()
        _, whole_B = losses(victim, leaves, labels)
        steepest = gradient_in(leaves, whole_B).sign()
    draws = Draws(derive(seed, "plane"), ids)
    return steepest, draws.signs(*images.shape[1:]).to(images)
