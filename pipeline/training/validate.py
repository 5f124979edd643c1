"""Accuracy of a victim on held-out images, to select checkpoints."""

import torch
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination, check_finite, combine
from pipeline.core.folding import folded
from pipeline.loading.images import Split
from pipeline.plan.memory import VALIDATED


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Predicted classes [B], without gradient."""
    with torch.no_grad():
        scores: Tensor = model(images)
    check_finite(scores, images, "validation")
    return scores.argmax(-1)


def accuracies(
    victim: Combination, split: Split, attack: Attack | None, seed: int, batch: int = 0
) -> tuple[float, float]:
    """Clean accuracy, and the share right both before and after the attack (clean if none).

    batch: the recipe's `micro_batch`, where memory holds no more images; draws are per image.

    Of a random victim the expected ones: attacks climb its members' mean, each member answers.
    """
    victim.eval()
    climbed, answering = victim, list[nn.Module]([victim])
    if victim.random:
        climbed, answering = combine("mean_prob", victim.members).eval(), list(victim.members)
    fast = folded(climbed)

    clean = robust = 0
    everyone = torch.arange(len(split), device=split.labels.device)
    for rows in torch.split(everyone, batch or VALIDATED):
        images, labels = split.floats(rows), split.labels[rows]
        right_AB = torch.stack([predictions(v, images) == labels for v in answering])
        clean += int(right_AB.sum())

        # An image that is wrong already is never attacked: it can only count as wrong.
        if attack is not None and right_AB.any():
            kept = right_AB.any(0).nonzero()[:, 0]
            # Keyed by image, the same at every epoch: epochs are compared under equal draws.
            draws = Draws(derive(seed, "validate"), rows[kept])
            attacked = attack(fast, images[kept], labels[kept], draws)
            after_AB = torch.stack([predictions(v, attacked) == labels[kept] for v in answering])
            robust += int((after_AB & right_AB[:, kept]).sum())

    count = len(split) * len(answering)
    return clean / count, (robust if attack else clean) / count
