"""SoE, Synergy-of-Experts (Cui et al., NeurIPS 2022): members specialise, the surest one answers.

The members' common loss is the soft minimum of their cross-entropies (Eq. 6), and a linear
evaluator on each member's features learns the probability it gives the true class (BCE with a
soft target). Phase I (Alg. 1) crafts one batch against each member, phase II (Alg. 2) crafts
against the collaboration, whose most confident member is chosen anew at every step.

The paper gives neither the length of the phases nor sigma: two thirds and one third, and 1, at
which its older code has exactly Eq. 6's gradient. A clean term as in that code is a switch, on.
As printed the evaluator alone learns from the BCE and its output is the confidence.

The released code (`soe_released`) departs: confidence is the evaluator's output times the largest
softmax (`rectified`), the BCE reaches the backbone, members are weighted by their predicted
confidence, and there is no phase I; the file its main imports is missing from the repository. It
crafts in training mode, 10 steps of 0.01 at every radius without a random start: the recipe `soe`
and `soe_own` have the mode, `soe_100_released` has both, and the other entries depart. It meets the
training images in one order in all epochs, for its loader never shuffles (a flag for it is not
read); here they are always shuffled. Algorithm 1 updates after each member's batch in phase I; here
as in the released one the batches are joined.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Epoch
from pipeline.contracts.maker import Maker
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ensemble import combine
from pipeline.core.layers import Net
from pipeline.core.losses import cross_entropy, soft_minimum

LEAST = 1e-6  # keeps the logarithms of a saturated confidence finite


@dataclass(frozen=True, kw_only=True)
class SoE(Method):
    """Members with two heads under one common loss.

    phase_two: first epoch of phase II; 0 is never. through: whether the BCE reaches the backbone.
    """

    sigma: float
    phase_two: Epoch
    weighting: Literal["soft_minimum", "predicted"]
    weight_confidence: float
    rectified: bool
    through: bool
    add_clean: bool

    def build(self, make: Maker, members: int) -> list[nn.Module]:
        """Each member's network with an evaluator."""
        return [
            make.adapted(i, lambda net: _DualHead(net, rectified=self.rectified))
            for i in range(members)
        ]

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of all members down their common loss."""
        crafted, labels = self._examples(training, batch)
        loss = self._common(training, crafted, labels)
        if self.add_clean:
            loss = loss + self._common(training, batch.images, batch.labels)
        return training.update_members(loss)

    def _examples(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """Phase I: a batch against each member, joined. Phase II: one against all together."""
        if self.phase_two and training.epoch >= self.phase_two:
            together = combine("max_conf", training.members)
            return training.craft(batch, together), batch.labels

        crafted = [
            training.craft(replace(batch, draws=batch.draws.fork(i)), member)
            for i, member in enumerate(training.members)
        ]
        return torch.cat(crafted), batch.labels.repeat(len(crafted))

    def _common(self, training: Training, images: Tensor, labels: Tensor) -> Tensor:
        """Mean over images of the experts' loss, plus the mean BCE of the confidences."""
        heads = [cast(_DualHead, m).heads(images, through=self.through) for m in training.members]
        losses_KB = torch.stack([cross_entropy(logits, labels) for logits, _ in heads])

        found = [self._confidence(logits, trust, labels) for logits, trust in heads]
        targets_KB = (-losses_KB.detach()).exp()  # the probability of the true class
        doubts = [confidence_cross_entropy(c, t) for c, t in zip(found, targets_KB, strict=True)]

        if self.weighting == "predicted":
            experts = (torch.stack(found).detach().softmax(0) * losses_KB).sum(0)
        else:
            experts = soft_minimum(losses_KB, self.sigma)
        return experts.mean() + self.weight_confidence * torch.stack(doubts).mean()

    def _confidence(self, logits: Tensor, trust: Tensor, labels: Tensor) -> Tensor:
        """What the BCE trains; the rectifying softmax learns where the member is wrong."""
        if not self.rectified:
            return trust

        largest = logits.float().softmax(-1).amax(-1)
        is_right = logits.argmax(-1) == labels
        fixed = is_right if self.through else torch.ones_like(is_right)
        return trust * torch.where(fixed, largest.detach(), largest)


class _DualHead(nn.Module):
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
        logits = self.net.classify(pooled)
        trust: Tensor = self.evaluator(pooled if through else pooled.detach())
        # In float32 or wider: in half precision a sigmoid is soon exactly 1.
        return logits, torch.sigmoid(
            trust[:, 0].to(torch.promote_types(trust.dtype, torch.float32))
        )


def confidence_cross_entropy(confidence: Tensor, target: Tensor) -> Tensor:
    """-t log c - (1 - t) log(1 - c), [B], for a soft target; finite at saturated confidence."""
    confidence = confidence.clamp(LEAST, 1 - LEAST)
    return -(target * confidence.log() + (1 - target) * (-confidence).log1p())
