"""Whether a victim's gradient is that of its values: finite differences along its sign."""

import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in
from pipeline.core.losses import cross_entropy, margin

# Parts of the radius that the steps are. The margin of an undefended network on real images bends
# within a tenth of 8/255; what hides a gradient does so at every one of them.
SHARES = (10, 30, 100)
HIDDEN = 0.1  # part of the slope's rise that pixels without a gradient may change it by
FLOOR = 1e-6  # of the margin's slope: below it cross-entropy is saturated, which is C13's business


def compare_slopes(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Central difference of the margin over its slope, along sign(gradient of cross-entropy), [B].

    1 where the gradient is right: of several steps the one nearest to it, since the margin of a
    steep network is straight only so far, and cross-entropy is an exponential of it. 0 where
    pixels without a gradient matter all the same; NaN where cross-entropy is saturated, its slope
    below FLOOR of the margin's. Scores become float64 first: 1 - p of a confident float32 p would
    be 0 in one of the two alone.
    """
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        # The graph is kept: cross-entropy and margin are differentiated through one forward.
        scores = model(images).double()
        gradient = gradient_in(images, cross_entropy(scores, labels), keep_graph=True)
        other = gradient_in(images, margin(scores, labels))

    direction = gradient.sign()
    slope = (other * direction).flatten(1).double().sum(1)
    steps = [radius / share for share in SHARES]
    ends = [_look_around(model, images, labels, step * direction) for step in steps]
    rises = [(ahead - back) / (2 * step) for step, (ahead, back) in zip(steps, ends, strict=True)]
    ratios = torch.stack(rises) / slope
    ratios = torch.where(ratios.isfinite(), ratios, 0)  # no slope where something rises, or none
    nearest = torch.where(ratios > 0, ratios.log().abs(), torch.inf).argmin(0)
    ratio = ratios.gather(0, nearest[None])[0]

    still = gradient == 0  # of an honest network next to never, and then they change nothing
    if still.any():
        here = margin(scores.detach(), labels)
        moved = _look_around(model, images, labels, steps[0] * still)
        hidden = (moved - here).abs().amax(0)
        ratio = torch.where(hidden > HIDDEN * steps[0] * slope.abs(), 0, ratio)

    rise, steepness = (g.flatten(1).double().abs().sum(1) for g in (gradient, other))
    return torch.where(rise < FLOOR * steepness, torch.nan, ratio).float()


@torch.no_grad()
def _look_around(model: nn.Module, images: Tensor, labels: Tensor, step: Tensor) -> Tensor:
    """The margin a step ahead and a step back, [2, B]."""
    ends = [model(images + way * step).double() for way in (1, -1)]
    return torch.stack([margin(scores, labels) for scores in ends])
