"""GAIRAT (Zhang et al., ICLR 2021): images close to the boundary weigh more.

    mean_i w_i CE(f(x'_i), y_i),   w(k) = (1 + tanh(lambda + 5 (1 - 2 k / K))) / 2

k counts the iterates x^(0) to x^(K-1) of PGD's K steps that are still classified correctly;
weights carry no gradient and are scaled to mean 1 in the batch. Up to epoch `burn_in` all are 1.

Departures: the authors' k, as in their code; their paper says the first step that fools, which is
the same where nobody returns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Epoch, Radius
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import input_gradient, on_labels
from pipeline.core.batchnorm import attack_mode
from pipeline.core.losses import TINY, cross_entropy
from pipeline.core.norms import project, uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Gairat(Method):
    """PGD-AT whose images weigh by how soon PGD fools them; the method crafts by itself."""

    eps: Radius
    step_size: Radius
    steps: int
    lambda_: float
    burn_in: Epoch

    def __post_init__(self) -> None:
        """Refuse steps of which no share can be right."""
        if self.steps < 1:
            raise UserError(
                f"params.yaml: methods: gairat: steps {self.steps}: weights follow the share of "
                "steps that are right; give 1 or more"
            )

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One update of every member."""
        with attack_mode(training.ensemble, training.recipe.attack_bn_mode) as climbed:
            adversarial, right = self.climb(climbed, batch)

        weights = self.weigh(right)
        if training.epoch <= self.burn_in:
            weights = torch.ones_like(weights)

        losses = [
            training.update(i, weights * cross_entropy(member(adversarial), batch.labels))
            for i, member in enumerate(training.members)
        ]
        return torch.stack(losses).mean()

    def climb(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adversarial images, and how many iterates of each were right, int64 [B]."""
        images, labels = batch.images, batch.labels
        moved = uniform_start("linf", images, self.eps, batch.draws.fork("attack").fork(0))
        rows, right = torch.arange(len(labels), device=labels.device), torch.zeros_like(labels)

        for _ in range(self.steps):
            logits, _, gradient = input_gradient(
                model, on_labels(cross_entropy, labels), moved, rows
            )
            # Counted before the step: x^(0) to x^(K-1), never the last iterate.
            right += logits.argmax(1) == labels
            moved = project("linf", moved + self.step_size * gradient.sign(), images, self.eps)
        return moved, right

    def weigh(self, right: Tensor) -> Tensor:
        """Weights [B] of mean 1 from counts of right iterates."""
        share = right.to(torch.float32) / self.steps
        weights = (1 + torch.tanh(self.lambda_ + 5 * (1 - 2 * share))) / 2
        # Where lambda is so low that all weights round to 0, they stay 0 and no NaN.
        return weights / weights.mean().clamp_min(TINY)
