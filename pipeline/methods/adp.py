"""ADP (Pang et al., ICML 2019): members agree on the truth and differ in all else.

L = sum_i CE(z_i, y) - alpha H(mean_i p_i) - beta log det(M'M), where the columns of M are the
members' probabilities without the true class, of unit length (Eqs. 4 and 8). Nothing is detached.

Departures between the authors' code and those that others compare with, each a field: the authors
add the whole objective on adversarial images (`adversarial: objective`), DVERGE's port, which SoE
takes up, their cross-entropy (`adp_at`); RED's port multiplies the loss by 0.1 and descends by SGD
where all others take Adam (`adp_red`); the authors draw the radius of every batch from 0.01 to
0.05, here it is the recipe's. The ports craft in training mode, with running statistics moving;
here it is the recipe's mode. The volume's 1e-6 is the code's (pipeline/methods/_adp.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy
from pipeline.methods._adp import check_volume, weigh_diversity
from pipeline.methods._diverse import Diverse


@dataclass(frozen=True, kw_only=True)
class Adp(Diverse):
    """alpha: weight of the entropy of the mean. beta: weight of the volume; 0 computes neither."""

    alpha: float
    beta: float

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The optimisers; raises UserError for more members than span a volume."""
        if self.beta:
            check_volume(len(training.members), training.classes)
        return super().setup(training)

    def terms(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """CE [members, B] and -alpha H - beta log det [B]."""
        logits_KBC = torch.stack([member(batch.images) for member in training.members])
        losses_KB = torch.stack([cross_entropy(z, batch.labels) for z in logits_KBC])
        probs_KBC = logits_KBC.softmax(-1)
        return losses_KB, weigh_diversity(probs_KBC, batch.labels, self.alpha, self.beta)
