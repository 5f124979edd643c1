"""A network with its batch normalisation folded into its convolutions: the same function, faster.

Training examples and attacks of thousands of passes climb it; verdicts are always those of the
network itself.
"""

from copy import copy
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

OF_CONV = {"weight", "bias"}


def folded(model: nn.Module, *, is_cast: bool = False, keeps_layout: bool = False) -> nn.Module:
    """The model in evaluation mode up to rounding; it shares all but the folded convolutions.

    Whatever cannot be folded is the model's own, and a model with nothing to fold is returned.
    A model that generates its weights says by `fixed` which net it is just now. is_cast: under
    autocast, which must then hold at every pass, weights are stored as each pass would cast them.
    keeps_layout: activations lie as the model's own do; a model says so for all that is below it.
    """
    keeps_layout = keeps_layout or getattr(model, "keeps_layout", False)
    # Not asked of a user's network, whose word may mean something else.
    fixed = None if keeps_layout else getattr(model, "fixed", None)
    if fixed is not None and not model.training:
        model = fixed()

    children = {
        name: child and folded(child, is_cast=is_cast, keeps_layout=keeps_layout)
        for name, child in model._modules.items()
    }
    # Only a Sequential's own forward is sure to run its layers in their order.
    if type(model).forward is nn.Sequential.forward:
        children = _folded_pairs(children, is_cast, keeps_layout)
    if list(children.items()) == list(model._modules.items()):
        return model

    # A shallow copy shares its dictionaries with the model: replace them, never write into them.
    clone = copy(model)
    clone.__dict__["_modules"] = children
    return clone


def _folded_pairs(
    layers: dict[str, nn.Module | None], is_cast: bool, keeps_layout: bool
) -> dict[str, nn.Module | None]:
    """Layers in a row, each convolution with the normalisation that follows it, whose place stays:
    somebody's `layers[:3]` must mean the same."""
    kept: dict[str, nn.Module | None] = {}
    last = ""
    for name, layer in layers.items():
        before = kept.get(last)
        if _is_plain_conv(before) and _is_fixed(layer):
            kept[last] = _fold(before, layer, is_cast, keeps_layout)
            kept[name] = nn.Identity()
        else:
            kept[name], last = layer, name
    return kept


def _is_plain_conv(layer: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is torch's convolution with its weight and bias, and nothing beside.

    Others may make their weight from what they hold (late, standardised, of low rank, masked).
    """
    if not isinstance(layer, nn.Conv2d) or not _is_as_written(layer, nn.Conv2d):
        return False
    makes_it = type(layer)._conv_forward is not nn.Conv2d._conv_forward
    return not makes_it and "weight" in layer._parameters and set(layer._parameters) <= OF_CONV


def _is_fixed(layer: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a layer is torch's batch normalisation by stored statistics."""
    if not isinstance(layer, nn.BatchNorm2d) or not _is_as_written(layer, nn.BatchNorm2d):
        return False
    return not layer.training and layer.running_mean is not None


def _is_as_written(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer computes what torch's own of this kind does, with nothing hooked on."""
    has_hooks = bool(layer._forward_hooks or layer._forward_pre_hooks)
    return type(layer).forward is kind.forward and not has_hooks


def _channels_last(weight: Tensor) -> Tensor:
    """Weight [out, in, height, width] by the strides of channels_last, said even where in is 1.

    Torch calls a weight of one input channel contiguous in both layouts and then gives out
    channels first, which all layers after it would copy.
    """
    out, channels, height, width = weight.shape
    strides = (channels * height * width, 1, channels * width, channels)
    return weight.new_empty_strided(weight.shape, strides).copy_(weight)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, is_cast: bool, keeps_layout: bool) -> nn.Conv2d:
    """One convolution that does both, in float64 until its weights are rounded once."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)

    # BN(Wx + b) = s (Wx + b - mean) + beta with s = gamma / sqrt(variance + eps)
    scale = (variance.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    bias = -mean.double() if conv.bias is None else conv.bias - mean.double()
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias

    kind = conv.weight.dtype
    weight, bias = (conv.weight * scale[:, None, None, None]).to(kind), bias.to(kind)
    if is_cast and torch.is_autocast_enabled(weight.device.type):
        lower = torch.get_autocast_dtype(weight.device.type)
        weight, bias = weight.to(lower), bias.to(lower)
    if not keeps_layout:
        weight = _channels_last(weight)  # faster everywhere

    both = copy(conv)
    both.__dict__["_parameters"] = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": nn.Parameter(bias, requires_grad=False),
    }
    return both
