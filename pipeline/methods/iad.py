"""IAD-I, introspective adversarial distillation (Zhu et al., ICLR 2022).

    A KL(p_teacher(x) || p_student(x')) + (1 - A) KL(p_student(x) || p_student(x'))

A = p_teacher(y | x')^beta is how far the teacher is to be trusted on that image; where it is not,
the student trusts its own clean answer, through which gradient flows, too. Up to epoch `begin` it
learns from the teacher alone (ARD at temperature 1). `printed` is the formula above, `released` the
authors' code, which forgets the first A.

Departures: examples are crafted in the recipe's mode (theirs: training mode). The authors forward
clean images in training mode in every batch, twice after `begin`; here it is once and after `begin`
alone, when the loss reads them, so that up to there the running statistics are of examples only. Of
several teachers (`en_`) the mixture is trusted.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pipeline.contracts.fields import Epoch
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import kl, true_probability
from pipeline.methods._distillation import Distilling


@dataclass(frozen=True, kw_only=True)
class Iad(Distilling):
    """Students that trust teachers as far as these are robust."""

    beta: float
    begin: Epoch
    weighting: Literal["printed", "released"]

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """A KL to the teacher plus (1 - A) KL to itself, [B]."""
        student, labels = training.members[index], batch.labels
        attacked = student(adversarial)
        taught = self.mixed(self.ask(training, batch.images), labels, lambda: attacked)
        distance = kl(taught, attacked)
        if training.epoch <= self.begin:
            return distance

        doubted = self.mixed(self.ask(training, adversarial), labels, lambda: attacked)
        trust = true_probability(doubted, labels) ** self.beta
        itself = (1 - trust) * kl(student(batch.images), attacked)
        return (trust if self.weighting == "printed" else 1) * distance + itself
