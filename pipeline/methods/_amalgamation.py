"""What AT-AKA and CAT-AKA share: particles to train on, and answers to be amalgamated."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, kl
from pipeline.core.particles import Particles
from pipeline.methods._fusion import find_closest, fuse, fuse_probs, weigh


@dataclass(frozen=True, kw_only=True)
class Amalgamating(Method):
    """Fields of the particles (pipeline/core/particles.py) and of the common target.

    alpha: weight of the distance to the target, 1 - alpha that of CE. amalgamation: see
    pipeline/methods/_fusion.py; pareto amalgamates probabilities and its distance is KL, the others
    amalgamate logits and theirs is the squared distance, summed over classes. sharpness: b of
    soft.
    """

    eps: Radius
    step_size: Radius
    steps: int
    kernel: Literal["median", "fixed", "none"]
    width: float  # h of the kernel `fixed`
    repulsion: float
    gradients: Literal["own", "every"]
    is_balanced: bool
    is_signed: bool
    divided: Literal["both", "repulsion"]
    alpha: float
    amalgamation: Literal["naive", "linear", "soft", "pareto"]
    sharpness: float
    kl_order: Literal["teacher_student", "student_teacher"]

    def craft(self, training: Training, models: list[nn.Module], batch: Batch) -> Tensor:
        """One particle for each model, [n, B, C, H, W], in the recipe's crafting mode."""
        particles = Particles(
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            kernel=self.kernel,
            width=self.width,
            gamma=self.repulsion,
            gradients=self.gradients,
            is_balanced=self.is_balanced,
            is_signed=self.is_signed,
            divided=self.divided,
        )

        mode = training.recipe.attack_bn_mode

        def craft(images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
            with attack_mode(nn.ModuleList(models), mode, is_cast=True) as climbed:
                return particles.climb(list(climbed.children()), images, labels, draws)

        draws = batch.draws.fork("particles")
        if self.kernel == "fixed":  # it may warn, which looks at values
            return craft(batch.images, batch.labels, draws)
        return training.replayed(mode, f"{mode} particles", (self, *models), craft, batch, draws)

    def distance(self, student: Tensor, logits_KBC: Tensor, labels: Tensor) -> Tensor:
        """From the student's logits to the amalgamated ones, [B]; no gradient into those."""
        logits_KBC = logits_KBC.detach()

        if self.amalgamation == "pareto":
            weights = find_closest(student.detach().softmax(-1), logits_KBC.softmax(-1))
            target = fuse_probs(weights, logits_KBC)
            forward = self.kl_order == "teacher_student"
            return kl(target, student) if forward else kl(student, target)

        losses_KB = torch.stack([cross_entropy(z, labels) for z in logits_KBC])
        weights = weigh(self.amalgamation, losses_KB, self.sharpness)
        return (student - fuse(weights, logits_KBC)).square().sum(-1)

    def mixed(self, student: Tensor, logits_KBC: Tensor, labels: Tensor) -> Tensor:
        """(1 - alpha) CE + alpha distance, [B]; at alpha 0 nothing is amalgamated."""
        losses = cross_entropy(student, labels)
        if self.alpha == 0:
            return losses
        return (1 - self.alpha) * losses + self.alpha * self.distance(student, logits_KBC, labels)
