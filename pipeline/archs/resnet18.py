"""ResNet-18 of He et al. 2016 for small images, and the variants of the papers' codes."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.core.layers import (
    Net,
    Normalise,
    Step,
    basic_block,
    block_shapes,
    conv,
    global_pool,
    init_fan_in,
    projection,
)

_STEMS = {"cifar": (3, 1), "stride2": (3, 2), "imagenet": (7, 2)}  # kernel, stride


@dataclass(frozen=True, kw_only=True)
class ResNet18:
    """Four stages of two basic blocks, 64 to 512 channels; for any image size.

    Taps: 1 stem conv and BN; 2, 4, ..., 16 first BN of each block; 3, 5, ..., 17 block sum;
    18 logits.
    """

    stem: Literal["cifar", "stride2", "imagenet"]  # 3x3; 3x3 stride 2; 7x7 stride 2 and max-pool
    stem_bias: bool  # RED replaces the CIFAR stem by a convolution that has a bias
    init: Literal["default", "fan_in"]  # PyTorch's, or He et al.'s behind the stem (RED)

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net."""
        act = nn.ReLU()
        stem = conv(channels, 64, *_STEMS[self.stem], bias=self.stem_bias)
        pool = [Step(nn.MaxPool2d(3, 2, 1), tapped=False)] if self.stem == "imagenet" else []
        shapes = block_shapes(64, [64, 128, 256, 512], 2)

        net = Net(
            Normalise(channels, mean, std),
            nn.Sequential(stem, nn.BatchNorm2d(64)),
            [*pool, *(basic_block(*shape, act, projection(*shape)) for shape in shapes)],
            nn.Sequential(act, *global_pool()),
            nn.Linear(512, classes),
        )

        # The body alone: RED's code for CIFAR-10 leaves the stem as PyTorch draws it (for images of
        # 64x64 it draws the 7x7 one by fan-in too, which this does not).
        if self.init == "fan_in":
            init_fan_in(net.body)
        return net
