"""What a net costs: operations of whatever runs in a context, parameters, multiply-adds."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.core.batchnorm import attack_mode


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas (2 per multiply-add) in `total`.

    torch's FlopCounterMode also tracks modules, by hooks that fail on gradients of leaf images
    only, which is what an attack asks for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to tell torch's compiler so would import it, which takes two seconds a job."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        result = func(*args, **(kwargs or {}))
        # Products and convolutions have a formula; whatever has none counts as nothing.
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.total -= _count_too_much(formula, args, result)
        return result


def _count_too_much(formula: Any, args: Any, result: Any) -> int:
    """What torch's formula adds for a weight's gradient of grouped convolutions: it takes every
    channel of the output for one of every channel of the input."""
    *others, groups, wanted = args
    if groups == 1 or not wanted[1]:
        return 0
    weight = int(formula(*others, groups, [False, True, False], out_val=result))
    return weight - weight // int(groups)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, channels: int, size: int) -> int:
    """Multiply-adds of convolutions and matrix products in one eval-mode forward of one image.

    Biases, normalisation and pooling do not count. `module` keeps its mode and statistics.
    """
    weight = next(module.parameters())
    image = torch.zeros(1, channels, size, size, device=weight.device, dtype=weight.dtype)
    counter = FlopCount()
    with attack_mode(module, "eval") as net, torch.no_grad(), counter:
        net(image)
    return counter.total // 2  # one multiply-add is two operations
