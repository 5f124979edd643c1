"""RSLAD, robust soft label distillation (Zi et al., ICCV 2021): no hard label anywhere.

    scale [(1 - w) KL(p_teacher(x) || p_student(x')) + w KL(p_teacher(x) || p_student(x))]   (Eq. 7)

x' climbs KL(p_teacher(x) || p_student(x')) from a small Gaussian start, the teacher being asked
once, on clean images. The authors' mean over images and classes is the scale 1/10 on CIFAR-10; on
CIFAR-100 they multiply by 10, which is 1/10 again.

Departures: without their 1e-5 in the logarithms. Of several teachers (`en_`) the student learns
the mixture; rules that weigh teachers by their losses look at labels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import Ascent
from pipeline.core.batchnorm import attack_mode
from pipeline.core.losses import kl
from pipeline.core.norms import gaussian_start
from pipeline.methods._distillation import Distilling


@dataclass(frozen=True, kw_only=True)
class Rslad(Distilling):
    """Students of soft labels, on attacked and clean images; weight_clean: w."""

    eps: Radius
    step_size: Radius
    steps: int
    weight_clean: float
    scale: float

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every student on examples crafted on all of them."""
        logits_KBC = self.ask(training, batch.images)
        with attack_mode(training.ensemble, training.recipe.attack_bn_mode) as climbed:
            adversarial = self.climb(climbed, batch, logits_KBC)

        losses = [
            training.update(i, self.distil(student, batch, adversarial, logits_KBC))
            for i, student in enumerate(training.members)
        ]
        return torch.stack(losses).mean()

    def climb(self, model: nn.Module, batch: Batch, logits_KBC: Tensor) -> Tensor:
        """Images whose answers are far from the teachers' on clean ones, detached."""
        taught = self.mixed(logits_KBC, batch.labels, lambda: model(batch.images))

        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )

        start = gaussian_start("linf", batch.images, self.eps, batch.draws.fork("attack"))
        return ascent.climb(
            model,
            lambda logits, rows: kl(taught[rows], logits),
            batch.images,
            batch.labels,
            start,
        )

    def distil(
        self, student: nn.Module, batch: Batch, adversarial: Tensor, logits_KBC: Tensor
    ) -> Tensor:
        """The weighted KLs to the teachers' answers on clean images, [B]."""
        attacked, clean = student(adversarial), student(batch.images)
        taught = self.mixed(logits_KBC, batch.labels, lambda: attacked)
        near, far = kl(taught, clean), kl(taught, attacked)
        return self.scale * ((1 - self.weight_clean) * far + self.weight_clean * near)
