"""CW-L2: the closest adversarial image by Adam in tanh space (Carlini and Wagner 2017, Eq. 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.ascent import input_gradient, refuse_random
from pipeline.core.draws import Draws
from pipeline.core.losses import margin
from pipeline.core.norms import lengths, per_image

BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8  # Adam's usual decays, as in the authors' code
# Pixels keep half this distance from 0 and 1, where tanh space ends and nothing moves: at 1e-6
# saturated pixels hardly move, and the images found on digits are a quarter farther away.
EDGE = 1e-3
LARGEST = 1e10  # a weight that was never enough is multiplied by 10, not halved


@dataclass(frozen=True, kw_only=True)
class CWL2:
    """Minimises |x' - x|_2^2 + c max(z_y - max_k z_k, -kappa), with a binary search over c.

    Unbounded: every image ends at its closest success over all `searches` (1 keeps c fixed), and
    unchanged without one. The rival is masked with -inf, so log-probabilities do not disarm it.
    Nothing stops early, so that no image's result depends on its batch.
    """

    c: float
    kappa: float
    steps: int
    lr: float
    searches: int

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in the box, detached; draws nothing."""
        refuse_random(model, "cw_l2")
        with torch.no_grad():
            wrong = model(images).argmax(1) != labels
        # An image that is wrong already is its own closest success.
        best = _Best(images.clone(), torch.where(wrong, 0.0, torch.inf))

        low, high = torch.zeros_like(best.distances), torch.full_like(best.distances, LARGEST)
        weights = torch.full_like(best.distances, self.c)
        for _ in range(self.searches):
            fooled = self._descend(model, images, labels, weights, best)
            # A success makes this weight the upper bound, a failure the lower one.
            high = torch.where(fooled, torch.minimum(high, weights), high)
            low = torch.where(fooled, low, torch.maximum(low, weights))
            weights = torch.where(high < LARGEST, (low + high) / 2, 10 * weights)
        return best.images

    def _descend(
        self, model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor, best: "_Best"
    ) -> Tensor:
        """Adam at fixed weights; which images fooled it on the way, bool [B]."""
        # x = (tanh(latent) + 1) / 2 is inside the box whatever Adam does.
        latent = torch.atanh((2 * images - 1).clamp(EDGE - 1, 1 - EDGE))
        first, second = torch.zeros_like(latent), torch.zeros_like(latent)
        fooled = torch.zeros_like(labels, dtype=torch.bool)
        rows = torch.arange(len(images), device=images.device)
        for step in range(1, self.steps + 1):
            moved = (latent.tanh() + 1) / 2
            logits, _, slope = input_gradient(
                model, lambda z, r: margin(z, labels[r]).clamp_max(self.kappa), moved, rows
            )

            now = margin(logits, labels) > self.kappa
            fooled |= now
            best.take(moved, lengths("l2", moved - images), now)

            # Our margin is the negative of Eq. 7's f, hence the minus.
            inner = 2 * (moved - images) - per_image(weights, images) * slope
            gradient = inner * 2 * moved * (1 - moved)  # d moved / d latent

            # Adam, both means corrected for their start at 0 (Kingma and Ba 2015)
            first = BETA_1 * first + (1 - BETA_1) * gradient
            second = BETA_2 * second + (1 - BETA_2) * gradient.square()
            size = (second / (1 - BETA_2**step)).sqrt() + TINY
            latent = latent - self.lr / (1 - BETA_1**step) * first / size
        return fooled


@dataclass
class _Best:
    """The closest success of every image so far; its own image at infinity without one."""

    images: Tensor
    distances: Tensor

    def take(self, moved: Tensor, distances: Tensor, fooled: Tensor) -> None:
        """Keep what fools from nearer."""
        closer = fooled & (distances < self.distances)
        self.images = torch.where(per_image(closer, moved), moved, self.images)
        self.distances = torch.where(closer, distances, self.distances)
