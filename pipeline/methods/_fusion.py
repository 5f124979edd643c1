"""Several models' answers to one: weights by loss, or the closest point of their hull (AT-AKA)."""

from itertools import combinations

import torch
from torch import Tensor


def weigh(rule: str, losses_KB: Tensor, sharpness: float) -> Tensor:
    """Weights [members, B] that sum to 1 and favour the members with a high loss.

    naive: the one with the highest loss. linear: l / sum l. soft: softmax(sharpness l).
    """
    if rule == "naive":
        highest = losses_KB.argmax(0, keepdim=True)
        return torch.zeros_like(losses_KB).scatter(0, highest, 1)
    if rule == "linear":
        shares = losses_KB + 1e-12  # equal weights where every loss is 0
        return shares / shares.sum(0)
    return (sharpness * losses_KB).softmax(0)


def fuse(weights_KB: Tensor, values_KBC: Tensor) -> Tensor:
    """Weighted sum of the members' values, [B, classes]."""
    return (weights_KB[..., None] * values_KBC).sum(0)


def fuse_probs(weights_KB: Tensor, logits_KBC: Tensor) -> Tensor:
    """Logarithm of the members' weighted probabilities, [B, classes].

    A sum of logarithms, so finite where every member's probability of a class rounds to 0.
    """
    return (logits_KBC.log_softmax(-1) + weights_KB[..., None].log()).logsumexp(0)


@torch.no_grad()
def find_closest(point_BC: Tensor, corners_KBC: Tensor) -> Tensor:
    """Weights [members, B] of the point of the corners' hull that is closest to `point`.

    Exact: the closest point of every face's plane that lies in the face, and of those the best.
    """
    corners_BKC = corners_KBC.transpose(0, 1).double()
    point_BC = point_BC.double()
    best = point_BC.new_full((len(point_BC),), torch.inf)
    chosen = point_BC.new_zeros(len(point_BC), len(corners_KBC))

    for size in range(1, len(corners_KBC) + 1):
        for face in combinations(range(len(corners_KBC)), size):
            found = _on_plane(point_BC, corners_BKC[:, face])
            weights_BK = torch.zeros_like(chosen)
            # Rounding may put a point of an edge outside: clamp it, and let the sum be 1 again.
            weights_BK[:, face] = found.clamp_min(0)
            weights_BK = weights_BK / weights_BK.sum(1, keepdim=True).clamp_min(1e-12)

            near = (weights_BK[:, None] @ corners_BKC)[:, 0]
            distance = (near - point_BC).square().sum(1)
            # The closest point of the plane counts only where it lies in the face.
            distance = distance.where((found >= -1e-9).all(1), torch.inf)

            better = distance < best
            best[better], chosen[better] = distance[better], weights_BK[better]
    return chosen.T.to(corners_KBC.dtype)


def _on_plane(point_BC: Tensor, corners_BKC: Tensor) -> Tensor:
    """Weights, summing to 1, of the plane's point that is closest; [B, size]."""
    origin = corners_BKC[:, :1]
    directions = (corners_BKC[:, 1:] - origin).transpose(1, 2)
    target = (point_BC - origin[:, 0])[..., None]
    # pinv, for corners that coincide leave directions without full rank.
    rest = (torch.linalg.pinv(directions) @ target)[..., 0]
    return torch.cat([1 - rest.sum(1, keepdim=True), rest], 1)
