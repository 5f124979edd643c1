"""Whether a victim's gradient is that of its values: a finite difference along its sign."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in
from pipeline.core.losses import cross_entropy, margin
from pipeline.plan.params.values import settings_of

SHARE = 10  # the step is this part of the radius
HIDDEN = 0.1  # part of the slope's rise that pixels without a gradient may change it by
FLOOR = 1e-6  # of the margin's slope: below it cross-entropy is saturated, which is C13's business


def find_radius(attacks: tuple[tuple[str, dict[str, Any]], ...]) -> float:
    """The smallest l_inf radius above 0 of a record's attacks, 0 where none has one."""
    fields = [spec["fields"] for _, spec in attacks]
    radii = [settings_of(f).get("eps") for f in fields if f.get("norm", "linf") == "linf"]
    return min((float(eps) for eps in radii if eps), default=0.0)


def compare_slopes(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Central difference of cross-entropy along sign(gradient) over its slope there, [B].

    1 where the gradient is right; 0 where pixels without a gradient matter all the same; NaN where
    the slope is below FLOOR of the margin's. Scores become float64 first: 1 - p of a confident
    float32 p would be 0 in one of the two alone.
    """
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        # The graph is kept: cross-entropy and margin are differentiated through one forward.
        scores = model(images).double()
        gradient = gradient_in(images, cross_entropy(scores, labels), keep_graph=True)
        other = gradient_in(images, margin(scores, labels))

    # Along sign(gradient) the function rises by the l1 norm of its gradient.
    slope, steepness = (g.flatten(1).double().abs().sum(1) for g in (gradient, other))

    step = radius / SHARE
    above, below = _look_around(model, images, labels, step * gradient.sign())
    ratio = (above - below) / (2 * step) / slope
    ratio = torch.where(ratio.isfinite(), ratio, 0)  # no slope where something rises, or none

    still = gradient == 0  # of an honest network next to never, and then they change nothing
    if still.any():
        here = cross_entropy(scores.detach(), labels)
        ends = _look_around(model, images, labels, step * still)
        change = torch.stack([(end - here).abs() for end in ends]).amax(0)
        ratio = torch.where(change > HIDDEN * step * slope, 0, ratio)
    return torch.where(slope < FLOOR * steepness, torch.nan, ratio).float()


@torch.no_grad()
def _look_around(model: nn.Module, images: Tensor, labels: Tensor, step: Tensor) -> list[Tensor]:
    """Cross-entropy [B] a step ahead and a step back."""
    return [cross_entropy(model(images + way * step).double(), labels) for way in (1, -1)]
