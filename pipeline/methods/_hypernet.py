"""Convolutions whose kernels a small linear hypernetwork generates (PS-RED; Ha et al. 2017)."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.core.layers import Net
from pipeline.errors import UserError

KERNEL = 3


class Hypernet(nn.Module):
    """Embeddings [count, embedding] to kernels [count, unit, unit, 3, 3], linear throughout."""

    def __init__(self, embedding: int, unit: int) -> None:
        super().__init__()
        self.unit = unit
        self.widen = nn.Linear(embedding, unit * embedding)
        self.kernel = nn.Linear(embedding, unit * KERNEL**2)

    def forward(self, embeddings: Tensor) -> Tensor:
        """One kernel of unit x unit channels an embedding."""
        rows: Tensor = self.widen(embeddings).view(-1, self.unit, embeddings.shape[1])
        kernels: Tensor = self.kernel(rows)
        return kernels.view(-1, self.unit, self.unit, KERNEL, KERNEL)


class Generated(nn.Module):
    """A net whose convolutions between multiples of `unit` channels are generated.

    The stem, normalisations and the head keep their own weights; a 1x1 convolution is the mean of
    its 3x3 kernel over space. While its weights are frozen in evaluation mode the net generates
    them once, since they depend on no image.
    """

    def __init__(self, net: Net, embedding: int, unit: int, init: str) -> None:
        """`unit` 0 is the net's narrowest width, which is the paper's 64 in a ResNet-18."""
        super().__init__()
        unit = unit or _narrowest(net)
        self.net, self.hyper = net, Hypernet(embedding, unit)
        self._names = [name for name, _ in _convolutions(net, unit)]
        if not self._names:
            raise UserError(
                f"params.yaml: methods: no convolution of this arch joins multiples of {unit} "
                "channels; give ps_red a smaller unit or another arch"
            )
        self._shapes = [tuple(conv.weight.shape) for _, conv in _convolutions(net, unit)]
        scales = [_he(shape) for shape in self._shapes]
        self.embeddings = nn.Parameter(torch.rand(sum(map(self._count, self._shapes)), embedding))
        _draw(self.hyper, self.embeddings, scales, list(map(self._count, self._shapes)), init)
        for _, conv in _convolutions(net, unit):
            values = torch.zeros_like(conv.weight)
            del conv.weight
            conv.register_buffer("weight", values, persistent=False)
        self._is_fresh = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def _count(self, shape: tuple[int, ...]) -> int:
        return shape[0] * shape[1] // self.hyper.unit**2

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        if self.training or any(p.requires_grad for p in self.parameters()):
            self._is_fresh = False
            return cast(Tensor, functional_call(self.net, dict(self.weights()), images))
        if not self._is_fresh:
            for name, weight in self.weights():
                self.net.get_buffer(name).copy_(weight)
            self._is_fresh = True
        return cast(Tensor, self.net(images))

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and generated weights of the convolutions."""
        units = self.hyper(self.embeddings)
        counts = list(map(self._count, self._shapes))
        for name, shape, part in zip(self._names, self._shapes, units.split(counts), strict=True):
            yield name, _assemble(part, shape)


def _assemble(units: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Kernels of unit x unit channels, joined along the inputs, then along the outputs."""
    size = units.shape[1]
    tiles = units.view(shape[0] // size, shape[1] // size, *units.shape[1:])
    weight: Tensor = tiles.permute(0, 2, 1, 3, 4, 5).reshape(*shape[:2], KERNEL, KERNEL)
    return weight if shape[2] == KERNEL else weight.mean((2, 3), keepdim=True)


def _convolutions(net: Net, unit: int) -> list[tuple[str, nn.Conv2d]]:
    """Names of the weights and layers that are generated."""
    return [
        (f"{name}.weight", layer)
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d)
        and name.split(".")[0] != "stem"
        and layer.groups == 1
        and not (layer.in_channels % unit or layer.out_channels % unit)
        and layer.kernel_size in ((KERNEL, KERNEL), (1, 1))
    ]


def _narrowest(net: Net) -> int:
    """Fewest channels of a convolution behind the stem."""
    return min(min(conv.in_channels, conv.out_channels) for _, conv in _convolutions(net, 1))


def _he(shape: tuple[int, ...]) -> float:
    """Standard deviation of He et al. 2015 by fan-in, of the 3x3 kernel."""
    return math.sqrt(2 / (KERNEL**2 * shape[1]))


def _draw(
    hyper: Hypernet, embeddings: nn.Parameter, scales: list[float], counts: list[int], init: str
) -> None:
    """`released`: N(0, 1) folded into (-2, 2), embeddings U(0, 1): kernels of spread in the tens.

    `he`: zero biases and unit-variance chains, embeddings scaled to He et al.'s spread by layer.
    """
    with torch.no_grad():
        if init == "released":
            for parameter in hyper.parameters():
                parameter.normal_().fmod_(2)
            return
        for linear in (hyper.widen, hyper.kernel):
            linear.weight.normal_(0, 1 / math.sqrt(linear.in_features))
            linear.bias.zero_()
        spread = torch.tensor(scales).repeat_interleave(torch.tensor(counts))
        embeddings.normal_().mul_(spread[:, None])


def _forget(module: Any, _: Any) -> None:
    module._is_fresh = False
