"""Verdicts and what is made of them image by image: worst cases, views, members, peers.

A verdict is the share of a victim's members that are right on an image: 0 or 1 unless the
victim is random. Accuracies are fractions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Verdicts = NDArray[np.float32]


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
    # Queries draw independently, each right with this chance.
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
        # argmax takes the first of equals: the lowest class.
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
        # gap has one value an image, gaps one for each member: a mean over what there is.
        margins = arrays[rule].reshape(len(labels), -1)
        mean: Verdicts = margins.mean(1, dtype=np.float32)
        return mean

    member_NK, peers_NK = (arrays[k] == labels[:, None] for k in ("members", "peers"))
    by_rule = {
        "peers": peers_NK,
        "ahead": member_NK & ~peers_NK,
        "behind": peers_NK & ~member_NK,
    }
    share: Verdicts = by_rule[rule].mean(1, dtype=np.float32)
    return share
