"""Loss over the images (RED, Figs. 1 and 2): each member's surface, and all members'."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from pipeline.contracts.fields import Radius
from pipeline.figures._exhibit import Loaded
from pipeline.figures._surface import (
    Line,
    directions,
    draw_surfaces,
    frame_of,
    losses,
    surface,
)
from pipeline.tables.canvas import Pictures


@dataclass(frozen=True, kw_only=True)
class ImageLandscape:
    """Mean cross-entropy of the first `images` test images at x + a s + b r.

    s is the sign of the gradient of the victim's loss in x, r a random sign vector, a and b up to
    `radius` on both sides, beyond the box of pixels too. RED does not print its directions; these
    are SoE's. members: how many of the members get a surface beside that of all.
    """

    radius: Radius
    half: int
    images: int
    members: int
    seed: int

    reads_weights: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """Losses by row, member and point."""
        return frame_of(self._surface(item) for item in shown)

    def _surface(self, item: Loaded) -> list[Line]:
        steepest, random = directions(item.victim, item.images, item.labels, item.ids, self.seed)

        @torch.no_grad()
        def at(along: float, across: float) -> tuple[Tensor, Tensor]:
            moved = item.images + along * steepest + across * random
            return losses(item.victim, moved, item.labels)

        return surface(item.label, self.half, self.radius, at, self.members)

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures of the surfaces."""
        return draw_surfaces(frame, title, ("along the gradient's sign", "along random signs"))
