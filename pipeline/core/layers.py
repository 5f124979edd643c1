"""Parts the nets share: the normalising first layer, numbered taps, and gated residual blocks.

A tap is an activation that methods and attacks may read, always before its non-linearity (DVERGE,
Yang et al. 2020). Blocks therefore take pre-activations and apply the non-linearity themselves.
No layer works in place, because several losses differentiate twice.
"""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.core.losses import widen
from pipeline.errors import UserError


class _ScaleGradient(torch.autograd.Function):
    generate_vmap_rule = True  # members may run stacked, under torch.func.vmap

    @staticmethod
    def forward(x: Tensor, gamma: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.gamma = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.gamma, None


def scale_gradient(x: Tensor, gamma: float) -> Tensor:
    """The bits of x; the gradient through it is multiplied by gamma."""
    if gamma == 1:
        return x
    return cast(Tensor, _ScaleGradient.apply(x, gamma))  # type: ignore[no-untyped-call]


class Normalise(nn.Module):
    """(images - mean) / std per channel, for images in [0, 1]; mean 0 and std 1 is the identity."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        if not len(mean) == len(std) == channels:
            raise UserError(
                f"mean {mean} and std {std} need one value for each of {channels} channels"
            )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, C, H, W]."""
        return (images - self.mean) / self.std


class Step(nn.Sequential):
    """Layers in a row whose output is one tap, or none when `tapped` is false."""

    def __init__(self, *layers: nn.Module, tapped: bool = True) -> None:
        super().__init__(*layers)
        self.taps = int(tapped)

    def trace(self, x: Tensor) -> Generator[Tensor, None, Tensor]:
        """Yield the taps, return the output."""
        x = self(x)
        if self.taps:
            yield x
        return x


class Residual(nn.Module):
    """h = enter(x); y = shortcut(h) + rest(first(h)); the taps are first(h) and y.

    `skip_gamma` scales the gradient that goes back through the branch, never the value (Skip
    Gradient Method, Wu et al. 2020: dy/dh = shortcut' + gamma branch').
    """

    taps = 2

    def __init__(
        self, enter: nn.Module, first: nn.Module, rest: nn.Module, shortcut: nn.Module
    ) -> None:
        super().__init__()
        self.enter, self.first, self.rest, self.shortcut = enter, first, rest, shortcut
        self.skip_gamma = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """The block's output y."""
        h = self.enter(x)
        return self._join(h, self.first(h))

    def trace(self, x: Tensor) -> Generator[Tensor, None, Tensor]:
        """Yield the taps, return the output."""
        h = self.enter(x)
        middle = self.first(h)
        yield middle
        y = self._join(h, middle)
        yield y
        return y

    def _join(self, h: Tensor, middle: Tensor) -> Tensor:
        branch = scale_gradient(self.rest(middle), self.skip_gamma)
        return cast(Tensor, self.shortcut(h) + branch)


def set_skip_gamma(module: nn.Module, gamma: float) -> None:
    """Scale the branch gradient of every residual block by gamma; 1 is the plain sum."""
    blocks = [block for block in module.modules() if isinstance(block, Residual)]
    if not blocks:
        raise UserError("skip gradients: this net has no residual block; choose another surrogate")
    for block in blocks:
        block.skip_gamma = gamma


@contextmanager
def skip_gamma(module: nn.Module, gamma: float) -> Iterator[None]:
    """Scale the branch gradients by gamma for a while, and leave them as they were."""
    if gamma == 1:  # nets without residual blocks have nothing to scale
        yield
        return
    blocks = [block for block in module.modules() if isinstance(block, Residual)]
    before = [block.skip_gamma for block in blocks]
    set_skip_gamma(module, gamma)
    try:
        yield
    finally:
        for block, value in zip(blocks, before, strict=True):
            block.skip_gamma = value


class Net(nn.Module):
    """A classifier: normalise, stem (first tap), body, tail (to [B, width]), head (last tap).

    `depths` is the number of taps, `width` what the head reads.
    """

    def __init__(
        self,
        normalise: Normalise,
        stem: nn.Module,
        body: Iterable[Step | Residual],
        tail: nn.Module,
        head: nn.Linear,
    ) -> None:
        super().__init__()
        pieces = list(body)
        self.normalise, self.stem, self.body = normalise, stem, nn.Sequential(*pieces)
        self.tail, self.head = tail, head
        self.depths = 2 + sum(piece.taps for piece in pieces)
        self.width = head.in_features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W] in [0, 1]."""
        return self.classify(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """What the head reads: [B, width]."""
        return cast(Tensor, self.tail(self.body(self.stem(self.normalise(images)))))

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits [B, classes] of what the head reads, float32 or wider: whoever takes their softmax
        takes it in that, for in bfloat16 that of a sure net is exactly 1."""
        return widen(self.head(pooled))

    def features(self, images: Tensor, depth: int) -> Tensor:
        """The activation at tap `depth`, 1 to `depths`; nothing behind it is computed."""
        if not 1 <= depth <= self.depths:
            raise UserError(f"feature tap {depth} does not exist: this net has 1 to {self.depths}")
        if depth == self.depths:
            return self.forward(images)
        return next(islice(self._trace(images), depth - 1, None))

    def _trace(self, images: Tensor) -> Iterator[Tensor]:
        x: Tensor = self.stem(self.normalise(images))
        yield x
        for piece in cast("Iterable[Step | Residual]", self.body):
            x = yield from piece.trace(x)


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = False
) -> nn.Conv2d:
    """A convolution padded so that stride 1 keeps the map's size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch normalisation."""
    return nn.Sequential(conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs))


def global_pool() -> nn.Sequential:
    """Mean over the map: [B, d, H, W] to [B, d], for maps of any size."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def basic_block(
    inputs: int, outputs: int, stride: int, act: nn.Module, shortcut: nn.Module
) -> Residual:
    """Basic block of He et al. 2016a; x is the last block's sum, before its activation."""
    rest = nn.Sequential(act, conv_bn(outputs, outputs))
    return Residual(act, conv_bn(inputs, outputs, stride=stride), rest, shortcut)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Shortcut option B: identity where shapes agree, else 1x1 convolution and BN."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return conv_bn(inputs, outputs, kernel=1, stride=stride)


def preact_block(inputs: int, outputs: int, stride: int, act: nn.Module) -> Residual:
    """Pre-activation block of He et al. 2016b.

    A projection reads the activated input and has no BN; an identity reads the raw input.
    """
    enter = nn.Sequential(nn.BatchNorm2d(inputs), act)
    first = conv_bn(inputs, outputs, stride=stride)
    rest = nn.Sequential(act, conv(outputs, outputs))
    if inputs == outputs and stride == 1:
        return Residual(nn.Identity(), nn.Sequential(enter, first), rest, nn.Identity())
    return Residual(enter, first, rest, conv(inputs, outputs, kernel=1, stride=stride))


def block_shapes(stem: int, widths: list[int], blocks: int) -> Iterator[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block; every stage but the first halves the map."""
    inputs = stem
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            yield inputs, outputs, 2 if stage and not block else 1
            inputs = outputs


def init_fan_in(module: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k k inputs)), He et al. 2015; biases stay."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")


def init_fan_out(module: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k k outputs)), He et al. 2015; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
