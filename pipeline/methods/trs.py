"""TRS (Yang et al., NeurIPS 2021): members whose gradients are small and at right angles.

L = sum_i CE(z_i, y) + coeff mean_{i<j} |cos(g_i, g_j)| + lamda mean_i 2 |g_i(x_mix)|^2, where g_i
is the gradient of member i's cross-entropy in the image (Eqs. 5 to 7). The first half of x_mix is
clean; the second climbs the members' squared gradient norms from a uniform start, in a ball that
grows over the epochs from eps_start towards eps_end. No gradient flows into x_mix.

The ramp is that of the authors' code, whose epochs count from 0: the first has eps_start and the
last stays one step below eps_end; FASTEN's count from 1.

As released, and fields: the sign is that of all gradients so far, whose buffer is never reset
(`accumulate`), and g_i is of the batch's mean loss, smaller by the batch size (`gradient`). The
authors print MNIST values only; the entry has those that FASTEN's code, by AUTE's first author,
has for CIFAR-10, with 3 steps where the authors take 6. Their common factor `scale` is multiplied
into coeff and lamda. What RED calls TRS is its own loss (pipeline/methods/red.py, `trs_red`).

Departure: the authors steepen in training mode, with running statistics moving; here it is done in
the recipe's mode.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import project, uniform_start
from pipeline.methods._diverse import Diverse
from pipeline.methods._gradients import losses_and_gradients, similarity, steepness


@dataclass(frozen=True, kw_only=True)
class Trs(Diverse):
    """coeff: weight of the cosines, lamda: of the squared norms. stride: a step's share of eps.

    least: lower bound of a product of norms.
    """

    coeff: float
    lamda: float
    eps_start: Radius
    eps_end: Radius
    steps: int
    stride: float
    accumulate: bool
    gradient: Literal["image", "batch_mean"]
    least: float

    def terms(self, training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
        """CE [members, B] on clean images, and the two weighted regularisers [B]."""
        losses_KB, clean_KBD = self._gradients(training, batch.images, batch.labels)
        regulariser = losses_KB.new_zeros(len(batch.labels))

        if self.coeff:
            regulariser = regulariser + self.coeff * similarity(clean_KBD, self.least)

        if self.lamda:
            half = len(batch.labels) // 2
            steep = self.steepen(training, batch.select(slice(half, None)))
            mixed = torch.cat([batch.images[:half], steep])
            mixed_KBD = self._gradients(training, mixed, batch.labels)[1]
            regulariser = regulariser + self.lamda * 2 * steepness(mixed_KBD, squared=True)
        return losses_KB, regulariser

    def eps(self, training: Training) -> float:
        """The radius of an epoch; the first has eps_start."""
        share = (training.epoch - 1) / training.recipe.epochs
        return self.eps_start + (self.eps_end - self.eps_start) * share

    def steepen(self, training: Training, batch: Batch) -> Tensor:
        """Images within the epoch's radius at which the members' gradients are long."""
        eps, clean = self.eps(training), batch.images
        draws: Draws = batch.draws.fork("steepen")
        moved, total = uniform_start("linf", clean, eps, draws), torch.zeros_like(clean)
        group, mode = nn.ModuleList(training.members), training.recipe.attack_bn_mode

        with attack_mode(group, mode) as climbed:
            for _ in range(self.steps):
                uphill = _norms_gradient(list(climbed.children()), moved, batch.labels)
                # As released: the buffer of the gradients is never reset between steps.
                total = total + uphill if self.accumulate else uphill
                moved = project("linf", moved + self.stride * eps * total.sign(), clean, eps)
        return moved.detach()

    def _gradients(
        self, training: Training, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses [members, B] and their gradients [members, B, pixels]."""
        members = training.members
        return losses_and_gradients(members, [images] * len(members), labels, self.gradient)


def _norms_gradient(members: list[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
    """Gradient in each image of the sum over members of |g_i|^2, in float32 or wider."""
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = images.detach().requires_grad_()
        norms = images.new_zeros(())
        for member in members:
            loss = cross_entropy(member(images), labels).sum()
            (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
            norms = norms + gradient.square().sum()
        return torch.autograd.grad(norms, images)[0]
