"""What a net costs: operations of whatever runs in a context, parameters, multiply-adds."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas (2 per multiply-add) in `total`.

    torch's FlopCounterMode also tracks modules, by hooks that fail on gradients of leaf images
    only, which is what an attack asks for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        result = func(*args, **(kwargs or {}))
        # Products and convolutions have a formula; whatever has none counts as nothing.
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


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
    # deepcopy takes what its memo holds for copied: the shells stand in for the tensors.
    return copy.deepcopy(module, shells)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
