"""The one iterative attack loop, and the worst case over several attempts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pipeline.core.losses import margin
from pipeline.core.norms import Norm, per_image, project, steepest
from pipeline.errors import UserError

Forward: TypeAlias = Callable[[Tensor], Tensor]  # images -> logits
Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # logits, rows -> [len(rows)], ascended
Attempt: TypeAlias = Callable[[Tensor], Tensor]  # rows, int64 -> perturbed images of those rows


def is_random(model: nn.Module) -> bool:
    """Whether two forwards of the model may differ, so that one fooled draw proves nothing."""
    return bool(getattr(model, "random", False))


def on_labels(loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor) -> Objective:
    """The objective of a loss(logits, labels)."""
    return lambda logits, rows: loss(logits, labels[rows])


def restrict(objective: Objective, rows: Tensor) -> Objective:
    """The objective as seen by a batch that holds only these rows."""
    return lambda logits, inner: objective(logits, rows[inner])


def refuse_random(model: nn.Module, what: str) -> None:
    """Raise for an attack that would take one lucky draw of a random model for a success."""
    if is_random(model):
        raise UserError(
            f"params.yaml: attacks: {what} takes one lucky draw of a random model for a success: "
            "attack the mean of its members instead"
        )


def rank_rivals(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The most likely wrong classes, likeliest first, int64 [B, count or all that there are]."""
    # -inf, so that the true class never ranks, whatever the scores are.
    masked = logits.scatter(1, labels[:, None], -torch.inf)
    return masked.topk(min(count, logits.shape[1] - 1), dim=1).indices


def input_gradient(
    forward: Forward, objective: Objective, images: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, objective [B] and its gradient in the images alone; 0 where nothing depends on them.

    Each example has its own gradient, whatever the batch; parameters' gradients stay untouched.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = forward(images)
        values = objective(logits, rows)
    return logits.detach(), values.detach(), gradient_in(images, values)


def gradient_in(images: Tensor, values: Tensor, keep_graph: bool = False) -> Tensor:
    """Gradient in the images of values [B], each of its own image; 0 where nothing depends."""
    if not values.requires_grad:
        return torch.zeros_like(images)

    # The gradient of the sum, not of the mean: it does not shrink with the batch. (To hand autograd
    # ones instead makes it import a library for symbols, which takes most of a second a job.)
    with torch.enable_grad():
        total = values.sum()
    (gradient,) = torch.autograd.grad(
        total, images, retain_graph=keep_graph, materialize_grads=True
    )
    return gradient


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Projected steps up an objective (Madry et al. 2018), with momentum (Dong et al. 2018, Eq. 6).

    `decay` 0 is no momentum. With `any_iterate` a sample stops at the first iterate (start
    included, last excluded) that is misclassified and leaves the batch: no extra forward.
    """

    norm: Norm
    eps: float
    step_size: float
    steps: int
    decay: float
    any_iterate: bool

    def climb(
        self, forward: Forward, objective: Objective, images: Tensor, labels: Tensor, start: Tensor
    ) -> Tensor:
        """Perturbed images after the steps, detached, in ball and box."""
        rows = torch.arange(len(images), device=images.device)
        result, moved = start.detach().clone(), start.detach()
        momentum = torch.zeros_like(moved) if self.decay else None
        for _ in range(self.steps):
            logits, _, gradient = input_gradient(forward, objective, moved, rows)

            if self.any_iterate:
                right = logits.argmax(1) == labels[rows]
                if not right.all():
                    # The rows that are still right are written again later.
                    result[rows] = moved
                    rows, moved, gradient = rows[right], moved[right], gradient[right]
                    momentum = momentum[right] if momentum is not None else None
                if not len(rows):
                    break

            if momentum is not None:
                momentum = gradient = self.decay * momentum + unit_mean(gradient)
            moved = moved + self.step_size * steepest(self.norm, gradient)
            moved = project(self.norm, moved, images[rows], self.eps)

        result[rows] = moved
        return result


def unit_mean(gradients: Tensor) -> Tensor:
    """Gradients divided by their mean absolute value per image; 0 stays 0."""
    # Dong et al. divide by the l1 norm: a constant factor, which no direction feels.
    tiny = torch.finfo(gradients.dtype).tiny
    sizes = gradients.flatten(1).abs().mean(1).clamp_min(tiny)
    return gradients / per_image(sizes, gradients)


@torch.no_grad()
def keep_worst(
    attempts: Sequence[Attempt], model: nn.Module, images: Tensor, labels: Tensor, votes: int
) -> Tensor:
    """Per sample the attempt with the largest margin, detached: a logical AND over the attempts.

    A fooled sample leaves before the next attempt. Under a random model one fooled draw proves
    nothing: no sample leaves and margins are means over `votes` forwards. A single attempt is
    returned as it is, without a forward.
    """
    rows = torch.arange(len(images), device=images.device)
    if len(attempts) == 1:
        return attempts[0](rows)

    result = images.clone()
    worst = torch.full((len(images),), -torch.inf, device=images.device)
    for attempt in attempts:
        candidates = attempt(rows)
        margins, fooled = _verdict(model, candidates, labels[rows], votes)
        # A tie of logits has margin 0 whether it fools or not: being fooled counts first.
        better = fooled | (margins > worst[rows])
        result[rows[better]], worst[rows[better]] = candidates[better], margins[better]

        rows = rows[~fooled]
        if not len(rows):
            break
    return result


def _verdict(model: nn.Module, images: Tensor, labels: Tensor, votes: int) -> tuple[Tensor, Tensor]:
    """Margins [B], and which are fooled for good, bool [B]: none if the model is random."""
    if is_random(model):
        margins = torch.stack([margin(model(images), labels) for _ in range(votes)]).mean(0)
        return margins, torch.zeros_like(labels, dtype=torch.bool)

    logits = model(images)
    return margin(logits, labels), logits.argmax(1) != labels
