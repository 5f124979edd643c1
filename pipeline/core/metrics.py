"""Accuracies with intervals, paired comparisons: everything a table says about verdicts.

A verdict is the share of a victim's members that are right on an image: 0 or 1 unless the
victim is random. Accuracies are fractions.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Verdicts = NDArray[np.float32]

Z95 = 1.959963984540054
RESAMPLES = 10_000
BLOCK = 500  # resamples at a time, which bounds memory


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); never empty, never outside [0, 1]."""
    if images == 0:
        return 0.0, 1.0
    shrink = 1 + Z95**2 / images
    centre = (accuracy + Z95**2 / (2 * images)) / shrink
    variance = accuracy * (1 - accuracy) / images + Z95**2 / (4 * images**2)
    half = Z95 * math.sqrt(variance) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def worst(verdicts: list[Verdicts]) -> Verdicts:
    """Per-image worst case: right only under every attack (least expected accuracy if random)."""
    least: Verdicts = np.minimum.reduce(verdicts)
    return least


def view(rule: str, shares: Verdicts) -> Verdicts:
    """Of the share of members that are right: whether all are, or the chance over k queries.

    An attacker who may ask again wins against random inference once a draw is wrong: `k10` is the
    chance that ten draws are right. Both are the verdict itself unless the victim is random.
    """
    if rule == "all":
        return (shares >= 1).astype(np.float32)
    chance: Verdicts = shares ** int(rule.removeprefix("k"))
    return chance


def size(rule: str, sizes: NDArray[Any]) -> float | None:
    """Of images that an attack fooled: the median l2 distance, or the mean number of pixels."""
    if not len(sizes):
        return None
    return float(np.median(sizes) if rule == "l2" else np.mean(sizes))


def of_members(
    rule: str, right: Verdicts, said_NK: NDArray[np.int16], labels: NDArray[np.int64]
) -> Verdicts:
    """Verdicts that the members' predictions alone allow.

    oracle: some member is right; none: no member is, so that no rule could be. vote: the most
    frequent prediction is, ties to the lowest class.
    alone: share of members that are right. regret: oracle minus the victim itself, so 1 where its
    rule chose wrongly among members one of which was right.
    """
    right_NK = said_NK == labels[:, None]
    if rule == "vote":
        votes = [np.bincount(said).argmax() for said in said_NK]
        voted: Verdicts = (np.array(votes) == labels).astype(np.float32)
        return voted
    if rule == "alone":
        alone: Verdicts = right_NK.mean(1, dtype=np.float32)
        return alone
    oracle: Verdicts = right_NK.any(1).astype(np.float32)
    if rule == "none":
        return 1 - oracle
    return oracle if rule == "oracle" else oracle - right


def of_peers(rule: str, arrays: Mapping[str, NDArray[Any]], labels: NDArray[np.int64]) -> Verdicts:
    """Members against their peers, the mean probability of all others; means over members.

    peers: share of peers that are right. ahead: share of members that are right where their peers
    are not; behind: the reverse. gap: the ensemble's probability margin p_y - max p_k, in [-1, 1];
    gaps: its members' mean.
    """
    if rule in ("gap", "gaps"):
        margins = arrays[rule].reshape(len(labels), -1)
        mean: Verdicts = margins.mean(1, dtype=np.float32)
        return mean
    member_NK, peers_NK = (arrays[k] == labels[:, None] for k in ("members", "peers"))
    found = {
        "peers": peers_NK,
        "ahead": member_NK & ~peers_NK,
        "behind": peers_NK & ~member_NK,
    }
    share: Verdicts = found[rule].mean(1, dtype=np.float32)
    return share


def interval(verdicts: list[Verdicts], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean accuracy over seeds (one vector each, on the same images).

    One seed: Wilson. Several: bootstrap over images and seeds together.
    """
    if len(verdicts) == 1 and verdicts[0].min(initial=0) >= 0:  # a regret may be negative
        return wilson(float(verdicts[0].mean()), len(verdicts[0]))
    return _bootstrap(np.stack(verdicts), seed)


def paired(ours: list[Verdicts], theirs: list[Verdicts], seed: int = 0) -> dict[str, float]:
    """Difference of mean accuracies on the same images, with a 95 % bootstrap interval."""
    a, b = np.stack(ours), np.stack(theirs)
    if a.shape != b.shape:  # other numbers of seeds: compare their means per image
        a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
    low, high = _bootstrap(a - b, seed)
    return {"difference": float((a - b).mean()), "low": low, "high": high}


def _bootstrap(values_SN: NDArray[np.float32], seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over [seeds, images], both resampled.

    Images with equal values are drawn together: their number is what a draw of images decides.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    seeds, images = values_SN.shape
    kinds_SU, sizes = np.unique(values_SN.astype(np.float64), axis=1, return_counts=True)
    means = []
    for _ in range(RESAMPLES // BLOCK):
        counts_BU = generator.multinomial(images, sizes / images, size=BLOCK)
        chosen_BS = generator.integers(seeds, size=(BLOCK, seeds))
        sums_B = sum((kinds_SU[chosen_B] * counts_BU).sum(1) for chosen_B in chosen_BS.T)
        means.append(sums_B / (images * seeds))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
