"""What the nets compute: numbered taps, independent descriptions, normalisation inside."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from nets import (
    MOBILE,
    PREACT,
    PREACT_CCG,
    RESNET8,
    RESNET18,
    RESNET20,
    RESNET20_PAD,
    SMALL,
    THIN_WRN,
    VGG16,
    VGG19,
    WRN34,
    build,
    build_on_meta,
    build_with_images,
    draw_images,
    each_net,
)
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.archs.resnet18 import ResNet18
from pipeline.core.layers import Net, Residual
from pipeline.errors import UserError


@each_net
def test_taps_are_numbered_from_the_stem_to_the_logits(name: str) -> None:
    net, images = build_with_images(name)
    net.eval()
    with torch.no_grad():
        logits = net(images)
        taps = [net.features(images, depth) for depth in range(1, net.depths + 1)]
    assert logits.shape == (3, 10)
    assert all(len(tap) == 3 for tap in taps)
    assert torch.equal(taps[-1], logits)
    assert torch.equal(taps[0], net.stem(net.normalise(images)))
    assert torch.equal(net.tail(taps[-2]), net.pooled(images))


@each_net
def test_forward_is_the_head_on_the_pooled_features(name: str) -> None:
    net, images = build_with_images(name)
    net.eval()
    pooled = net.pooled(images)
    assert pooled.shape == (3, net.width)
    assert torch.equal(net.head(pooled), net(images))


@pytest.mark.parametrize(
    ("arch", "depths"),
    [(RESNET20, 20), (RESNET8, 8), (RESNET18, 18), (PREACT_CCG, 18), (WRN34, 32), (SMALL, 7)]
    + [(VGG16, 14), (VGG19, 17), (MOBILE, 37)],
)
def test_number_of_taps_is_the_documented_one(arch: Any, depths: int) -> None:
    assert build_on_meta(arch).depths == depths


def test_resnet20_taps_are_dverge_layers() -> None:
    net = build(RESNET20).eval()
    images = draw_images()
    x = net.stem[1](net.stem[0]((images - 0.4) / 0.25))
    expected = [x]
    for block in net.body:
        x = F.relu(x)
        first = block.first[1](block.first[0](x))
        second = block.rest[1](F.relu(first))
        x = second + block.shortcut(x)
        expected += [first, x]
    expected.append(net.head(F.relu(x).mean((2, 3))))
    assert len(expected) == net.depths == 20
    for depth, tap in enumerate(expected, start=1):
        torch.testing.assert_close(net.features(images, depth), tap)


def test_nothing_behind_a_tap_runs() -> None:
    net = build(RESNET8).train()
    net.features(draw_images(), 2)
    ran = [m.num_batches_tracked.item() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert ran == [1, 1] + [0] * 7


@pytest.mark.parametrize("depth", [0, 9, -1])
def test_a_missing_tap_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match="1 to 8"):
        build(RESNET8).features(draw_images(), depth)


def shake(net: nn.Module) -> None:
    """Random BN weights and statistics, so that a missing or misplaced BN shows."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)


def layers_in_order(net: Net) -> Iterator[Any]:
    return (m for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d))


def conv_bn(layers: Iterator[Any], x: Tensor) -> Tensor:
    y = next(layers)(x)
    return next(layers)(y)


@pytest.mark.parametrize("stem", ["cifar", "stride2", "imagenet"])
def test_resnet18_equals_its_description(stem: Any) -> None:
    net = build(ResNet18(stem=stem, stem_bias=True, init="default"), 32).eval()
    shake(net)
    layers, images = layers_in_order(net), draw_images(32)
    first, norm = next(layers), next(layers)
    shape = {"cifar": (3, 1, 1), "stride2": (3, 2, 1), "imagenet": (7, 2, 3)}[stem]
    x = F.conv2d((images - 0.4) / 0.25, first.weight, first.bias, *shape[1:])
    assert first.kernel_size[0] == shape[0]
    x = F.relu(norm(x))
    if stem == "imagenet":
        x = F.max_pool2d(x, 3, 2, 1)
    for block in range(8):
        branch = F.relu(conv_bn(layers, x))
        branch = conv_bn(layers, branch)
        x = F.relu(branch + (conv_bn(layers, x) if block in (2, 4, 6) else x))
    torch.testing.assert_close(net(images), net.head(x.mean((2, 3))))
    assert not list(layers)


@pytest.mark.parametrize(("arch", "groups"), [(VGG16, "22333"), (VGG19, "22444")])
def test_vgg_equals_its_description(arch: Any, groups: str) -> None:
    net = build(arch, 64).eval()
    shake(net)
    layers, images = layers_in_order(net), draw_images(64)
    x = (images - 0.4) / 0.25
    for convs in groups:
        for _ in range(int(convs)):
            x = F.relu(conv_bn(layers, x))
        x = F.max_pool2d(x, 2)
    torch.testing.assert_close(net(images), net.head(x.mean((2, 3))))
    assert not list(layers)


@pytest.mark.parametrize(
    ("arch", "act"), [(PREACT, F.relu), (PREACT_CCG, F.relu), (THIN_WRN, F.silu)]
)
def test_preact_nets_equal_their_description(arch: Any, act: Callable[[Tensor], Tensor]) -> None:
    net = build(arch).eval()
    shake(net)
    layers, images = layers_in_order(net), draw_images()
    x = next(layers)((images - 0.4) / 0.25)
    if arch is PREACT_CCG:
        x = act(next(layers)(x))
    for _ in range(sum(isinstance(piece, Residual) for piece in net.body)):
        h = act(next(layers)(x))
        branch = act(conv_bn(layers, h))
        branch = next(layers)(branch)
        x = branch + (x if branch.shape == x.shape else next(layers)(h))
    if arch is not PREACT_CCG:
        x = act(next(layers)(x))
    torch.testing.assert_close(net(images), net.head(x.mean((2, 3))))
    assert not list(layers)


def test_mobilenet_v2_equals_its_description() -> None:
    net = build(MOBILE, 32).eval()
    shake(net)
    layers, images = layers_in_order(net), draw_images(32)
    x, inputs = F.relu(conv_bn(layers, (images - 0.4) / 0.25)), 32
    groups = [(16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]
    for outputs, blocks, group_stride in groups:
        for stride in [group_stride] + [1] * (blocks - 1):
            branch = x
            for is_last in (False, False, True):
                branch = conv_bn(layers, branch)
                branch = branch if is_last else F.relu(branch)
            skip = conv_bn(layers, x) if inputs != outputs and stride == 1 else x
            x, inputs = branch + skip if stride == 1 else branch, outputs
    x = F.relu(conv_bn(layers, x)).mean((2, 3))
    torch.testing.assert_close(net(images), net.head(x))
    assert not list(layers)


@pytest.mark.parametrize(("size", "padding"), [(28, 0), (8, 1)])
def test_small_cnn_equals_its_description(size: int, padding: int) -> None:
    net, images = build(SMALL, size).eval(), draw_images(size)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    x = (images - 0.4) / 0.25
    for index, layer in enumerate(convs):
        x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=padding))
        x = F.max_pool2d(x, 2) if index in (1, 3) else x
    x = F.relu(linears[1](F.relu(linears[0](x.flatten(1)))))
    torch.testing.assert_close(net(images), linears[2](x))


def test_small_cnn_drops_out_in_training_only() -> None:
    net, images = build(SMALL), draw_images()
    assert not torch.equal(net.train()(images), net(images))
    assert torch.equal(net.eval()(images), net(images))


def test_padded_shortcut_keeps_every_second_pixel_and_adds_zeros() -> None:
    shortcut = build(RESNET20_PAD).body[3].shortcut
    x = torch.arange(2 * 16 * 16.0).reshape(2, 16, 4, 4)
    assert torch.equal(shortcut(x)[:, :16], x[:, :, ::2, ::2])
    assert shortcut(x).shape == (2, 32, 2, 2) and not shortcut(x)[:, 16:].any()


def test_leaky_resnet20_has_no_other_activation() -> None:
    net = build(dataclasses.replace(RESNET20, leaky=0.1))
    slopes = {m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.1}
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())


@each_net
def test_every_net_normalises_its_images_itself(name: str) -> None:
    net, images = build_with_images(name)
    net.eval()
    bare = copy.deepcopy(net)
    bare.normalise.mean.zero_()
    bare.normalise.std.fill_(1.0)
    assert not torch.allclose(net(images), bare(images))
    torch.testing.assert_close(net(images), bare((images - 0.4) / 0.25))
    assert not any("normalise" in key for key in net.state_dict())


def test_mean_0_and_std_1_leave_images_as_they_are() -> None:
    net = RESNET8.build(classes=10, channels=3, size=8, mean=[0.0] * 3, std=[1.0] * 3)
    images = draw_images()
    assert torch.equal(net.normalise(images), images)


def test_normalisation_needs_one_value_per_channel() -> None:
    with pytest.raises(UserError, match="3 channels"):
        RESNET8.build(classes=10, channels=3, size=8, mean=[0.5], std=[0.5])


def test_a_state_dict_restores_the_net() -> None:
    net, other = build(RESNET8).eval(), build(RESNET8).eval()
    nn.init.normal_(other.stem[0].weight)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(draw_images()), net(draw_images()))
