"""Random directions in the space of weights, normalised by filter (Li et al., NeurIPS 2018)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination

Direction = dict[str, Tensor]  # by parameter of the victim
TINY = 1e-10  # the source's, beside the norm of a filter of the direction


def directions(victim: Combination, seed: int, axis: int) -> Direction:
    """A Gaussian direction whose every filter is as long as the victim's own.

    A filter is what a weight's first axis counts: an output channel of a convolution, a row of a
    linear layer. Biases and batch-norm's parameters have one axis and stay where they are, and so
    do its statistics (the source's `biasbn`). So a convolution's scale, which the batch-norm
    behind it undoes, does not change the picture.
    """
    return {
        name: _direction(weight, derive(seed, "direction", axis, name))
        for name, weight in victim.named_parameters()
    }


def _direction(weight: Tensor, key: int) -> Tensor:
    if weight.ndim <= 1:
        return torch.zeros_like(weight)
    rows = torch.arange(len(weight), device=weight.device)
    drawn = Draws(key, rows).normal(*weight.shape[1:]).to(weight.dtype)
    normalised: Tensor = drawn * (_lengths(weight) / (_lengths(drawn) + TINY))
    return normalised


def _lengths(weight: Tensor) -> Tensor:
    """Norm of each filter, [filters, 1, ...]."""
    lengths: Tensor = weight.detach().flatten(1).norm(dim=1)
    return lengths.view(-1, *[1] * (weight.ndim - 1))


@contextmanager
def moved(victim: Combination, *steps: tuple[float, Direction]) -> Iterator[None]:
    """The victim at its weights plus these multiples of directions; back at its own afterwards."""
    own = {name: weight.detach().clone() for name, weight in victim.named_parameters()}
    try:
        with torch.no_grad():
            for name, weight in victim.named_parameters():
                weight.copy_(own[name] + sum(size * way[name] for size, way in steps))
        yield
    finally:
        with torch.no_grad():
            for name, weight in victim.named_parameters():
                weight.copy_(own[name])
