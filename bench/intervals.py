"""How often each interval is wrong: type I error for two equal methods, coverage of an accuracy.

Verdicts are simulated: an image's difficulty is common to all nets, every training shifts its net,
and what is left is noise of one net on one image. `methods`: every repetition trains anew, so a
difference of methods is 0. `nets`: the nets stay, the images are drawn anew.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.core import intervals

SHARED = 0.8  # of the latent variance, what all nets have in common
IMAGES = (600, 10_000)
REPETITIONS = 4000  # of a cell: 5 % is known to 0.7 points
DEVIATIONS = (0.0, 0.4, 0.8, 1.35)  # of an accuracy over seeds, in points: measured 0.1 to 3.6


def draw(
    generator: np.random.Generator, nets: NDArray[np.floating], images: int
) -> NDArray[np.float32]:
    """Verdicts [..., images] of nets whose latent accuracies are `nets`, on new images."""
    common = generator.normal(size=images) * np.sqrt(SHARED)
    own = generator.normal(size=(*nets.shape, images)) * np.sqrt(1 - SHARED)
    return (nets[..., None] + common + own > 0).astype(np.float32)


def errors(
    seeds: int, images: int, deviation: float, repetitions: int, accuracy: float = 0.5
) -> tuple[float | None, float, float | None]:
    """Share of intervals of two equal methods that exclude 0, half-width in points, and coverage.

    None where the project gives no interval.
    """
    generator = np.random.default_rng(0)
    latent = float(stats.norm.ppf(accuracy))
    shift = deviation / 100 / stats.norm.pdf(latent)
    wrong, halves, covered = 0, [], 0
    for _ in range(repetitions):
        nets = latent + generator.normal(size=(2, seeds)) * shift
        a, b = draw(generator, nets, images)
        bounds = intervals.paired(list(a), list(b)).spread()
        whole = intervals.interval(list(a))
        if bounds is None or whole is None:
            return None, float("nan"), None
        wrong += not bounds[0] <= 0 <= bounds[1]
        halves.append(50 * (bounds[1] - bounds[0]))
        covered += whole[0] <= accuracy <= whole[1]
    return wrong / repetitions, float(np.mean(halves)), covered / repetitions


def main() -> None:
    """The table of bench/RESULTS.md."""
    print("| seeds | images | SD over seeds | said of | type I error | half-width | coverage |")
    print("|---|---|---|---|---|---|---|")
    for seeds in (1, 2, 3, 5):
        for images in IMAGES:
            for deviation in DEVIATIONS:
                found = errors(seeds, images, deviation, REPETITIONS)
                of = "nets" if seeds == 1 else "methods"
                texts = [
                    "none" if found[0] is None else f"{100 * found[0]:.1f} %",
                    "none" if found[0] is None else f"{found[1]:.1f}",
                    "none" if found[2] is None else f"{100 * found[2]:.1f} %",
                ]
                line = [seeds, images, deviation, of, *texts]
                print("| " + " | ".join(map(str, line)) + " |", flush=True)


if __name__ == "__main__":
    main()
