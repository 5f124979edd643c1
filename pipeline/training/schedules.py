"""Learning-rate schedules: the rate and momentum of one moment of training."""

import math
from bisect import bisect_left, bisect_right

from pipeline.contracts.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int, fraction: float) -> float:
    """Rate in 1-based `epoch`, of which `fraction` in [0, 1) is done."""
    if recipe.schedule == "multi_step":
        passed = bisect_left(recipe.milestones, epoch)  # epoch m itself still has the old rate
        return recipe.lr if passed == 0 else recipe.lr_values[passed - 1]
    if recipe.schedule == "piecewise_linear":
        return _interpolate(recipe.milestones, recipe.lr_values, epoch)

    start, end = recipe.lr_values
    return _one_cycle(recipe, epoch, fraction, start, recipe.lr, end)


def momentum(recipe: Recipe, epoch: int, fraction: float) -> float:
    """Momentum; one_cycle lowers it by 0.1, to 0 at most, while the rate is high (as HAT's
    scheduler does)."""
    if recipe.schedule != "one_cycle":
        return recipe.momentum
    low = max(0.0, recipe.momentum - 0.1)
    return _one_cycle(recipe, epoch, fraction, recipe.momentum, low, recipe.momentum)


def _interpolate(knots: list[int], rates: list[float], epoch: int) -> float:
    """Piecewise-linear through (knots, rates), constant outside; once per epoch (MEAT, SEAT)."""
    right = bisect_right(knots, epoch)
    if right == 0:
        return rates[0]
    if right == len(knots):
        return rates[-1]

    a, b = knots[right - 1], knots[right]
    share = (epoch - a) / (b - a)
    return rates[right - 1] * (1 - share) + rates[right] * share


def _one_cycle(
    recipe: Recipe, epoch: int, fraction: float, start: float, peak: float, end: float
) -> float:
    """Cosine up to the peak at epoch milestones[0], cosine down to the end."""
    done, warm = epoch - 1 + fraction, recipe.milestones[0]
    if done < warm:
        return _cosine(start, peak, done / warm)
    return _cosine(peak, end, (done - warm) / (recipe.epochs - warm))


def _cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
