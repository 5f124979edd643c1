"""Sizes of the nets: parameters and multiply-adds as published, and which images they take."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from nets import (
    MOBILE,
    PREACT,
    PREACT_BARE,
    PREACT_CCG,
    RESNET8,
    RESNET18,
    RESNET20,
    RESNET20_PAD,
    SMALL,
    THIN_WRN,
    TINY,
    VGG16,
    VGG16_PLAIN,
    VGG19,
    WRN28,
    WRN34,
    WRN70,
    build,
    build_on_meta,
    draw_images,
)
from torch import Tensor, nn

from pipeline.archs.small_cnn import SmallCnn
from pipeline.archs.wrn34_10 import WideResNet
from pipeline.core.flops import count_macs, count_parameters
from pipeline.core.layers import Net
from pipeline.errors import UserError

# Parameters at C = 10, 100, 200; convolutions and BNs; multiply-adds at 32x32 with C = 10.
PUBLISHED = {
    "resnet20": (RESNET20, 272_474, 278_324, 284_824, 21, 21, 40_813_184),
    "resnet20_pad": (RESNET20_PAD, 269_722, 275_572, 282_072, 19, 19, 40_551_040),
    "resnet18": (RESNET18, 11_173_962, 11_220_132, 11_271_432, 20, 20, 555_422_720),
    "preact_resnet18": (PREACT, 11_172_170, 11_218_340, 11_269_640, 20, 17, 555_422_720),
    "preact_bare": (PREACT_BARE, 11_171_146, 11_217_316, 11_268_616, 20, 16, 555_422_720),
    "preact_ccg": (PREACT_CCG, 11_171_274, 11_217_444, 11_268_744, 20, 17, 555_422_720),
    "vgg16": (VGG16, 14_728_266, 14_774_436, 14_825_736, 13, 13, 313_201_664),
    "vgg16_plain": (VGG16_PLAIN, 14_724_042, 14_770_212, 14_821_512, 13, 13, 313_201_664),
    "vgg19": (VGG19, 20_040_522, 20_086_692, 20_137_992, 16, 16, 398_136_320),
    "mobilenet_v2": (MOBILE, 2_296_922, 2_412_212, 2_540_312, 57, 57, 91_154_944),
    "wrn28_10": (WRN28, 36_479_194, 36_536_884, 36_600_984, 28, 25, 5_243_328_768),
    "wrn34_10": (WRN34, 46_160_474, 46_218_164, 46_282_264, 34, 31, 6_658_906_368),
    "wrn70_16": (WRN70, 266_796_506, 266_888_756, 266_991_256, 70, 67, 38_764_210_176),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_layers_and_macs_are_the_published_ones(name: str) -> None:
    arch, *parameters, convs, norms, macs = PUBLISHED[name]
    counted = [count_parameters(build_on_meta(arch, classes=c)) for c in (10, 100, 200)]
    assert counted == parameters
    net = build_on_meta(arch)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convs
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == norms
    assert count_macs(net, 3, 32) == macs


@pytest.mark.parametrize(
    ("arch", "macs"),
    [
        (RESNET20, 163_262_976),
        (RESNET20_PAD, 162_214_400),
        (RESNET18, 2_221_772_800),
        (PREACT, 2_221_772_800),
        (PREACT_BARE, 2_221_772_800),
        (VGG16, 1_252_888_576),
        (VGG16_PLAIN, 1_252_888_576),
        (VGG19, 1_592_627_200),
        (MOBILE, 364_824_576),
        (WRN34, 26_635_727_872),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else str(value),
)
def test_macs_at_64_pixels_and_200_classes_are_the_published_ones(arch: Any, macs: int) -> None:
    assert count_macs(build_on_meta(arch, 64, classes=200), 3, 64) == macs


@pytest.mark.parametrize(
    ("arch", "parameters", "macs"),
    [
        (RESNET20, 272_186, 31_021_952),
        (RESNET20_PAD, 269_434, 30_821_248),
        (RESNET18, 11_172_810, 455_800_832),
        (PREACT, 11_171_018, 455_800_832),
        (PREACT_BARE, 11_169_994, 455_800_832),
        (MOBILE, 2_296_346, 75_564_160),
        (SMALL, 312_202, 9_952_400),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else str(value),
)
def test_sizes_on_grey_28_pixel_images_are_the_published_ones(
    arch: Any, parameters: int, macs: int
) -> None:
    net = build_on_meta(arch, 28, channels=1)
    assert (count_parameters(net), count_macs(net, 1, 28)) == (parameters, macs)


def test_stride_2_stem_makes_64_pixels_as_cheap_as_32() -> None:
    small = count_macs(build_on_meta(RESNET18), 3, 32)
    halved = dataclasses.replace(RESNET18, stem="stride2")
    assert count_macs(build_on_meta(halved, 64), 3, 64) == small


def test_macs_of_resnet8_on_8_pixels_are_the_sum_over_its_layers() -> None:
    stem, first = 27 * 16 * 64, 2 * 144 * 16 * 64
    second = (144 * 32 + 288 * 32 + 16 * 32) * 16
    third = (288 * 64 + 576 * 64 + 32 * 64) * 4
    assert count_macs(build(RESNET8), 3, 8) == stem + first + second + third + 640


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_module_as_it_was(training: bool) -> None:
    net = build(SMALL).train(training)
    net.body[0].eval()
    modes = [m.training for m in net.modules()]
    state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    count_macs(net, 3, 8)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert net(draw_images()).device.type == "cpu"


def test_counting_takes_a_training_net_whose_last_map_is_one_pixel() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build(RESNET8).train()(draw_images(4, batch=1))
    assert (
        count_macs(build(RESNET8).train(), 3, 4)
        == (count_macs(build(RESNET8), 3, 8) - 640) // 4 + 640
    )


def test_a_module_called_twice_costs_twice() -> None:
    net = build(RESNET8)
    assert count_macs(nn.Sequential(net.stem, net.body), 3, 8) == count_macs(net, 3, 8) - 640
    assert count_macs(_Pair(net), 3, 8) == 2 * count_macs(net, 3, 8)
    assert count_parameters(_Pair(net)) == count_parameters(net)


class _Pair(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.first, self.second = net, net

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images) + self.second(images)


@pytest.mark.parametrize("size", [8, 28, 64])
@pytest.mark.parametrize("arch", [RESNET20, RESNET8, TINY, THIN_WRN, SMALL])
def test_small_nets_take_8_28_and_64_pixels_in_grey(arch: Any, size: int) -> None:
    net = build(arch, size, channels=1)
    assert net(draw_images(size, channels=1)).isfinite().all()


@pytest.mark.parametrize(
    ("arch", "size", "text"),
    [(VGG16, 28, "vgg16: 28x28"), (VGG19, 8, "vgg19: 8x8"), (SMALL, 3, "small_cnn: 3x3")],
)
def test_nets_whose_maps_would_vanish_refuse_the_size(arch: Any, size: int, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build(arch, size)


@pytest.mark.parametrize(
    "arch",
    [
        WideResNet(depth=33, widen=1, activation="relu"),
        WideResNet(depth=4, widen=1, activation="relu"),
        dataclasses.replace(RESNET20, blocks=0),
        SmallCnn(dropout=1.5),
    ],
)
def test_impossible_fields_are_refused(arch: Any) -> None:
    with pytest.raises(UserError, match="params.yaml: archs:"):
        build(arch, 28)


@pytest.mark.parametrize("arch", [RESNET20, VGG16, THIN_WRN])
def test_convolutions_are_drawn_by_the_fan_out_rule(arch: Any) -> None:
    convs = [m for m in build(arch, 32).modules() if isinstance(m, nn.Conv2d)]
    for layer in convs:
        if layer.weight.numel() > 2000:
            expected = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert layer.bias is None or not layer.bias.any()


def test_a_wide_resnets_head_begins_without_bias() -> None:
    """As its authors' does; PyTorch would draw it."""
    assert not build(THIN_WRN, 32).head.bias.any()


def test_reds_convolutions_behind_the_stem_are_drawn_by_the_fan_in_rule() -> None:
    """Its code draws all anew, then replaces stem and head by PyTorch's own."""
    torch.manual_seed(0)
    red = build(dataclasses.replace(RESNET18, stem_bias=True, init="fan_in"), 32)
    for layer in [m for m in red.body.modules() if isinstance(m, nn.Conv2d)]:
        expected = (2 / (layer.kernel_size[0] ** 2 * layer.in_channels)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    bound = (1 / (9 * 3)) ** 0.5  # U(-bound, bound) of PyTorch's convolution of 3x3x3
    assert 0.9 * bound < float(red.stem[0].weight.abs().max()) <= bound
    assert red.stem[0].bias.any()
