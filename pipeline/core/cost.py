"""What a net costs: its parameters, and its multiply-adds for one image."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, channels: int, size: int) -> int:
    """Multiply-adds of convolutions and matrix products in one eval-mode forward of one image.

    Biases, normalisation and pooling do not count. The forward runs on a copy without data, so
    `module` keeps its mode, weights and statistics, and nothing is computed.
    """
    images = torch.empty(1, channels, size, size, device="meta", dtype=_dtype(module))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        _without_data(module).eval()(images)
    return int(counter.get_total_flops()) // 2  # one multiply-add is two operations


def _without_data(module: nn.Module) -> nn.Module:
    """A deep copy whose tensors are on the meta device; no weight is copied."""
    tensors = [*module.parameters(), *module.buffers()]
    shells = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    return copy.deepcopy(module, shells)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
