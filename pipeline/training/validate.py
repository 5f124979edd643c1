"""Accuracy of a victim on held-out images, to select checkpoints."""

import torch
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import check_finite
from pipeline.loading.images import Split

BATCH = 500  # images; draws are per image, so this changes nothing but memory


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Predicted classes [B], without gradient."""
    with torch.no_grad():
        scores: Tensor = model(images)
    check_finite(scores, images, "validation")
    return scores.argmax(-1)


def accuracies(
    victim: nn.Module, split: Split, attack: Attack | None, seed: int
) -> tuple[float, float]:
    """Clean accuracy, and the share right both before and after the attack (clean if none)."""
    victim.eval()
    clean = robust = 0
    everyone = torch.arange(len(split), device=split.labels.device)
    for rows in torch.split(everyone, BATCH):
        images, labels = split.floats(rows), split.labels[rows]
        right = predictions(victim, images) == labels
        clean += int(right.sum())

        # An image that is wrong already is never attacked: it can only count as wrong.
        if attack is not None and right.any():
            kept = right.nonzero()[:, 0]
            # Keyed by image, the same at every epoch: epochs are compared under equal draws.
            draws = Draws(derive(seed, "validate"), rows[kept])
            attacked = attack(victim, images[kept], labels[kept], draws)
            robust += int((predictions(victim, attacked) == labels[kept]).sum())
    return clean / len(split), (robust if attack else clean) / len(split)
