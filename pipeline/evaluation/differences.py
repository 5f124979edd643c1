"""Whether a victim's gradient is that of its values: a finite difference along its sign."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in
from pipeline.core.losses import cross_entropy, margin
from pipeline.plan.params.values import settings_of

SHARE = 10  # the step is this part of the radius
FLOOR = 1e-6  # of the margin's slope: below it cross-entropy is saturated, which is C13's business


def find_radius(attacks: tuple[tuple[str, dict[str, Any]], ...]) -> float:
    """The smallest l_inf radius above 0 of a record's attacks, 0 where none has one."""
    fields = [spec["fields"] for _, spec in attacks]
    radii = [settings_of(f).get("eps") for f in fields if f.get("norm", "linf") == "linf"]
    return min((float(eps) for eps in radii if eps), default=0.0)


def compare_slopes(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Central difference of cross-entropy along sign(gradient) over its slope there, [B].

    1 where the gradient is right; NaN where the slope is below FLOOR of the margin's. Scores
    become float64 first: 1 - p of a confident float32 p would be 0 in one of the two alone.
    """
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        # The graph is kept: cross-entropy and margin are differentiated through one forward.
        scores = model(images).double()
        gradient = gradient_in(images, cross_entropy(scores, labels), keep_graph=True)
        other = gradient_in(images, margin(scores, labels))

    # Along sign(gradient) the function rises by the l1 norm of its gradient.
    slope, steepness = (g.flatten(1).double().abs().sum(1) for g in (gradient, other))

    step = radius / SHARE * gradient.sign()
    with torch.no_grad():
        ends = [model(images + way * step).double() for way in (1, -1)]
    above, below = (cross_entropy(scores, labels) for scores in ends)
    ratio = (above - below) / (2 * radius / SHARE) / slope
    ratio = torch.where(ratio.isfinite(), ratio, 0)  # no slope where something rises, or none
    return torch.where(slope < FLOOR * steepness, torch.nan, ratio).float()
