"""MobileNetV2 (Sandler et al. 2018) in the CIFAR form of ARD's and RSLAD's code.

That form differs from the paper: strides 1 in the stem and the second group, ReLU for ReLU6, an
expansion convolution even at factor 1, and a 1x1 projection where stride is 1 but widths differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from pipeline.core.layers import Net, Normalise, Residual, Step, conv_bn, global_pool, projection

_GROUPS = (  # expansion, outputs, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV2:
    """17 inverted residual blocks; for any image size.

    Taps: 1 stem conv and BN; 2, 4, ..., 34 first BN of each block; 3, 5, ..., 35 block output;
    36 the last convolution's BN; 37 logits.
    """

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, drawn by PyTorch's defaults."""
        act = nn.ReLU()
        return Net(
            Normalise(channels, mean, std),
            conv_bn(channels, 32),
            [Step(act, tapped=False), *_blocks(act), Step(*conv_bn(320, 1280, kernel=1))],
            nn.Sequential(act, *global_pool()),
            nn.Linear(1280, classes),
        )


def _blocks(act: nn.Module) -> Iterator[Step | Residual]:
    inputs = 32
    for expansion, outputs, blocks, first_stride in _GROUPS:
        for index in range(blocks):
            stride = 1 if index else first_stride
            yield from _block(inputs, outputs, expansion * inputs, stride, act)
            inputs = outputs


def _block(
    inputs: int, outputs: int, hidden: int, stride: int, act: nn.Module
) -> Iterator[Step | Residual]:
    """Expand, filter each channel, reduce; a sum only where the stride is 1."""
    first = conv_bn(inputs, hidden, kernel=1)
    depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
    reduce = conv_bn(hidden, outputs, kernel=1)

    rest = nn.Sequential(act, depthwise, nn.BatchNorm2d(hidden), act, reduce)
    if stride == 1:
        yield Residual(nn.Identity(), first, rest, projection(inputs, outputs, stride))
    else:
        yield Step(*first)
        yield Step(*rest)
