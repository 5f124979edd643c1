"""Input diversity: images resized and padded at random, differentiably (Xie et al. 2019)."""

import torch
from torch import Tensor

from pipeline.core.draws import Draws
from pipeline.errors import UserError


def diversify(images: Tensor, rate: float, probability: float, draws: Draws) -> Tensor:
    """With `probability` per image: bilinear to a side in [rate H, H), zeros around, at random.

    Every image draws for itself, so that nothing depends on its batch.
    """
    side = images.shape[-1]
    if images.shape[-2] != side:
        raise UserError(f"params.yaml: attacks: di2 needs square images, not {images.shape[-2:]}")
    least = min(int(rate * side), side - 1)
    sizes = least + draws.integers(side - least)
    down, across = (draws.uniform(2) * (side - sizes + 1)[:, None]).long().unbind(1)
    rows, columns = (resize_matrix(sizes, first, side)[:, None] for first in (down, across))
    changed = rows @ images @ columns.transpose(2, 3)
    chosen = draws.uniform() < probability
    return torch.where(chosen[:, None, None, None], changed, images)


def resize_matrix(sizes: Tensor, firsts: Tensor, side: int) -> Tensor:
    """[B, side, side]: row first + i takes line i of a bilinear resize to `size`; others are 0."""
    lines = torch.arange(side, device=sizes.device)
    inner = lines - firsts[:, None]
    inside = (inner >= 0) & (inner < sizes[:, None])
    place = ((inner + 0.5) * side / sizes[:, None] - 0.5).clamp(0, side - 1)
    weights = (1 - (place[:, :, None] - lines).abs()).clamp_min(0)
    return weights * inside[:, :, None]
