"""Losses [B] of a member on clean and crafted images that several methods minimise."""

from torch import Tensor, nn

from pipeline.contracts.training import Batch
from pipeline.core.losses import boosted_cross_entropy, cross_entropy, kl, true_probability


def objective(
    name: str, member: nn.Module, batch: Batch, adversarial: Tensor, beta: float
) -> Tensor:
    """The loss of PGD-AT (`ce`), `trades` or `mart`, [B]."""
    if name == "trades":
        return trades(member, batch, adversarial, beta)
    if name == "mart":
        return mart(member, batch, adversarial, beta)
    return cross_entropy(member(adversarial), batch.labels)


def trades(member: nn.Module, batch: Batch, adversarial: Tensor, beta: float) -> Tensor:
    """CE(f(x), y) + beta KL(p(x) || p(x')), gradient through both arguments."""
    clean = member(batch.images)
    losses = cross_entropy(clean, batch.labels)
    if beta == 0:  # the adversarial forward would only move running statistics
        return losses
    return losses + beta * kl(clean, member(adversarial))


def mart(member: nn.Module, batch: Batch, adversarial: Tensor, beta: float) -> Tensor:
    """BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)), gradient through everything."""
    if beta == 0:  # the clean forward would only move running statistics
        return boosted_cross_entropy(member(adversarial), batch.labels)
    clean, attacked = member(batch.images), member(adversarial)
    doubt = 1.0000001 - true_probability(clean, batch.labels)
    boosted = boosted_cross_entropy(attacked, batch.labels)
    return boosted + beta * kl(clean, attacked) * doubt
