"""CCG, consistency regularisation (Tack et al., AAAI 2022): attacked views should agree.

    CE over the adversarial examples of two augmentations + lambda JSD_T of their predictions

The examples of both views are attacked by CE and pass the network as one batch of twice the size.
JSD_T is the Jensen-Shannon divergence of predictions sharpened by the temperature T; nothing is
detached. The augmentation is the recipe's (`augment`), here AutoAugment and Cutout in the second
half of training.

Departures: the authors bound the logarithm of the mean prediction at 1e-8, ours is exact.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy, js_divergence


@dataclass(frozen=True, kw_only=True)
class Ccg(Method):
    """PGD-AT on two views of every image whose answers are drawn together."""

    weight_consistency: float
    temperature: float

    def step(self, training: Training, batch: Batch) -> Tensor:
        """Craft on both views, then one update of every member."""
        # A fork: the two views of an image must not start from the same noise.
        other = replace(batch, images=batch.view(1), draws=batch.draws.fork("view"))
        first, second = training.craft(batch), training.craft(other)
        losses = [
            training.update(i, self.consistent(training, i, batch.labels, first, second))
            for i in range(len(training.members))
        ]
        return torch.stack(losses).mean()

    def consistent(
        self, training: Training, index: int, labels: Tensor, first: Tensor, second: Tensor
    ) -> Tensor:
        """Mean CE of the two attacked views plus lambda JSD, [B]."""
        # One batch of twice the size: both views meet the same batch statistics.
        one, two = training.members[index](torch.cat([first, second])).chunk(2)
        losses = (cross_entropy(one, labels) + cross_entropy(two, labels)) / 2
        return losses + self.weight_consistency * js_divergence(one, two, self.temperature)
