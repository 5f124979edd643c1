"""Square: random search with squares, l_inf (Andriushchenko et al. 2020, Algorithms 1 and 2)."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.ascent import keep_worst, refuse_random
from pipeline.draws import Draws
from pipeline.fields import Radius
from pipeline.losses import margin
from pipeline.norms import per_image

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which p is halved


@dataclass(frozen=True, kw_only=True)
class Square:
    """Gives random squares a perturbation of +-eps per channel and keeps what raises the margin.

    The schedule of the squares' size is not rescaled to the number of queries (as in AutoAttack).
    Squares may touch the last row and column, which the authors' code leaves out by one.
    """

    eps: Radius
    queries: int
    restarts: int
    p_init: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; at most `queries` forwards."""
        refuse_random(model, "square")

        def run(number: int, rows: Tensor) -> Tensor:
            own = draws.fork(number).select(rows)
            return self._search(model, images[rows], labels[rows], own)

        runs = [partial(run, number) for number in range(self.restarts)]
        return keep_worst(runs, model, images, labels, votes=1)

    @torch.no_grad()
    def _search(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """One run; a fooled sample leaves at once."""
        rows = torch.arange(len(images), device=images.device)
        low, high = (images - self.eps).clamp_min(0), (images + self.eps).clamp_max(1)
        result, best = images.clone(), images
        best_margins = torch.full((len(images),), -torch.inf, device=images.device)
        for query in range(self.queries):
            where, signs = self._choose(query, images, draws)
            proposal = torch.where(where, torch.where(signs > 0, high, low), best)
            logits = model(proposal)
            margins, fooled = margin(logits, labels), logits.argmax(1) != labels
            better = fooled | (margins > best_margins)
            best = torch.where(per_image(better, best), proposal, best)
            best_margins = torch.where(better, margins, best_margins)
            if fooled.any():
                result[rows], keep = best, ~fooled
                kept = (each[keep] for each in (rows, low, high, best, best_margins, labels))
                rows, low, high, best, best_margins, labels = kept
                draws = draws.select(keep)
                if not len(rows):
                    break
        result[rows] = best
        return result

    def _choose(self, query: int, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which pixels to set, bool [B, 1, H, W], to which sign [B, C, 1, 1 or W]."""
        channels, height, width = images.shape[1:]
        if query == 0:
            everywhere = torch.ones(1, 1, height, width, dtype=torch.bool, device=images.device)
            return everywhere, draws.signs(channels, 1, width)
        side = self._side(query, height, width)
        numbers = draws.uniform(2 + channels)
        down = _within(numbers[:, 0], side, height)
        across = _within(numbers[:, 1], side, width)
        signs = numbers[:, 2:, None, None] - 0.5
        return down[:, None, :, None] & across[:, None, None, :], signs

    def _side(self, query: int, height: int, width: int) -> int:
        """The square's side in pixels: p is the share of the image's pixels that it covers."""
        halved = sum(query > after for after in HALVINGS)
        side = round(math.sqrt(self.p_init / 2**halved * height * width))
        return min(max(side, 1), height, width)


def _within(numbers: Tensor, side: int, length: int) -> Tensor:
    """Numbers in [0, 1) to intervals of `side` pixels among `length`, bool [B, length]."""
    first = (numbers * (length - side + 1)).long()
    offsets = torch.arange(length, device=numbers.device) - first[:, None]
    return (offsets >= 0) & (offsets < side)
