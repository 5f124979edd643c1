"""AUTE (Huang et al., AAAI 2025): peer alignment and self-unlearning.

Each member in turn, on examples crafted against the whole ensemble, minimises (Eq. 6)
    L_UCE + beta L_PA,
L_UCE = -w log p_y, with w = 1 - D while the margin D = p_y - max_{k != y} p_k is below
`margin`, else w = -gamma D (Eq. 4, 5); L_PA = (1 - p_y) KL(member, peers) (Eq. 2), the peers
being the frozen ensemble of all other members.

Eq. 4 is printed without the logarithm; the text calls it a reformulated cross-entropy, so it is
read with one. f is read as probabilities: thresholds 0.01 to 1 make no sense on logits.

The released code (`aute_released`) departs from the paper: MART's two-term base loss, the
unlearning weight times the member's index (member 0 never unlearns), margin 0 for misclassified
examples, beta ramped between epochs 40 and 80, KL(peers, member). Its examples are crafted and its
peers asked in training mode, which moves their running statistics (`attack_bn_mode: train_update`:
recipes `aute*`, `aute_own`, `aute_released_train_mode`); evaluation mode is the departure of every
other entry, and of the unified table for all methods alike. In both, gradient flows
through the weights, since neither text nor code stops it; `detach_weights` does.

`learn` and `align` choose the rows of the ablation (Table 4). AUTE-LS smooths as the released
helper does: the true class keeps 1 - smoothing, the others share the rest.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Epoch
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import in_mode
from pipeline.core.ensemble import mean_log_prob
from pipeline.core.losses import (
    boosted_cross_entropy,
    cross_entropy,
    kl,
    label_smoothed_cross_entropy,
    margin,
    true_probability,
)
from pipeline.errors import UserError
from pipeline.methods._adp import check_volume, log_volume, mean_entropy


@dataclass(frozen=True, kw_only=True)
class Aute(Method):
    """Members unlearn what they know too well and align with their peers.

    margin: threshold M on the probability margin. gamma: strength of unlearning. beta: weight of
    alignment, 0 up to epoch ramp_start, linear to its value at ramp_end (0, 0: constant). peers:
    size of the peer group, the members that come next in turn; 0 is all others.
    """

    beta: float
    ramp_start: Epoch
    ramp_end: Epoch
    learn: Literal["unlearn", "plain", "smooth"]
    align: Literal["weighted", "unweighted", "adp"]
    margin: float
    gamma: float
    smoothing: float  # share of a label that goes to the wrong classes
    base_loss: Literal["ce", "boosted"]
    wrong_margin: Literal["negative", "zero"]
    at_margin: Literal["forget", "learn"]
    index_scaled: bool
    detach_weights: bool
    kl_order: Literal["member_peers", "peers_member"]
    peers: int
    adp_entropy: float
    adp_volume: float

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The recipe's optimisers; raises UserError for more peers than there are, or than span
        ADP's volume, and for labels smoothed beyond an even one."""
        most = 1 - 1 / training.classes
        if self.learn == "smooth" and not 0 <= self.smoothing <= most:
            raise UserError(
                f"params.yaml: methods: aute: smoothing {self.smoothing}: with {training.classes} "
                f"classes it is 0 to {most}, at which the label says nothing; give a value between"
            )

        if self.align == "adp" and self.adp_volume:
            check_volume((self.peers or len(training.members) - 1) + 1, training.classes)
        others = len(training.members) - 1
        if self.peers > others:
            raise UserError(
                f"params.yaml: methods: aute: peers {self.peers}, but a member has {others}; "
                "0 is all of them"
            )
        return super().setup(training)

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """L_UCE + beta L_PA of member `index`, [B]."""
        logits = training.members[index](adversarial)
        losses = self._learn(logits, batch.labels, index)

        # The members after this one, then round to those before it
        turn = training.members[index + 1 :] + training.members[:index]
        peers = turn[: self.peers or None]

        beta = self._beta(training.epoch)
        if beta == 0 or not peers:
            return losses
        peers_KBC = _frozen_logits(peers, adversarial, training.recipe.attack_bn_mode)
        return losses + beta * self._align(logits, peers_KBC, batch.labels)

    def _beta(self, epoch: int) -> float:
        """Weight of alignment in a 1-based epoch."""
        if self.ramp_end <= self.ramp_start:
            return self.beta if epoch > self.ramp_start else 0.0
        share = (epoch - self.ramp_start) / (self.ramp_end - self.ramp_start)
        return self.beta * min(max(share, 0.0), 1.0)

    def _learn(self, logits: Tensor, labels: Tensor, index: int) -> Tensor:
        if self.learn == "plain":
            return cross_entropy(logits, labels)
        if self.learn == "smooth":  # smoothing / (K - 1) for every wrong class, as its helper does
            share = self.smoothing * logits.shape[1] / (logits.shape[1] - 1)
            return label_smoothed_cross_entropy(logits, labels, share)

        base = boosted_cross_entropy if self.base_loss == "boosted" else cross_entropy
        weights = self._weights(logits.softmax(-1), labels, index)
        return weights * base(logits, labels)

    def _weights(self, probs: Tensor, labels: Tensor, index: int) -> Tensor:
        """w of Eq. 5, [B]."""
        distance = -margin(probs, labels)
        if self.wrong_margin == "zero":
            distance = distance.clamp_min(0)

        at_least = self.at_margin == "forget"
        forget = distance >= self.margin if at_least else distance > self.margin
        strength = self.gamma * (index if self.index_scaled else 1)
        # Below the margin w = 1 - D, above it w = -gamma D: there the member unlearns.
        weights = torch.where(forget, -strength * distance, 1 - distance)
        return weights.detach() if self.detach_weights else weights

    def _align(self, logits: Tensor, peers_KBC: Tensor, labels: Tensor) -> Tensor:
        """L_PA of Eq. 2, or ADP's regularisers in its place, [B]."""
        if self.align == "adp":
            probs_KBC = torch.cat([logits[None], peers_KBC]).softmax(-1)
            losses = -self.adp_entropy * mean_entropy(probs_KBC)
            if self.adp_volume:
                losses = losses - self.adp_volume * log_volume(probs_KBC, labels)
            return losses

        peers = mean_log_prob(peers_KBC)
        is_printed = self.kl_order == "member_peers"
        distance = kl(logits, peers) if is_printed else kl(peers, logits)

        if self.align == "unweighted":
            return distance
        doubt = 1 - true_probability(logits, labels)
        return (doubt.detach() if self.detach_weights else doubt) * distance


def _frozen_logits(peers: list[nn.Module], images: Tensor, bn_mode: str) -> Tensor:
    """Logits [members, B, classes] of frozen peers, in the recipe's crafting mode.

    The released peers run in training mode, which also moves their running statistics.
    """
    group = nn.ModuleList(peers)
    # Asked once: to fold them would take longer than it spares.
    with torch.no_grad(), in_mode(group, bn_mode):
        return torch.stack([peer(images) for peer in group])
