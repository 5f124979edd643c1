"""BARRE (Dbouk & Shanbhag, ICML 2023): learners for random inference, boosted one after another.

Learner m starts from the weights of the one before (`persistent`) and learns examples against the
randomised ensemble so far, learners 1 to m: x' ascends l(log mean_i p_i, y) from a start within
eps / 2, all in evaluation mode, and learner m alone descends l(z_m(x'), y), where l is MRBoost's
loss CE(z, y) + weight mean_{k != y} -log softmax(-z)_k (weight 1 in the authors' commands, 0 is
cross-entropy). At test one learner is drawn (`combine: random_one`); its worst case is that of
`members_arc`, the authors' own attack, and `barre_averaged` has the same learners averaged.

Departures: learners are drawn uniformly, while the authors' code adapts the probabilities (OSP)
from the fourth learner on, so that up to three are as theirs. It updates running statistics twice a
batch, for each half of the loss, and goes on from the epoch that was best on the test images; here
one forward serves both halves, and a learner goes on from the last weights.
"""

from dataclasses import dataclass

import torch

from pipeline.contracts.training import Training
from pipeline.methods._boosted import Boosted


@dataclass(frozen=True, kw_only=True)
class Barre(Boosted):
    """A learner that defends where a random draw of those before it fails.

    persistent: whether a learner starts as the one before it.
    """

    persistent: bool

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The recipe's optimiser of the one learner."""
        before = training.parents.get("earlier")
        if self.persistent and before is not None:
            last = before.members[-1]
            training.members[0].load_state_dict(last.state_dict())
        return super().setup(training)
