"""Adversarial loss over the weights (MEAT, Fig. 2), along filter-normalised random directions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from pipeline.contracts.fields import Attack
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination
from pipeline.figures._exhibit import Loaded
from pipeline.figures._surface import Line, draw_surfaces, frame_of, losses, surface
from pipeline.tables.canvas import Pictures

Direction = dict[str, Tensor]  # by parameter of the victim
TINY = 1e-10  # the source's, beside the norm of a filter of the direction


@dataclass(frozen=True, kw_only=True)
class WeightLandscape:
    """Mean cross-entropy at theta + a d + b e on images crafted at those weights.

    d and e are Gaussian, normalised filter by filter (Li et al., NeurIPS 2018), a and b up to
    `span` on both sides. Images are attacked anew at every point, as Wu et al. (2020) draw what
    MEAT refers to; attack `none` gives the clean loss. Members move along directions of their own.
    """

    attack: Attack
    span: float
    half: int
    images: int
    members: int
    seed: int

    reads_weights: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """Losses by row, member and point."""
        return frame_of(self._surface(item) for item in shown)

    def _surface(self, item: Loaded) -> list[Line]:
        first, second = (directions(item.victim, self.seed, axis) for axis in (0, 1))

        def at(along: float, across: float) -> tuple[Tensor, Tensor]:
            with moved(item.victim, (along, first), (across, second)):
                images = self._images(item)
                with torch.no_grad():
                    return losses(item.victim, images, item.labels)

        return surface(item.label, self.half, self.span, at, self.members)

    def _images(self, item: Loaded) -> Tensor:
        """The images that the weights of the moment meet; the draws are an evaluation's."""
        if self.attack == "none":
            return item.images

        attack, model = item.attack(self.attack)
        item.victim.reseed(derive(0, self.attack))
        draws = Draws(derive(0, self.attack, 0), item.ids)
        found: Tensor = attack(model, item.images, item.labels, draws)
        return found

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures of the surfaces."""
        return draw_surfaces(frame, title, ("direction 1", "direction 2"))


def directions(victim: Combination, seed: int, axis: int) -> Direction:
    """A Gaussian direction whose every filter is as long as the victim's own.

    A filter is what a weight's first axis counts: an output channel of a convolution, a row of a
    linear layer. Biases and batch-norm's parameters have one axis and stay where they are, and so
    do its statistics (the source's `biasbn`). So a convolution's scale, which the batch-norm
    behind it undoes, does not change the picture.
    """
    return {
        name: _direction(weight, derive(seed, "direction", axis, name))
        for name, weight in victim.named_parameters()
    }


def _direction(weight: Tensor, key: int) -> Tensor:
    if weight.ndim <= 1:
        return torch.zeros_like(weight)
    rows = torch.arange(len(weight), device=weight.device)
    drawn = Draws(key, rows).normal(*weight.shape[1:]).to(weight.dtype)
    normalised: Tensor = drawn * (_lengths(weight) / (_lengths(drawn) + TINY))
    return normalised


def _lengths(weight: Tensor) -> Tensor:
    """Norm of each filter, [filters, 1, ...]."""
    lengths: Tensor = weight.detach().flatten(1).norm(dim=1)
    return lengths.view(-1, *[1] * (weight.ndim - 1))


@contextmanager
def moved(victim: Combination, *steps: tuple[float, Direction]) -> Iterator[None]:
    """The victim at its weights plus these multiples of directions; back at its own afterwards."""
    # Copies, not subtraction afterwards: rounding would leave other weights behind.
    own = {name: weight.detach().clone() for name, weight in victim.named_parameters()}
    there = {k: w + sum(size * way[k] for size, way in steps) for k, w in own.items()}
    # Loaded, not copied: a net that generates weights from these learns that they moved.
    victim.load_state_dict(there, strict=False)
    try:
        yield
    finally:
        victim.load_state_dict(own, strict=False)
