"""How differently members predict: entropy of the mean and volume of non-true predictions."""

import torch
from torch import Tensor

from pipeline.errors import UserError


def mean_entropy(probs_KBC: Tensor) -> Tensor:
    """Entropy of the members' mean prediction, [B], in nats (ADP's first regulariser)."""
    mean = probs_KBC.mean(0)
    return -(mean * (mean + 1e-20).log()).sum(-1)


def check_volume(members: int, classes: int) -> None:
    """Raise UserError for more members than can span a volume."""
    if members > classes - 1:
        raise UserError(
            f"params.yaml: methods: {members} members in {classes} classes span no volume; take "
            f"at most {classes - 1} members, or weight 0 for ADP's volume"
        )


def weigh_diversity(probs_KBC: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """-alpha H - beta log det, [B]; a weight of 0 computes nothing."""
    regulariser = probs_KBC.new_zeros(len(labels))
    if alpha:
        regulariser = regulariser - alpha * mean_entropy(probs_KBC)
    if beta:
        regulariser = regulariser - beta * log_volume(probs_KBC, labels)
    return regulariser


def log_volume(probs_KBC: Tensor, labels: Tensor) -> Tensor:
    """ADP's second regulariser, [B]: log det(M'M + 1e-6 I).

    The columns of M are the members' predictions without the true class, of unit length. At
    most 0 up to the 1e-6 (Pang et al., ICML 2019). In float64, since the determinant of members
    that agree is of the size of float32's rounding. More than classes - 1 members span none.
    """
    wrong_BKC = probs_KBC.transpose(0, 1).to(torch.float64)
    # A row of zeros spans nothing: the true class is left out without a choice that a GPU waits on.
    wrong_BKC = wrong_BKC.scatter(-1, labels[:, None, None].expand(-1, len(probs_KBC), 1), 0)
    unit_BKC = wrong_BKC / wrong_BKC.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    # det(M'M) of unit columns is the squared volume that they span.
    gram_BKK = unit_BKC @ unit_BKC.transpose(1, 2)
    ridge = 1e-6 * torch.eye(len(probs_KBC), dtype=gram_BKK.dtype, device=gram_BKK.device)
    return torch.logdet(gram_BKK + ridge).to(probs_KBC.dtype)
