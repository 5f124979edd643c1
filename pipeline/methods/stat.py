"""STAT, squeeze training (Li et al., ICLR 2023): the most and least sure neighbours should agree.

    CE(f(x), y) + beta R(u, l),   R = (KL(p_l || p_u) + KL(p_u || p_l)) / 2

u and l are, image by image, the predictions of lowest and highest p_y among x, an adversarial and
a collaborative neighbour. Each KL's first argument is detached, so its gradient is not that of the
symmetric divergence. Both neighbours start by their own small noise and climb R together: at each
step the point of lowest p_y becomes the adversarial one and the one of highest p_y the
collaborative one, either may be x itself, and both move along the sign of their own gradient.

Batch statistics as in the authors' code: crafting and the collaborative forward leave the running
ones alone (`attack_bn_mode: train_frozen`), clean and adversarial images move them.

Departures: starts are clipped to the box; in a joint run the neighbours are crafted once, on the
ensemble, and each member finds its own u and l among them (AUTE's script was not released).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.batchnorm import attack_mode
from pipeline.core.losses import cross_entropy, kl, true_probability
from pipeline.core.norms import gaussian_start, project


@dataclass(frozen=True, kw_only=True)
class Stat(Method):
    """Clean CE plus beta times the gap between the extremes of a neighbourhood."""

    beta: float
    eps: Radius
    step_size: Radius
    steps: int

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every member, its neighbours crafted on all of them."""
        neighbours = (batch.images, batch.images)
        if self.beta:
            with attack_mode(training.ensemble, training.recipe.attack_bn_mode) as climbed:
                neighbours = self.find_neighbours(climbed, batch)

        losses = [
            training.update(i, self.squeeze(member, batch, *neighbours))
            for i, member in enumerate(training.members)
        ]
        return torch.stack(losses).mean()

    def squeeze(
        self, member: nn.Module, batch: Batch, adversarial: Tensor, collaborative: Tensor
    ) -> Tensor:
        """CE(f(x), y) + beta R(u, l), [B]."""
        clean = member(batch.images)
        losses = cross_entropy(clean, batch.labels)
        if self.beta == 0:
            return losses

        attacked = member(adversarial)
        # The authors' collaborative forward leaves the running statistics alone.
        with attack_mode(member, "train_frozen"):
            helped = member(collaborative)
        logits_PBC = torch.stack([clean, helped, attacked])
        return losses + self.beta * _gap(logits_PBC, *_extremes(logits_PBC, batch.labels))

    def find_neighbours(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adversarial and collaborative images, [B, C, H, W] each, detached."""
        images, everyone = batch.images, torch.arange(len(batch.labels), device=batch.labels.device)
        draws = batch.draws.fork("attack")
        adversarial, collaborative = (
            gaussian_start("linf", images, self.eps, draws.fork(i)) for i in (0, 1)
        )

        for _ in range(self.steps):
            points = torch.stack([images, collaborative, adversarial]).requires_grad_()
            # A forward each: joined in one batch the points would share batch statistics.
            logits_PBC = torch.stack([model(x) for x in points])
            lowest, highest = _extremes(logits_PBC, batch.labels)

            gap = _gap(logits_PBC, lowest, highest).sum()
            (gradients,) = torch.autograd.grad(gap, points)
            moved = points.detach() + self.step_size * gradients.sign()
            adversarial, collaborative = (
                project("linf", moved[which, everyone], images, self.eps)
                for which in (lowest, highest)
            )
        return adversarial, collaborative


def _extremes(logits_PBC: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which point has the lowest and which the highest p_y, int64 [B] each; ties: the first."""
    trust_PB = torch.stack([true_probability(z.detach(), labels) for z in logits_PBC])
    return trust_PB.argmin(0), trust_PB.argmax(0)


def _gap(logits_PBC: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """R of the two chosen points, [B]."""
    everyone = torch.arange(len(lowest), device=lowest.device)
    upper, lower = logits_PBC[lowest, everyone], logits_PBC[highest, everyone]
    return (kl(lower.detach(), upper) + kl(upper.detach(), lower)) / 2
