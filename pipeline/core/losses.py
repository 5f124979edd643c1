"""Losses per example, [B], from logits [B, classes]; computed in float32 or wider."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError

TINY = 1e-12  # keeps a quotient or a logarithm of an exact tie finite


def widen(logits: Tensor) -> Tensor:
    """Half precision to float32: 1 - p of a confident bfloat16 p is exactly 0."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _column(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)


def _rival(values: Tensor, labels: Tensor) -> Tensor:
    """The largest value among the wrong classes, [B].

    The true class is masked with -inf: masking by multiplication leaves a 0 that wins against
    log-probabilities and stops the gradient.
    """
    return values.scatter(1, labels[:, None], -math.inf).amax(1)


def _top(logits: Tensor, count: int, loss: str) -> Tensor:
    """The largest logits, descending, [B, count]."""
    if logits.shape[1] < count:
        raise UserError(
            f"params.yaml: attacks: loss {loss} needs {count} classes or more, the model has "
            f"{logits.shape[1]}: use ce or margin"
        )
    return widen(logits).topk(count, dim=1).values


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y."""
    return F.cross_entropy(widen(logits), labels, reduction="none")


def label_smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy to (1 - smoothing) onehot(y) + smoothing / classes (Szegedy et al. 2016)."""
    return F.cross_entropy(widen(logits), labels, reduction="none", label_smoothing=smoothing)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y - log(1.0001 - max_{k != y} p_k): MART's BCE with its code's offset (Wang 2020)."""
    logits = widen(logits)
    rival = _rival(logits.softmax(1), labels)
    return cross_entropy(logits, labels) - torch.log(1.0001 - rival + TINY)


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(softmax p || softmax q); the gradient flows into both."""
    # In logarithms: a probability that rounds to 0 adds 0, and no NaN.
    log_p = widen(p_logits).log_softmax(1)
    log_q = widen(q_logits).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js_divergence(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence of softmax(p / T) and softmax(q / T) (Tack et al. 2022)."""
    log_p = (widen(p_logits) / temperature).log_softmax(1)
    log_q = (widen(q_logits) / temperature).log_softmax(1)
    # log((p + q) / 2), which stays finite where p or q underflows
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    to_p = (log_p.exp() * (log_p - log_mean)).sum(1)
    to_q = (log_q.exp() * (log_q - log_mean)).sum(1)
    return (to_p + to_q) / 2


def true_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """p_y, differentiable."""
    return _column(widen(logits).softmax(1), labels)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{k != y} z_k - z_y: positive where the example is misclassified."""
    logits = widen(logits)
    return _rival(logits, labels) - _column(logits, labels)


def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{k != y} p_k - p_y, in [-1, 1] (PMA, Xie et al. 2024)."""
    return margin(widen(logits).softmax(1), labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, (max_{k != y} z_k - z_y) / (z_(1) - z_(3)), 3 classes or more.

    Unchanged by scaling and shifting the logits (Croce and Hein 2020, Eq. 6).
    """
    top = _top(logits, 3, "dlr")
    # The gradient flows through the scale too, as in the authors' code.
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """z_t - z_y: positive where the target class beats the true one."""
    logits = widen(logits)
    return _column(logits, targets) - _column(logits, labels)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), 4 classes or more (Croce, Hein 2020, Eq. 7)."""
    top = _top(logits, 4, "dlr_targeted")
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return gap(logits, labels, targets) / (scale + TINY)


def soft_minimum(losses_KB: Tensor, sigma: float) -> Tensor:
    """-sigma log sum_k exp(-l_k / sigma), [B]: within sigma log K below the members' least loss.

    Its gradient weighs each member's by softmax(-l / sigma) (SoE, Cui et al. 2022, Eq. 6).
    """
    return -sigma * (-losses_KB / sigma).logsumexp(0)
