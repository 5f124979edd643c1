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
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Earlier, Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.batchnorm import attack_mode
from pipeline.core.ensemble import Combination, combine
from pipeline.core.folding import folded
from pipeline.core.losses import cross_entropy, widen
from pipeline.core.norms import uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Barre(Method):
    """A learner that defends where a random draw of those before it fails.

    earlier: how learners answer together when examples are crafted. persistent: whether a learner
    starts as the one before it. weight: of the loss's second term.
    """

    earlier: Earlier
    persistent: bool
    weight: float
    eps: Radius
    step_size: Radius
    steps: int

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The recipe's optimiser of the one learner."""
        if len(training.members) > 1:
            raise UserError(
                "params.yaml: methods: barre: learners train in turn; give joint: false"
            )

        before = self._before(training)
        if self.persistent and before:
            training.members[0].load_state_dict(before[-1].state_dict())
        return super().setup(training)

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of the learner on examples against all so far."""
        crafted = self.craft(training, batch)
        losses = self.margin_loss(training.members[0](crafted), batch.labels)
        return training.update(0, losses)

    def margin_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """l(z, y), [B]."""
        losses = cross_entropy(logits, labels)
        if self.weight == 0:
            return losses

        # The mean over the wrong classes of -log softmax(-z)_k
        against = -(-widen(logits)).log_softmax(1)
        wrong = against.scatter(1, labels[:, None], 0).sum(1)
        return losses + self.weight * wrong / (logits.shape[1] - 1)

    def craft(self, training: Training, batch: Batch) -> Tensor:
        """Images within eps at which the learners' expected answer has a high loss."""
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )

        start = uniform_start("linf", batch.images, self.eps / 2, batch.draws.fork("attack"))
        with attack_mode(training.members[0], training.recipe.attack_bn_mode) as learner:
            # Frozen learners are folded here, the one that learns by attack_mode.
            together = combine(self.earlier, [*map(folded, self._before(training)), learner])
            loss = on_labels(self.margin_loss, batch.labels)
            return ascent.climb(together, loss, batch.images, batch.labels, start)

    def _before(self, training: Training) -> list[nn.Module]:
        """The learners trained so far, frozen."""
        before = training.parents.get("earlier")
        return list(cast(Combination, before).members) if before is not None else []
