"""SmallCNN, the MNIST net of TRADES' code (Zhang et al. 2019).

Departure: PyTorch's initialisation for the last layer, not zeros. A zero head gives every first
attack a zero gradient, and gradient-alignment losses a 0/0.
"""

from dataclasses import dataclass

from torch import nn

from pipeline.core.layers import Net, Normalise, Step
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SmallCnn:
    """Four convolutions with biases, two 2x2 max-pools, three linear layers; no BN.

    Convolutions are unpadded, as published for 28x28, where the map allows it (16x16 or larger);
    smaller images get a padding of 1, down to 4x4.
    Taps: 1 to 4 each convolution, 5 and 6 the hidden linear layers, 7 logits.
    """

    dropout: float  # probability, between the hidden linear layers

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, drawn by PyTorch's defaults; the first linear layer fits the map."""
        if size < 4:
            raise UserError(
                f"archs.small_cnn: {size}x{size} images vanish in its two max-pools; "
                "it needs 4x4 or more: choose another arch or data set"
            )
        if not 0 <= self.dropout <= 1:
            raise UserError(f"params.yaml: archs: dropout {self.dropout} is not between 0 and 1")

        padding = 0 if size >= 16 else 1
        side = _halved(_halved(size, padding), padding)
        act, pool = nn.ReLU(), nn.MaxPool2d(2)

        return Net(
            Normalise(channels, mean, std),
            nn.Conv2d(channels, 32, 3, padding=padding),
            [
                Step(act, nn.Conv2d(32, 32, 3, padding=padding)),
                Step(act, pool, nn.Conv2d(32, 64, 3, padding=padding)),
                Step(act, nn.Conv2d(64, 64, 3, padding=padding)),
                Step(act, pool, nn.Flatten(), nn.Linear(64 * side * side, 200)),
                Step(act, nn.Dropout(self.dropout), nn.Linear(200, 200)),
            ],
            act,
            nn.Linear(200, classes),
        )


def _halved(size: int, padding: int) -> int:
    """Side of the map after two 3x3 convolutions and a 2x2 max-pool."""
    return (size - 4 + 4 * padding) // 2
