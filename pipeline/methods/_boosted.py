"""Boosting by margins: learners one after another (MRBoost, Zhang et al., ICML 2022, Eq. 9).

What MCE and BARRE share: the loss l(z, y) = CE(z, y) + weight mean_{k != y} -log softmax(-z)_k, and
a learner that descends it on examples of all learners so far, while those before it are frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts.fields import Earlier, Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import Ascent
from pipeline.core.batchnorm import attack_mode
from pipeline.core.ensemble import combine
from pipeline.core.folding import folded
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Boosted(Method):
    """A learner that corrects those before it. weight: of the loss's second term; 0 is CE.

    earlier: how learners answer together when examples are crafted.
    """

    earlier: Earlier
    weight: float
    eps: Radius
    step_size: Radius
    steps: int

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The recipe's optimiser of the one learner."""
        if len(training.members) > 1:
            name = type(self).__name__.lower()
            where = f"params.yaml: methods: {name}"
            raise UserError(f"{where}: learners train in turn; give joint: false")
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

        # The mean over the wrong classes of -log softmax(-z)_k (Eq. 9)
        full = logits.to(torch.promote_types(logits.dtype, torch.float32))
        against = -(-full).log_softmax(1)
        wrong = against.sum(1) - against.gather(1, labels[:, None])[:, 0]
        return losses + self.weight * wrong / (logits.shape[1] - 1)

    def craft(self, training: Training, batch: Batch) -> Tensor:
        """Images within eps at which the learners' common answer has a high loss."""
        before = training.parents.get("earlier")
        learners = list(before.members) if before is not None else []

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
            common = combine(self.earlier, [*map(folded, learners), learner])
            if common.random:
                # The rule is as new as the batch, whose first image's stream it draws by.
                common.reseed(int(batch.draws.fork("rule").integers(2**31)[0]))
            return ascent.climb(
                common,
                lambda logits, rows: self.margin_loss(logits, batch.labels[rows]),
                batch.images,
                batch.labels,
                start,
            )
