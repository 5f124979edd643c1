"""Square: random search with squares (Andriushchenko et al. 2020, Algorithms 1 to 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from pipeline.attacks._windows import search_windows
from pipeline.contracts.fields import Radius
from pipeline.core.ascent import keep_worst, refuse_random
from pipeline.core.draws import Draws
from pipeline.core.folding import folded
from pipeline.core.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which p is halved
BLOCK = 64  # squares of an image looked through at a time for the next whose answer is not known


@dataclass(frozen=True, kw_only=True)
class Square:
    """Gives random squares a perturbation of +-eps per channel and keeps what raises the margin.

    In l2 and l1 it moves the budget of one window into another instead, shaped as two hills of
    opposite sign; every query is asked.

    The schedule of the squares' size is not rescaled to the number of queries (as in AutoAttack).
    Squares may touch the last row and column, which the authors' code leaves out by one. A query
    whose answer is known counts and is not asked: of a square that changes nothing, or that was
    refused since the image last changed.
    """

    eps: Radius
    queries: int
    restarts: int
    p_init: float
    norm: Literal["linf", "l2", "l1"] = "linf"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached; at most `queries` forwards."""
        refuse_random(model, "square")
        fast = folded(model)

        def run(number: int, rows: Tensor) -> Tensor:
            own = draws.fork(number).select(rows)
            if self.norm != "linf":
                phases = list(self._phases(*images.shape[2:]))
                own_images = images[rows]
                return search_windows(
                    fast, self.norm, self.eps, phases, own_images, labels[rows], own
                )
            return self._search(fast, images[rows], labels[rows], own)

        runs = [partial(run, number) for number in range(self.restarts)]
        return keep_worst(runs, model, images, labels, votes=1)

    @torch.no_grad()
    def _search(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """One run; a fooled sample leaves at once."""
        channels, height, width = images.shape[1:]
        front, result = _Front.begin(images, labels, self.eps), images.clone()
        # Algorithm 1 starts from vertical stripes at the edge of the ball.
        stripes = torch.where(draws.signs(channels, 1, width) > 0, front.high, front.low)
        fooled = front.ask(model, front.rows, stripes)[1]
        result[front.rows], front = front.best, front.keep(~fooled)

        for side, count in self._phases(height, width):
            squares = _Squares(side, channels, height, width)
            drawn = squares.draw(draws.fork(side).select(front.rows), count)
            front = self._phase(model, front, squares, drawn, result)
        result[front.rows] = front.best
        return result

    def _phase(
        self, model: nn.Module, front: "_Front", squares: "_Squares", drawn: Tensor, result: Tensor
    ) -> "_Front":
        """Ask about the squares drawn [B, count], every image at its own pace; what is left."""
        end = squares.kinds  # after an image's last square: a kind that there is not
        drawn, known = pad(drawn, (0, BLOCK), value=end), pad(squares.idle(front), (0, 1))
        cursor = torch.zeros_like(front.rows)
        ahead = torch.arange(BLOCK, device=cursor.device)

        while len(cursor):
            # The next square of every image whose answer is not known, BLOCK squares at a time
            fresh = ~known.gather(1, drawn.gather(1, cursor[:, None] + ahead))
            found = fresh.any(1)
            cursor = cursor + torch.where(found, fresh.byte().argmax(1), BLOCK)
            kinds = drawn.gather(1, cursor[:, None])[:, 0]
            asked = (found & (kinds < end)).nonzero()[:, 0]

            if not len(asked):
                # Every image is behind its last square: the phase is over.
                if found.all():
                    break
                continue
            kinds = kinds[asked]
            better, fooled = front.ask(model, asked, squares.paint(front, asked, kinds))
            cursor[asked] += 1
            known[asked, kinds] = True

            # A changed image knows nothing but the squares that would not change it.
            changed = asked[better]
            known[changed, :end] = squares.idle(front.keep(changed))

            if fooled.any():
                result[front.rows] = front.best
                stay = torch.ones_like(cursor, dtype=torch.bool).index_fill(0, asked[fooled], False)
                front, drawn, known, cursor = (
                    front.keep(stay),
                    *(each[stay] for each in (drawn, known, cursor)),
                )
        return front

    def _phases(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Sides and the number of queries with each, after the first query."""
        sides = (self._side(query, height, width) for query in range(1, self.queries))
        for side, queries in groupby(sides):
            yield side, sum(1 for _ in queries)

    def _side(self, query: int, height: int, width: int) -> int:
        """The square's side in pixels: p is the share of the image's pixels that it covers."""
        halved = sum(query > after for after in HALVINGS)
        side = round(math.sqrt(self.p_init / 2**halved * height * width))
        return min(max(side, 1), height, width)


@dataclass
class _Front:
    """The samples still in the batch; every field is per sample."""

    rows: Tensor
    labels: Tensor
    low: Tensor
    high: Tensor
    best: Tensor
    margins: Tensor

    @classmethod
    def begin(cls, images: Tensor, labels: Tensor, eps: float) -> Self:
        """Clean images, of which nothing is known: the first answer counts whatever it is."""
        return cls(
            rows=torch.arange(len(images), device=images.device),
            labels=labels,
            low=(images - eps).clamp_min(0),
            high=(images + eps).clamp_max(1),
            best=images,
            margins=torch.full_like(images[:, 0, 0, 0], -torch.inf),
        )

    def keep(self, which: Tensor) -> Self:
        """The same of some samples, mask or index."""
        return type(self)(
            **{field.name: getattr(self, field.name)[which] for field in fields(self)}
        )

    def ask(self, model: nn.Module, which: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what raises the margin; which proposals do, and which fool, bool [asked]."""
        logits, labels = model(proposals), self.labels[which]
        margins, fooled = margin(logits, labels), logits.argmax(1) != labels
        better = fooled | (margins > self.margins[which])
        changed = which[better]
        # Not in place: the first best images are the caller's own.
        self.best = self.best.index_copy(0, changed, proposals[better])
        self.margins = self.margins.index_copy(0, changed, margins[better])
        return better, fooled


@dataclass(frozen=True)
class _Squares:
    """Squares of one side, numbered: place in the image times 2^C, plus a bit per channel."""

    side: int
    channels: int
    height: int
    width: int

    @property
    def across(self) -> int:
        """Places in a row of the image."""
        return self.width - self.side + 1

    @property
    def kinds(self) -> int:
        """How many there are."""
        return (self.height - self.side + 1) * self.across << self.channels

    def draw(self, draws: Draws, count: int) -> Tensor:
        """Kinds drawn uniformly, int64 [B, count]."""
        return draws.integers(self.kinds, count)

    def paint(self, front: _Front, which: Tensor, kinds: Tensor) -> Tensor:
        """The best images of some samples, each with one square at the edge of the ball."""
        places, bits = kinds >> self.channels, kinds[:, None] >> self._shifts(kinds.device) & 1
        down = self._within(places // self.across, self.height)[:, None, :, None]
        across = self._within(places % self.across, self.width)[:, None, None, :]
        colours = torch.where(bits[:, :, None, None] > 0, front.high[which], front.low[which])
        return torch.where(down & across, colours, front.best[which])

    def idle(self, front: _Front) -> Tensor:
        """The kinds that would change nothing, bool [B, kinds]."""
        # Idle: in every channel the square is already at the edge that its bit asks for.
        idle = torch.ones(len(front.best), 1, 1, dtype=torch.bool, device=front.best.device)
        filled = [self._filled(front.best, edge) for edge in (front.low, front.high)]
        for low, high in zip(*(each.unbind(1) for each in filled), strict=True):
            idle = (idle[..., None] & torch.stack([low, high], -1)[:, :, None, :]).flatten(2)
        return idle.flatten(1)

    def _filled(self, best: Tensor, edge: Tensor) -> Tensor:
        """Whether a whole square is at this edge already, bool [B, C, places]."""
        apart = (best != edge).to(best.dtype)
        return (max_pool2d(apart, self.side, stride=1) == 0).flatten(2)

    def _shifts(self, device: torch.device) -> Tensor:
        return torch.arange(self.channels - 1, -1, -1, device=device)

    def _within(self, first: Tensor, length: int) -> Tensor:
        """Where the square is along one axis, bool [B, length]."""
        offsets = torch.arange(length, device=first.device) - first[:, None]
        return (offsets >= 0) & (offsets < self.side)
