"""iGAT over ADP (Deng & Mu, NeurIPS 2023): members share out what fools the ensemble.

To ADP's objective on clean and adversarial images it adds, on those that the ensemble gets wrong,

    weight_global CE(z_i(x), y) + weight_weakness -log(1 - max_i max_{k != y} p_ik(x))

where i is one member, drawn for each image: the member that gives the true class the r-th smallest
probability has 2^(r - 1) chances, so the best one has about every second image. Nothing flows
through the draw, nor through a p above 0.99. The ensemble has been trained in full before (`start`)
and goes on at a small rate.

Departures: the released trainer takes half of a batch clean, the other half adversarial, and leaves
out ADP's own cross-entropies; here every image is both, as in `adp_at_objective`, and they stay. It
can also sum the second term over members (`weakness: all`). The weights 5 and 10 are those for ADP
as far as known; the code takes them as arguments. Over DVERGE and SoE the authors add the same two
terms to those methods' own updates, which this file does not.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts.fields import Start
from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, true_probability
from pipeline.methods._adp import check_volume, weigh_diversity
from pipeline.methods._diverse import Diverse

MOST = 0.99  # a wrong probability above it has no gradient, as released


@dataclass(frozen=True, kw_only=True)
class Igat(Diverse):
    """Members that share out, and are held back on, what fools them together.

    start: the parent whose members' weights they start from, or none. alpha, beta: ADP's weights.
    weight_global: of the images shared out, weight_weakness: of the largest wrong probability, of
    `one` member or summed over `all`.
    """

    start: Start  # whose members' weights these start from
    alpha: float
    beta: float
    weight_global: float
    weight_weakness: float
    weakness: Literal["one", "all"]

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The optimisers of members that start as the parent's."""
        if self.beta:
            check_volume(len(training.members), training.classes)
        if self.start != "none":
            training.start_from("start")
        return super().setup(training)

    def terms(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """CE [members, B], and ADP's regularisers with iGAT's two terms [B]."""
        logits_KBC = torch.stack([member(batch.images) for member in training.members])
        losses_KB = torch.stack([cross_entropy(z, batch.labels) for z in logits_KBC])
        probs_KBC = logits_KBC.softmax(-1)
        regulariser = weigh_diversity(probs_KBC, batch.labels, self.alpha, self.beta)

        wrong = probs_KBC.mean(0).argmax(-1) != batch.labels
        if self.weight_global:
            true_KB = torch.stack([true_probability(z, batch.labels) for z in logits_KBC])
            chosen = share_out(true_KB.detach(), batch.draws.fork("share"))
            own = losses_KB.gather(0, chosen[None])[0]
            regulariser = regulariser + self.weight_global * wrong * own

        if self.weight_weakness:
            weak = self._weakness(probs_KBC, batch.labels)
            regulariser = regulariser + self.weight_weakness * wrong * weak
        return losses_KB, regulariser

    def _weakness(self, probs_KBC: Tensor, labels: Tensor) -> Tensor:
        """-log(1 - the largest wrong probability), [B]."""
        everyone = labels[None, :, None].expand(len(probs_KBC), -1, 1)
        largest_KB = probs_KBC.scatter(-1, everyone, 0).amax(-1)
        if self.weakness == "one":
            largest_KB = largest_KB.amax(0, keepdim=True)
        return -torch.log1p(-largest_KB.clamp(max=MOST)).sum(0)


def share_out(true_KB: Tensor, draws: Draws) -> Tensor:
    """One member for each image, int64 [B]: twice as likely as the next worse one."""
    order_KB = true_KB.argsort(0)
    chances = (1 << torch.arange(len(true_KB), device=true_KB.device)).float()
    bounds = (chances.cumsum(0) / chances.sum())[:-1]

    rank = torch.bucketize(draws.uniform(), bounds, right=True)
    return order_KB.gather(0, rank[None])[0]
