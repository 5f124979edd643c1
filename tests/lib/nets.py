"""The nets under test, at sizes that a CPU runs in milliseconds."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.archs.mobilenet_v2 import MobileNetV2
from pipeline.archs.preact_resnet18 import PreActResNet18
from pipeline.archs.resnet18 import ResNet18
from pipeline.archs.resnet20 import ResNet20
from pipeline.archs.small_cnn import SmallCnn
from pipeline.archs.vgg16 import Vgg
from pipeline.archs.wrn34_10 import WideResNet
from pipeline.core.layers import Net

RESNET20 = ResNet20(blocks=3, width=16, shortcut="conv", leaky=0.0)
RESNET20_PAD = dataclasses.replace(RESNET20, shortcut="pad")
RESNET8 = dataclasses.replace(RESNET20, blocks=1)
RESNET18 = ResNet18(stem="cifar", stem_bias=False, init="default")
PREACT = PreActResNet18(stem="cifar", stem_bn=False, final_bn=True)
PREACT_BARE = dataclasses.replace(PREACT, final_bn=False)
PREACT_CCG = dataclasses.replace(PREACT, stem_bn=True, final_bn=False)
VGG16 = Vgg(depth=16, conv_bias=True)
VGG16_PLAIN = Vgg(depth=16, conv_bias=False)
VGG19 = Vgg(depth=19, conv_bias=True)
WRN34 = WideResNet(depth=34, widen=10, activation="relu")
WRN28 = dataclasses.replace(WRN34, depth=28)
WRN70 = WideResNet(depth=70, widen=16, activation="silu")
MOBILE = MobileNetV2()
SMALL = SmallCnn(dropout=0.5)
THIN_WRN = WideResNet(depth=10, widen=1, activation="silu")
TINY = ResNet20(blocks=1, width=2, shortcut="conv", leaky=0.0)

NETS = {
    "resnet20": (RESNET20, 8),
    "resnet20_leaky": (dataclasses.replace(RESNET20, leaky=0.1), 8),
    "resnet20_pad": (RESNET20_PAD, 8),
    "resnet8": (RESNET8, 8),
    "resnet18": (RESNET18, 8),
    "resnet18_imagenet": (dataclasses.replace(RESNET18, stem="imagenet", init="fan_in"), 64),
    "resnet18_stride2": (dataclasses.replace(RESNET18, stem="stride2", stem_bias=True), 28),
    "preact_resnet18": (PREACT, 8),
    "preact_resnet18_ccg": (dataclasses.replace(PREACT_CCG, stem="stride2"), 28),
    "vgg16": (VGG16, 32),
    "vgg19": (VGG19, 32),
    "wrn10_1": (THIN_WRN, 28),
    "mobilenet_v2": (MOBILE, 8),
    "small_cnn": (SMALL, 28),
    "small_cnn_8": (SMALL, 8),
    "small_cnn_64": (SMALL, 64),
}

each_net = pytest.mark.parametrize("name", NETS)


def build(arch: Any, size: int = 8, channels: int = 3, classes: int = 10) -> Net:
    torch.manual_seed(0)
    mean, std = [0.4] * channels, [0.25] * channels
    return arch.build(classes=classes, channels=channels, size=size, mean=mean, std=std)


def build_on_meta(arch: Any, size: int = 32, channels: int = 3, classes: int = 10) -> Net:
    with torch.device("meta"):
        return build(arch, size, channels, classes)


def draw_images(size: int = 8, batch: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def build_with_images(name: str) -> tuple[Net, Tensor]:
    arch, size = NETS[name]
    return build(arch, size), draw_images(size)


def input_gradient(net: nn.Module, images: Tensor, *, create_graph: bool = False) -> Tensor:
    images = images.clone().requires_grad_()
    loss = F.cross_entropy(net(images), torch.arange(len(images)) % 10)
    return torch.autograd.grad(loss, images, create_graph=create_graph)[0]


def lively(name: str) -> tuple[nn.Module, Tensor]:
    """A net whose normalisations do something, in evaluation mode."""
    arch, size = NETS[name]
    net, generator = build(arch, size), torch.Generator().manual_seed(2)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
            for values in (layer.bias.data, layer.running_mean):
                values.copy_(torch.randn(values.shape, generator=generator) / 4)
    return net.eval(), draw_images(size)
