"""What robust distillation shares: frozen teachers, and several teachers' answers made one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts.fields import Parent
from pipeline.contracts.method import Method
from pipeline.contracts.training import Training
from pipeline.core.ensemble import mean_log_prob
from pipeline.core.losses import cross_entropy
from pipeline.methods._fusion import find_closest, fuse, fuse_probs, weigh


@dataclass(frozen=True, kw_only=True)
class Distilling(Method):
    """A student of the frozen members of `teacher`.

    mix: mean_logit or mean_prob of the teachers, or AT-AKA's naive, linear, soft (logits weighted
    by the teachers' losses, `sharpness` times for soft) and pareto (the mixture of probabilities
    that is closest to the student's).
    """

    teacher: Parent
    mix: Literal["mean_logit", "mean_prob", "naive", "linear", "soft", "pareto"]
    sharpness: float

    @torch.no_grad()
    def ask(self, training: Training, images: Tensor) -> Tensor:
        """Every teacher's logits, [teachers, B, classes]."""
        return training.parents["teacher"].logits(images)

    @torch.no_grad()
    def mixed(self, logits_KBC: Tensor, labels: Tensor, student: Callable[[], Tensor]) -> Tensor:
        """The teachers' common logits [B, classes]; pareto alone asks for the student's own."""
        if self.mix == "mean_logit":
            return logits_KBC.mean(0)
        if self.mix == "mean_prob":
            return mean_log_prob(logits_KBC)
        if self.mix == "pareto":
            weights = find_closest(student().softmax(-1), logits_KBC.softmax(-1))
            return fuse_probs(weights, logits_KBC)

        losses_KB = torch.stack([cross_entropy(z, labels) for z in logits_KBC])
        return fuse(weigh(self.mix, losses_KB, self.sharpness), logits_KBC)
