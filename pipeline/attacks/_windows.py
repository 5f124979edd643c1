"""Square in l2 and l1: random search that moves the budget of windows (Andriushchenko et al. 2020).

Algorithm 3 of the paper; in l1 as in the code of AutoAttack.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.core.draws import Draws
from pipeline.core.losses import margin
from pipeline.core.norms import lengths, per_image, project

SMALLEST = 3  # side of a window, which is odd: the two hills of a smaller one have no slope
TILES = 5  # of the first image, along its side
TINY = 1e-12  # keeps the quotient of an empty window finite
Soft = Literal["l2", "l1"]


@torch.no_grad()
def search_windows(
    model: nn.Module,
    norm: Soft,
    eps: float,
    phases: Iterable[tuple[int, int]],
    images: Tensor,
    labels: Tensor,
    draws: Draws,
) -> Tensor:
    """One run: `phases` are the sides of windows, each with its number of queries after the first.

    Images [B, C, H, W] in ball and box at the end; a fooled sample leaves at once.
    """
    channels, height, width = images.shape[1:]
    result, rows = images.clone(), torch.arange(len(images), device=images.device)
    best = _spend(norm, images, _tile(norm, images, draws), eps)
    margins, fooled = _ask(model, best, labels)

    for number, (side, count) in enumerate(phases):
        side = min(max(side + 1 - side % 2, SMALLEST), height, width)
        own = draws.fork(number).select(rows)
        for _ in range(count):
            if fooled.any():
                result[rows], stay = best, ~fooled
                rows, best, margins = rows[stay], best[stay], margins[stay]
                own = own.select(stay)
                if not len(rows):
                    return result

            clean = images[rows]
            moved = _move_window(norm, eps, side, clean, best - clean, own)
            found, fooled = _ask(model, moved, labels[rows])
            better = fooled | (found > margins)
            best = torch.where(per_image(better, best), moved, best)
            margins = torch.where(better, found, margins)

    result[rows] = best
    return result


def _ask(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(images)
    return margin(logits, labels), logits.argmax(1) != labels


def _move_window(
    norm: Soft, eps: float, side: int, clean: Tensor, deltas: Tensor, draws: Draws
) -> Tensor:
    """The budget of a second window, and what is unused, goes to two hills in a first one."""
    channels, height, width = deltas.shape[1:]
    first, second = (_Window.draw(side, height, width, draws) for _ in range(2))
    hills = first.place(_hills(norm, side, draws)) * draws.signs(channels, 1, 1)
    inside = first.mask()
    either = inside | second.mask()

    # The old shape of the window stays as a half of the new one, channel by channel.
    old = deltas * inside
    shape = hills + old / (_measure(norm, old) + TINY)
    shape = shape / (_measure(norm, shape) + TINY)
    budget = _measure(norm, deltas * either)
    if norm == "l2":
        unused = (eps**2 - lengths("l2", deltas).square()).clamp_min(0) / channels
        budget = (per_image(unused, deltas) + budget.square()).sqrt()
    else:
        unused = (eps - lengths("l1", deltas)).clamp_min(0) / channels
        budget = channels * (per_image(unused, deltas) + budget)
    return _spend(norm, clean, torch.where(inside, shape * budget, deltas * ~either), eps)


def _spend(norm: Soft, images: Tensor, deltas: Tensor, eps: float) -> Tensor:
    """Images plus the whole budget: scaled and clipped in l2, projected onto the ball in l1."""
    if norm == "l1":
        return project("l1", images + deltas, images, eps)
    scale = eps / lengths("l2", deltas).clamp_min(TINY)
    return (images + per_image(scale, deltas) * deltas).clamp(0, 1)


def _measure(norm: Soft, deltas: Tensor) -> Tensor:
    """The norm of every channel, [B, C, 1, 1]."""
    if norm == "l1":
        return deltas.abs().sum((2, 3), keepdim=True)
    return deltas.square().sum((2, 3), keepdim=True).sqrt()


def _tile(norm: Soft, images: Tensor, draws: Draws) -> Tensor:
    """Hills side by side, every tile and channel with a sign of its own, [B, C, H, W]."""
    channels, height, width = images.shape[1:]
    side = max(height // TILES, 1)
    begin = max((height - side * TILES) // 2, 0)
    deltas = torch.zeros_like(images)
    for top in range(begin, height - side + 1, side):
        for left in range(begin, width - side + 1, side):
            tile = _hills(norm, side, draws) * draws.signs(channels, 1, 1)
            deltas[:, :, top : top + side, left : left + side] = tile
    return deltas


def _hills(norm: Soft, side: int, draws: Draws) -> Tensor:
    """Two hills of opposite sign above or beside each other, of norm 1, [B, 1, side, side]."""
    upper, device = side // 2, draws.ids.device
    hills = torch.cat([_hill(norm, upper, side, device), -_hill(norm, side - upper, side, device)])
    hills = hills / _measure(norm, hills[None, None])[0, 0]
    turned = draws.signs(1, 1, 1) > 0
    return torch.where(turned, hills.T, hills)


def _hill(norm: Soft, height: int, width: int, device: torch.device) -> Tensor:
    """Rectangles around the middle, one on the other, each lower than the last; of norm 1."""
    if not height:
        return torch.zeros(0, width, device=device)
    power = 2 if norm == "l2" else 4
    down = (torch.arange(height, device=device) - height // 2).abs()
    across = (torch.arange(width, device=device) - width // 2).abs()
    rings = torch.maximum(down[:, None], across)

    steps = 1 / torch.arange(1, max(height // 2, width // 2) + 2, device=device).float() ** power
    # A point carries all rectangles that reach it: the sum of the steps from its ring on.
    heights = steps.flip(0).cumsum(0).flip(0)[rings]
    return heights / _measure(norm, heights[None, None])[0, 0]


@dataclass(frozen=True)
class _Window:
    """A square window of every image."""

    down: Tensor  # rows of the image counted from the window's first, int64 [B, H]
    across: Tensor  # and columns, [B, W]
    side: int

    @classmethod
    def draw(cls, side: int, height: int, width: int, draws: Draws) -> "_Window":
        """Places drawn uniformly."""
        down, across = (
            torch.arange(length, device=draws.ids.device) - draws.integers(length - side + 1, 1)
            for length in (height, width)
        )
        return cls(down, across, side)

    def mask(self) -> Tensor:
        """The pixels inside, bool [B, 1, H, W]."""
        down, across = ((each >= 0) & (each < self.side) for each in (self.down, self.across))
        return (down[:, :, None] & across[:, None, :])[:, None]

    def place(self, shapes: Tensor) -> Tensor:
        """Shapes [B, 1, side, side] where the windows are, 0 outside, [B, 1, H, W]."""
        down, across = (each.clamp(0, self.side - 1) for each in (self.down, self.across))
        batch = torch.arange(len(shapes), device=shapes.device)[:, None, None]
        return shapes[batch, 0, down[:, :, None], across[:, None, :]][:, None] * self.mask()
