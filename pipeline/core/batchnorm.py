"""Batch normalisation: which statistics a forward uses, and re-estimating them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.folding import folded


def layers(module: nn.Module) -> list[_BatchNorm]:
    """The batch-normalisation layers of a module, in order."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def attack_mode(module: nn.Module, mode: str, *, is_cast: bool = False) -> Iterator[nn.Module]:
    """What training examples climb, in a mode: `in_mode`'s, in evaluation mode folded once for all
    steps, since the net is a fixed function there (is_cast: see folding.py)."""
    with in_mode(module, mode):
        yield folded(module, is_cast=is_cast) if mode == "eval" else module


@contextmanager
def in_mode(module: nn.Module, mode: str) -> Iterator[None]:
    """The module in a mode, which is restored afterwards, layer by layer.

    eval: running statistics. train_frozen: batch statistics, running ones untouched. train_update:
    batch statistics, running ones updated by every forward (released AUTE, RED).
    """
    before = [(m, m.training) for m in module.modules()]
    tracked = [(m, m.track_running_stats) for m in layers(module)]

    module.train(mode != "eval")
    for layer, _ in tracked:
        # In training mode and without it, torch normalises by the batch and stores nothing.
        layer.track_running_stats = mode != "train_frozen"
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
        for layer, flag in tracked:
            layer.track_running_stats = flag


def reestimate(
    model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object]
) -> None:
    """Running statistics as the mean of the batches' statistics, weighted by the batches' sizes.

    Independent of the batches' order up to rounding. The model ends in evaluation mode.
    """
    norm_layers, seen = layers(model), 0
    momenta = [layer.momentum for layer in norm_layers]
    for layer in norm_layers:
        layer.reset_running_stats()

    model.train()
    for images in batches:
        seen += len(images)
        for layer in norm_layers:
            # running <- (1 - m) running + m batch: with this m it is the mean of all so far.
            layer.momentum = len(images) / seen  # a short last batch weighs less
        with torch.no_grad():
            forward(images)

    model.eval()
    for layer, momentum in zip(norm_layers, momenta, strict=True):
        layer.momentum = momentum


def median_of_ema(
    model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object]
) -> None:
    """Running statistics as the median over a pass of their exponential average (MEAT's code).

    They start at mean 0 and variance 1; the pass keeps each layer's momentum.
    """
    norm_layers = layers(model)
    traces: list[list[Tensor]] = [[] for _ in range(2 * len(norm_layers))]
    for layer in norm_layers:
        layer.reset_running_stats()

    model.train()
    for images in batches:
        with torch.no_grad():
            forward(images)
        for trace, statistic in zip(traces, _statistics(norm_layers), strict=True):
            trace.append(statistic.clone())

    model.eval()
    for trace, statistic in zip(traces, _statistics(norm_layers), strict=True):
        # quantile takes the mean of two middle values, torch's median the lower one.
        statistic.copy_(torch.stack(trace).quantile(0.5, dim=0))


def _statistics(norm_layers: list[_BatchNorm]) -> list[Tensor]:
    """Running means and variances of the layers."""
    pairs = [(layer.running_mean, layer.running_var) for layer in norm_layers]
    return [s for pair in pairs for s in pair if s is not None]
