"""WideResNet-34-10 (Zagoruyko & Komodakis 2016) in the form of TRADES' and Rice et al.'s code.

Departures. TRADES' class carries an unused first group (48 262 586 parameters): left out, it is
never executed. The class of ARoW and AUTE feeds un-normalised inputs to the first block of each
group: not followed. DeepMind's WRN-70-16 (Gowal et al. 2020) has SiLU, as here, but also one-sided
padding and BN momentum 0.01: left out, since its weights are trained here and never loaded.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.core.layers import (
    Net,
    Normalise,
    block_shapes,
    conv,
    global_pool,
    init_fan_out,
    preact_block,
)
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """Three groups of n = (depth - 4) / 6 pre-activation blocks; for any image size.

    Taps: 1 stem; 2, 4, ..., 6n second BN of each block; 3, 5, ..., 6n + 1 block sum; last logits.
    """

    depth: int  # 6n + 4
    widen: int
    activation: Literal["relu", "silu"]

    def build(
        self, *, classes: int, channels: int, size: int, mean: list[float], std: list[float]
    ) -> Net:
        """A fresh net, convolutions drawn by He et al.'s fan-out rule, biases 0."""
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or min(blocks, self.widen) < 1:
            raise UserError(
                "params.yaml: archs: a wide ResNet needs a depth of 6n + 4 from 10 on and widen of "
                f"at least 1, not {self.depth} and {self.widen}"
            )

        act = nn.ReLU() if self.activation == "relu" else nn.SiLU()
        widths = [16 * self.widen, 32 * self.widen, 64 * self.widen]
        net = Net(
            Normalise(channels, mean, std),
            conv(channels, 16),
            [preact_block(*shape, act) for shape in block_shapes(16, widths, blocks)],
            nn.Sequential(nn.BatchNorm2d(widths[-1]), act, *global_pool()),
            nn.Linear(widths[-1], classes),
        )

        init_fan_out(net)
        nn.init.zeros_(net.head.bias)
        return net
