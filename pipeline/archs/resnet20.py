"""ResNet-20 of He et al. 2016 for small images, with the projection shortcuts of DVERGE's code."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.core.layers import (
    Net,
    Normalise,
    basic_block,
    block_shapes,
    conv_bn,
    global_pool,
    init_fan_out,
    projection,
)
from pipeline.errors import UserError


class _PadShortcut(nn.Module):
    """Shortcut option A: every second pixel, new channels are 0; no parameters."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C + channels, H / stride, W / stride]."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))


@dataclass(frozen=True, kw_only=True)
class ResNet20:
    """Three stages of basic blocks, `width` to 4 `width` channels; for any image size.

    Taps: 1 stem conv and BN; 2, 4, ... first BN of each block; 3, 5, ... block sum; last logits.
    With 3 blocks these are DVERGE's 20 layers.
    """

    blocks: int  # per stage: 3 is ResNet-20, 1 is ResNet-8
    width: int
    shortcut: Literal["conv", "pad"]  # options B and A of He et al.
    leaky: float  # negative slope of the activation; 0 is ReLU, GAL takes 0.1

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, convolutions drawn by He et al.'s fan-out rule."""
        if min(self.blocks, self.width) < 1:
            raise UserError("params.yaml: archs: a resnet20 needs blocks and width of at least 1")

        act = nn.LeakyReLU(self.leaky) if self.leaky else nn.ReLU()
        widths = [self.width, 2 * self.width, 4 * self.width]
        shapes = block_shapes(self.width, widths, self.blocks)
        net = Net(
            Normalise(channels, mean, std),
            conv_bn(channels, self.width),
            [basic_block(*shape, act, self._shortcut(*shape)) for shape in shapes],
            nn.Sequential(act, *global_pool()),
            nn.Linear(widths[-1], classes),
        )

        init_fan_out(net)
        return net

    def _shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        if self.shortcut == "conv" or inputs == outputs:
            return projection(inputs, outputs, stride)
        return _PadShortcut(outputs - inputs, stride)
