"""GAL (Kariyappa and Qureshi 2019): members whose loss gradients point apart.

L = mean_i CE(z_i, y) + weight log sum_{i<j} exp cos(g_i, g_j), where g_i is the gradient of member
i's cross-entropy in the image and the cosine keeps its sign (Eqs. 5 and 6), so that three members
are at best 120 degrees apart. The gradient is differentiated again.

The authors published no code. The ports differ, each a field or key: DVERGE's takes the mean of the
cross-entropies, Adam, Gaussian noise on half of the images, not clipped, and leaky networks (arch
resnet20_leaky); TRS's and RED's take the sum, without noise, RED's by SGD. Departure: one forward
gives cross-entropy and gradient, where DVERGE's port runs two, which moves the running statistics
twice. Where examples are crafted (`gal_at`) its port does so in training mode, with running
statistics moving; here it is the recipe's mode.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.contracts.training import Batch, Training
from pipeline.methods._diverse import Diverse
from pipeline.methods._gradients import loss_and_gradient


@dataclass(frozen=True, kw_only=True)
class Gal(Diverse):
    """weight: of the coherence. noise: its standard deviation, on a share of the images."""

    weight: float
    noise: float
    noisy_share: float

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of all members on images with noise."""
        if not self.noise:
            return super().step(training, batch)

        draws = batch.draws.fork("noise")
        # One draw an image decides for all of its pixels.
        chosen = draws.uniform(1, 1, 1) < self.noisy_share
        noise = self.noise * draws.normal(*batch.images.shape[1:]) * chosen
        return super().step(training, replace(batch, images=batch.images + noise))

    def terms(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """CE [members, B] and the weighted coherence [B]."""
        pairs = [loss_and_gradient(m, batch.images, batch.labels) for m in training.members]
        losses, gradients = zip(*pairs, strict=True)
        return torch.stack(losses), self.weight * coherence(torch.stack(gradients))


def coherence(gradients_KBD: Tensor) -> Tensor:
    """log of the sum over unordered pairs of members of exp cos, [B]; one member has none: 0."""
    cosines = [cosine_similarity(a, b, dim=-1) for a, b in combinations(gradients_KBD, 2)]
    if not cosines:
        return gradients_KBD.new_zeros(gradients_KBD.shape[1])
    return torch.stack(cosines).logsumexp(0)
