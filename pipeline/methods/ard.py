"""ARD, adversarially robust distillation (Goldblum et al., AAAI 2020).

    alpha T^2 KL(p_teacher(x) || p_student(x')) + (1 - alpha) CE(f(x), y)              (Eq. 2)

both predictions softened by the temperature T; the teacher sees clean images, the student is
attacked by CE. The authors' code divides the KL by the number of classes, too (`over_classes`), and
its second drop of the rate does nothing, which its own recipe (`en_ard`) keeps.

Departures: with alpha 1 no clean forward is made; examples are crafted in the recipe's mode
(theirs: training mode). Of several teachers (`en_`) the student learns the mixture.
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy, kl
from pipeline.methods._distillation import Distilling


@dataclass(frozen=True, kw_only=True)
class Ard(Distilling):
    """Students that answer attacked images as teachers answer clean ones."""

    alpha: float
    temperature: float
    over_classes: bool

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """alpha T^2 KL + (1 - alpha) CE, [B]."""
        student = training.members[index]
        if self.alpha == 0:
            return cross_entropy(student(batch.images), batch.labels)

        attacked = student(adversarial)
        taught = self.mixed(self.ask(training, batch.images), batch.labels, lambda: attacked)
        distance = kl(taught / self.temperature, attacked / self.temperature)
        # T^2 keeps the gradient's size whatever the temperature (Hinton et al. 2015).
        losses = self.alpha * self.temperature**2 * distance
        if self.over_classes:
            losses = losses / attacked.shape[1]

        if self.alpha == 1:
            return losses
        return losses + (1 - self.alpha) * cross_entropy(student(batch.images), batch.labels)
