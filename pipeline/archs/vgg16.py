"""VGG-16 and VGG-19 with batch normalisation (Simonyan & Zisserman 2015), one linear layer.

AUTE's class named VggNet-16 builds VGG-19 whatever its depth argument says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.core.layers import Net, Normalise, Step, conv, global_pool, init_fan_out
from pipeline.errors import UserError

_WIDTHS = (64, 128, 256, 512, 512)
_REPEATS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions per width


@dataclass(frozen=True, kw_only=True)
class Vgg:
    """Five groups of convolutions, each closed by a 2x2 max-pool; images of 32x32 or larger.

    Taps: 1 to depth - 3 the BN behind each convolution; the last is the logits.
    """

    depth: Literal[16, 19]
    conv_bias: bool

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, convolutions drawn by He et al.'s fan-out rule."""
        if size < 2 ** len(_WIDTHS):
            raise UserError(
                f"archs.vgg{self.depth}: {size}x{size} images vanish in its five max-pools; "
                "it needs 32x32 or more: choose another arch or data set"
            )

        act, pool = nn.ReLU(), nn.MaxPool2d(2)
        net = Net(
            Normalise(channels, mean, std),
            self._conv_bn(channels, _WIDTHS[0]),
            self._body(act, pool),
            nn.Sequential(act, pool, *global_pool()),
            nn.Linear(_WIDTHS[-1], classes),
        )

        init_fan_out(net)
        return net

    def _conv_bn(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs, bias=self.conv_bias), nn.BatchNorm2d(outputs))

    def _body(self, act: nn.Module, pool: nn.Module) -> Iterator[Step]:
        """One step per convolution behind the stem; it activates its input, then pools it."""
        inputs = _WIDTHS[0]
        for group, outputs in enumerate(_WIDTHS):
            for index in range(_REPEATS[self.depth][group]):
                if group or index:
                    # The first convolution of a group reads the pooled maps of the group before it.
                    pooled = [] if index else [pool]
                    yield Step(act, *pooled, *self._conv_bn(inputs, outputs))
                inputs = outputs
