"""What attacks on all members keep: the iterate that the fewest of their answers survive."""

from typing import Literal

import torch
from torch import Tensor


def share_right(answers: Tensor, labels: Tensor, heard: Literal["all", "confident"]) -> Tensor:
    """Share of the answers heard that are right, [B], of [B, members, classes + 1]."""
    right_BK = (answers[..., :-1].argmax(-1) == labels[:, None]).float()
    if heard == "all":
        return right_BK.mean(1)
    return right_BK.gather(1, answers[..., -1].argmax(1)[:, None])[:, 0]


class Best:
    """The best iterate of every image so far; any perturbed one is preferred to a clean one."""

    def __init__(self, images: Tensor, shares: Tensor) -> None:
        self.images, self.shares = images, shares
        self.values = torch.full_like(shares, -torch.inf)

    def standing(self) -> Tensor:
        """Indices of the images with a right answer left."""
        return (self.shares > 0).nonzero()[:, 0]

    def take(self, rows: Tensor, moved: Tensor, shares: Tensor, values: Tensor) -> None:
        """Keep what is right less often, or as often at a larger objective."""
        own = self.shares[rows]
        better = (shares < own) | ((shares == own) & (values > self.values[rows]))
        kept = rows[better]
        self.images[kept] = moved[better]
        self.shares[kept] = shares[better]
        self.values[kept] = values[better]
