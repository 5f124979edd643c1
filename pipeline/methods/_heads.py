"""A second head that says how far a member is to be trusted (SoE)."""

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.core.layers import Net

LEAST = 1e-6  # keeps the logarithms of a saturated confidence finite


class DualHead(nn.Module):
    """A net and a linear evaluator of its confidence on the same pooled features.

    `rectified` multiplies the evaluator's output by the largest softmax (released SoE).
    """

    def __init__(self, net: Net, *, rectified: bool) -> None:
        super().__init__()
        self.net, self.rectified = net, rectified
        self.evaluator = nn.Linear(net.width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]; the evaluator is not asked."""
        return cast(Tensor, self.net(images))

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and confidence [B] in (0, 1), differentiable in the images."""
        logits, trust = self.heads(images, through=True)
        if self.rectified:
            return logits, trust * logits.softmax(-1).amax(-1)
        return logits, trust

    def heads(self, images: Tensor, *, through: bool) -> tuple[Tensor, Tensor]:
        """Logits and the evaluator's output; its gradient ends at the features unless `through`."""
        pooled = self.net.pooled(images)
        logits: Tensor = self.net.head(pooled)
        trust: Tensor = self.evaluator(pooled if through else pooled.detach())
        return logits, torch.sigmoid(
            trust[:, 0].to(torch.promote_types(trust.dtype, torch.float32))
        )


def confidence_cross_entropy(confidence: Tensor, target: Tensor) -> Tensor:
    """-t log c - (1 - t) log(1 - c), [B], for a soft target; finite at saturated confidence."""
    confidence = confidence.clamp(LEAST, 1 - LEAST)
    return -(target * confidence.log() + (1 - target) * (-confidence).log1p())
