"""Adversarial loss over the weights (MEAT, Fig. 2), along filter-normalised random directions."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from pipeline.contracts.fields import Attack
from pipeline.core.draws import Draws, derive
from pipeline.figures import _surface as surface
from pipeline.figures._exhibit import Loaded
from pipeline.figures._perturb import directions, moved
from pipeline.figures._plane import losses


@dataclass(frozen=True, kw_only=True)
class WeightLandscape:
    """Mean cross-entropy at theta + a d + b e on images crafted at those weights.

    d and e are Gaussian, normalised filter by filter (_perturb.py), a and b up to `span`
    on both sides. Images are attacked anew at every point, as Wu et al. (2020) draw what MEAT
    refers to; attack `none` gives the clean loss. Members move along directions of their own.
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
        return surface.frame(self._surface(item) for item in shown)

    def _surface(self, item: Loaded) -> list[surface.Line]:
        first, second = (directions(item.victim, self.seed, axis) for axis in (0, 1))

        def at(along: float, across: float) -> tuple[Tensor, Tensor]:
            with moved(item.victim, (along, first), (across, second)):
                images = self._images(item)
                with torch.no_grad():
                    return losses(item.victim, images, item.labels)

        return surface.surface(item.label, self.half, self.span, at, self.members)

    def _images(self, item: Loaded) -> Tensor:
        """The images that the weights of the moment meet; the draws are an evaluation's."""
        if self.attack == "none":
            return item.images
        attack, model = item.attack(self.attack)
        item.victim.reseed(derive(0, self.attack))
        draws = Draws(derive(0, self.attack, 0), item.ids)
        found: Tensor = attack(model, item.images, item.labels, draws)
        return found

    def draw(self, frame: pd.DataFrame, title: str) -> bytes:
        """PNG of the surfaces."""
        return surface.draw(frame, title, ("direction 1", "direction 2"))
