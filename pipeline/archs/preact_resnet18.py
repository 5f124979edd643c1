"""Pre-activation ResNet-18 (He et al. 2016b) as in Rice et al.'s code, and CCG's variant of it.

Departure: where a block projects its shortcut, AUTE's class projects the block's input as it comes,
Rice et al.'s and this one the activated input.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.core.layers import Net, Normalise, Step, block_shapes, conv, global_pool, preact_block


@dataclass(frozen=True, kw_only=True)
class PreActResNet18:
    """Four stages of two pre-activation blocks, 64 to 512 channels; for any image size.

    Taps: 1 stem; 2, 4, ..., 16 second BN of each block; 3, 5, ..., 17 block sum; 18 logits.
    """

    stem: Literal["cifar", "stride2"]  # stride 2 is CCG's for 64x64 images
    stem_bn: bool  # BN and ReLU behind the stem: CCG only
    final_bn: bool  # BN and ReLU before pooling: all codes but CCG's

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, drawn by PyTorch's defaults."""
        act = nn.ReLU()
        stem = [conv(channels, 64, stride=2 if self.stem == "stride2" else 1)]
        norm = [nn.BatchNorm2d(64)] if self.stem_bn else []
        enter = [Step(act, tapped=False)] if self.stem_bn else []

        shapes = block_shapes(64, [64, 128, 256, 512], 2)
        final = [nn.BatchNorm2d(512), act] if self.final_bn else []

        return Net(
            Normalise(channels, mean, std),
            nn.Sequential(*stem, *norm),
            [*enter, *(preact_block(*shape, act) for shape in shapes)],
            nn.Sequential(*final, *global_pool()),
            nn.Linear(512, classes),
        )
