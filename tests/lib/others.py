"""Networks as other projects write them, in our words: their names, shapes and order are facts.

kuangliu's CIFAR networks (DVERGE's too), Rice et al.'s pre-activation ResNet, the wide ResNet of
TRADES and RobustBench, torchvision's ResNet, TRADES' net for MNIST, and normalisers inside.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Basic(nn.Module):
    """conv1, bn1, conv2, bn2, and a shortcut under the name that a project gives it."""

    def __init__(self, inputs: int, outputs: int, stride: int, short: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        layers = []
        if stride != 1 or inputs != outputs:
            one = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            layers = [one, nn.BatchNorm2d(outputs)]
        self.add_module(short, nn.Sequential(*layers))
        self.short = short

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + getattr(self, self.short)(x))


class PreAct(nn.Module):
    """bn1, conv1, bn2, conv2; the projection reads the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int, short: str) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3(outputs, outputs)
        self.short = short if stride != 1 or inputs != outputs else ""
        if self.short:
            one: nn.Module = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.add_module(short, one if short == "convShortcut" else nn.Sequential(one))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(h))))
        return y + (getattr(self, self.short)(h) if self.short else x)


def stages(block: Any, start: int, widths: list[int], blocks: int, short: str) -> list[Any]:
    found, inputs = [], start
    for stage, width in enumerate(widths):
        row = []
        for index in range(blocks):
            row.append(block(inputs, width, 2 if stage and not index else 1, short))
            inputs = width
        found.append(nn.Sequential(*row))
    return found


class CifarResNet(nn.Module):
    """kuangliu's, and DVERGE's ResNet-20 with widths 16, 32, 64; torchvision's by other names."""

    def __init__(
        self,
        widths: list[int],
        blocks: int,
        short: str = "shortcut",
        end: str = "linear",
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(channels, widths[0]), nn.BatchNorm2d(widths[0])
        for number, stage in enumerate(stages(Basic, widths[0], widths, blocks, short), 1):
            self.add_module(f"layer{number}", stage)
        self.add_module(end, nn.Linear(widths[-1], 10))
        self.depth, self.end = len(widths), end

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in range(1, self.depth + 1):
            x = getattr(self, f"layer{number}")(x)
        return getattr(self, self.end)(x.mean((2, 3)))

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))


class ImageNetResNet(CifarResNet):
    """torchvision's ResNet-18."""

    def __init__(self) -> None:
        super().__init__([64, 128, 256, 512], 2, "downsample", "fc")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)

    def stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().stem(x), 3, 2, 1)


class PreActResNet(nn.Module):
    """Rice et al.'s PreAct ResNet-18, with a last bn."""

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 512]
        self.conv1 = conv3(3, 64)
        for number, stage in enumerate(stages(PreAct, 64, widths, 2, "shortcut"), 1):
            self.add_module(f"layer{number}", stage)
        self.bn, self.linear = nn.BatchNorm2d(512), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class Group(nn.Module):
    """A group of a wide ResNet, whose blocks lie in `layer`."""

    def __init__(self, layer: nn.Sequential) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Wide(nn.Module):
    """The wide ResNet of TRADES and RobustBench; TRADES' registers a group that it never runs."""

    def __init__(self, blocks: int, widen: int, with_unused: bool, channels: int = 3) -> None:
        super().__init__()
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = conv3(channels, 16)
        groups = stages(PreAct, 16, widths, blocks, "convShortcut")
        self.block1 = Group(groups[0])
        if with_unused:
            self.sub_block1 = Group(stages(PreAct, 16, widths[:1], blocks, "convShortcut")[0])
        self.block2, self.block3 = Group(groups[1]), Group(groups[2])
        self.bn1, self.fc = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class Vgg(nn.Module):
    """kuangliu's VGG-16."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(repeats):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AvgPool2d(1))
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Inverted(nn.Module):
    """A block of kuangliu's MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden, self.stride = expansion * inputs, stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.conv2, self.bn2 = depthwise, nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        widened = stride == 1 and inputs != outputs
        one = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*(one if widened else []))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.stride == 1 else y


class Mobile(nn.Module):
    """kuangliu's MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(3, 32), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for expansion, outputs, repeats, stride in (
            (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for index in range(repeats):
                blocks.append(Inverted(inputs, outputs, expansion, 1 if index else stride))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class Small(nn.Module):
    """TRADES' net for 28x28 digits."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"conv1": nn.Conv2d(1, 32, 3), "relu1": nn.ReLU(), "conv2": nn.Conv2d(32, 32, 3)}
        layers |= {"relu2": nn.ReLU(), "maxpool1": nn.MaxPool2d(2), "conv3": nn.Conv2d(32, 64, 3)}
        layers |= {"relu3": nn.ReLU(), "conv4": nn.Conv2d(64, 64, 3), "relu4": nn.ReLU()}
        self.feature_extractor = nn.Sequential()
        for name, layer in (layers | {"maxpool2": nn.MaxPool2d(2)}).items():
            self.feature_extractor.add_module(name, layer)
        self.classifier = nn.Sequential()
        ends = {"fc1": nn.Linear(1024, 200), "relu1": nn.ReLU(), "drop": nn.Dropout(0.5)}
        ends |= {"fc2": nn.Linear(200, 200), "relu2": nn.ReLU(), "fc3": nn.Linear(200, 10)}
        for name, layer in ends.items():
            self.classifier.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).flatten(1))


class Normaliser(nn.Module):
    """DVERGE's, with buffers `mean` and `std`."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


class Wrapped(nn.Module):
    """DVERGE's network and normaliser."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model, self.normalizer = model, Normaliser(mean, std)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalizer(x))


def settle(network: nn.Module, size: int = 32, channels: int = 3) -> nn.Module:
    """The network with statistics, scales and shifts that tell every layer from the others."""
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if "num_batches" not in name and value.ndim == 1 and not name.endswith(("mean", "std")):
            value.copy_(0.8 + 0.4 * torch.rand(value.shape, generator=generator))
        if name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()
