"""95 % intervals of accuracies and of paired differences: of these nets, or of methods.

One seed speaks of *these nets*: the images vary, the nets do not. Three seeds or more speak of
*methods*: seeds and images are crossed random effects. Two seeds give no interval, for one degree
of freedom makes it useless (bench/intervals.py prints how often each is wrong).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes a second to import, in every job

from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError

FEWEST = 3  # seeds that an interval of methods needs
LEVEL = 0.95
Z95 = float(special.ndtri((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and images, the variance of that mean, and its degrees of freedom."""

    value: float
    variance: float
    df: float
    images: int
    seeds: int

    @property
    def of(self) -> str:
        """What an interval of it is a statement about."""
        if self.seeds == 1:
            return "nets"
        return "methods" if self.seeds >= FEWEST else "none"

    def spread(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Its t interval, inside [-1, 1]; None of two seeds."""
        if self.of == "none":
            return None
        half = float(special.stdtrit(self.df, (1 + level) / 2)) * math.sqrt(self.variance)
        return max(-1.0, self.value - half), min(1.0, self.value + half)

    def p_above(self, bar: float = 0.0) -> float | None:
        """One-sided p-value of the null that the mean is at most `bar`; None of two seeds."""
        if self.of == "none":
            return None
        return float(special.stdtr(self.df, (bar - self.value) / math.sqrt(self.variance)))


def wilson(accuracy: float, images: float, quantile: float = Z95) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); never empty, never outside [0, 1]."""
    if images == 0:
        return 0.0, 1.0
    shrink = 1 + quantile**2 / images
    centre = (accuracy + quantile**2 / (2 * images)) / shrink
    variance = accuracy * (1 - accuracy) / images + quantile**2 / (4 * images**2)
    half = quantile * math.sqrt(variance) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def crossed(values_SN: NDArray[np.floating], added: int) -> Mean:
    """The mean of [seeds, images], both random and crossed (Satterthwaite 1946 for its df).

    Of a difference the images' variance counts 2 `added` images, half of one in favour of each
    side (Agresti and Min 2005): equal verdicts do not show that it is zero.
    """
    values = values_SN.astype(np.float64)
    seeds, images = values.shape
    mean, of_images = float(values.mean()), values.mean(0)

    counted = images + added
    # Half an image at 1 and half at -1 add 1 to the squares and nothing to the sum.
    square = (np.square(of_images).sum() + added / 2) / counted
    image_part = (square - (of_images.sum() / counted) ** 2) / counted
    if seeds == 1:
        return Mean(mean, float(image_part), max(images - 1.0, 1.0), images, seeds)

    of_seeds = values.mean(1)
    rest = values - of_images - of_seeds[:, None] + mean
    df_seeds, df_rest = seeds - 1, (seeds - 1) * max(images - 1, 1)
    seed_part = float(of_seeds.var(ddof=1)) / seeds  # MS of seeds / (S N)
    rest_part = float(np.square(rest).sum()) / df_rest / (seeds * images)

    # a negative estimate of the seeds' share is none, but it was estimated with few degrees too
    variance = max(image_part + seed_part - rest_part, image_part)
    squares = seed_part**2 / df_seeds + image_part**2 / max(images - 1, 1) + rest_part**2 / df_rest
    df = variance**2 / squares if squares > 0 else max(images - 1.0, 1.0)
    return Mean(mean, float(variance), float(df), images, seeds)


def interval(verdicts: list[Verdicts]) -> tuple[float, float] | None:
    """Interval of an accuracy over seeds, one vector each, on the same images; None of two.

    One seed: Wilson's. Several: Wilson's of as many images as have that variance, and t, so it
    stays asymmetric near 0 and 1; never of more images than there are.
    """
    mean = crossed(np.stack(verdicts), added=0)
    if mean.of == "none" or min(v.min(initial=0) for v in verdicts) < 0:  # a regret may be negative
        return mean.spread()
    if mean.seeds == 1:
        return wilson(mean.value, mean.images)

    # p (1 - p) / variance is the number of independent images that would give this variance.
    worth = float(mean.images)
    if mean.variance > 0:
        worth = min(worth, mean.value * (1 - mean.value) / mean.variance)
    return wilson(mean.value, worth, float(special.stdtrit(mean.df, (1 + LEVEL) / 2)))


def paired(ours: list[Verdicts], theirs: list[Verdicts]) -> Mean:
    """Difference of mean accuracies on the same images and seeds, one vector a seed."""
    if len(ours) != len(theirs):
        raise UserError(f"{len(ours)} and {len(theirs)} seeds: no paired difference")
    return crossed(np.stack(ours).astype(np.float64) - np.stack(theirs), added=2)


def numbers(mean: Mean) -> dict[str, float | str | None]:
    """A difference as tables store it; low and high are None of two seeds."""
    low, high = mean.spread() or (None, None)
    return {"difference": mean.value, "low": low, "high": high, "of": mean.of}
