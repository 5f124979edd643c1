"""Gradients of the nets: skip-gradient gates, finite differences, second derivatives."""

import dataclasses

import pytest
import torch
from nets import (
    MOBILE,
    PREACT,
    RESNET8,
    THIN_WRN,
    TINY,
    VGG16,
    build,
    build_on_meta,
    build_with_images,
    draw_images,
    each_net,
    input_gradient,
)
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.layers import Net, Residual, scale_gradient, set_skip_gamma
from pipeline.errors import UserError

RESIDUAL = {"resnet8": RESNET8, "preact": PREACT, "wrn": THIN_WRN, "mobilenet_v2": MOBILE}


@pytest.mark.parametrize("name", RESIDUAL)
def test_skip_gamma_never_changes_the_value_and_changes_the_gradient(name: str) -> None:
    net, images = build(RESIDUAL[name]).eval(), draw_images()
    logits, plain = net(images), input_gradient(net, images)
    for gamma in (0.0, 0.2, 0.5):
        set_skip_gamma(net, gamma)
        assert torch.equal(net(images), logits)
        assert torch.equal(
            net.features(images, 5), build(RESIDUAL[name]).eval().features(images, 5)
        )
        assert not torch.allclose(input_gradient(net, images), plain)
    set_skip_gamma(net, 1.0)
    assert torch.equal(input_gradient(net, images), plain)


def test_skip_gamma_0_leaves_the_gradient_of_the_skip_path() -> None:
    net, images = build(RESNET8).eval(), draw_images()
    set_skip_gamma(net, 0.0)
    gated = input_gradient(net, images)
    set_skip_gamma(net, 1.0)
    with torch.no_grad():
        branches = _branches(net, images)
    torch.testing.assert_close(gated, _gradient_with_frozen_branches(net, images, branches))


def _branches(net: Net, images: Tensor) -> list[Tensor]:
    x, branches = net.stem(net.normalise(images)), []
    for block in net.body:
        branches.append(block.rest(block.first(block.enter(x))))
        x = block(x)
    return branches


def _gradient_with_frozen_branches(net: Net, images: Tensor, branches: list[Tensor]) -> Tensor:
    images = images.clone().requires_grad_()
    x = net.stem(net.normalise(images))
    for block, branch in zip(net.body, branches, strict=True):
        x = block.shortcut(block.enter(x)) + branch
    loss = F.cross_entropy(net.head(net.tail(x)), torch.arange(len(images)))
    return torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0])
def test_a_toy_block_has_the_gradient_of_the_skip_gradient_method(gamma: float) -> None:
    """y = h + w2 tanh(w1 h), so dy/dh = 1 + gamma w2 w1 (1 - tanh^2(w1 h))."""
    first, last = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    block = Residual(nn.Identity(), first, nn.Sequential(nn.Tanh(), last), nn.Identity())
    set_skip_gamma(block, gamma)
    h = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(trace_block(block, h).sum(), h)
    w1, w2, at = first.weight.detach(), last.weight.detach(), h.detach()
    expected = 1 + gamma * w2 * w1 * (1 - torch.tanh(w1 * at) ** 2)
    torch.testing.assert_close(gradient, expected)


def trace_block(block: Residual, x: Tensor) -> Tensor:
    return list(block.trace(x))[-1]


def test_gradient_scale_keeps_every_bit_and_is_linear_in_second_derivatives() -> None:
    x = torch.tensor([-0.0, 0.0, float("inf"), 3e-45, 1.5], requires_grad=True)
    same = scale_gradient(x, 0.3)
    assert torch.equal(same.view(torch.int32), x.view(torch.int32))
    z = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(scale_gradient(z, 0.5) ** 3, z, create_graph=True)
    (second,) = torch.autograd.grad(first, z)
    assert first.item() == pytest.approx(0.5 * 12)
    assert second.item() == pytest.approx(0.5 * 0.5 * 12)


def test_skip_gamma_refuses_a_net_without_residual_blocks() -> None:
    with pytest.raises(UserError, match="no residual block"):
        set_skip_gamma(build_on_meta(VGG16), 0.2)


def test_skip_gamma_holds_for_members_stacked_under_vmap() -> None:
    members = [build(TINY).eval() for _ in range(2)]
    nn.init.normal_(members[1].stem[0].weight)
    for member in members:
        set_skip_gamma(member, 0.2)
    parameters, buffers = torch.func.stack_module_state(members)
    images = draw_images()

    def loss(x: Tensor, p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(members[0], (p, b), (x,))[:, 0].sum()

    stacked = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(
        images, parameters, buffers
    )
    for member, gradient in zip(members, stacked, strict=True):
        x = images.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(member(x)[:, 0].sum(), x)[0], gradient)


@pytest.mark.parametrize("leaky", [0.0, 0.1])
def test_first_and_second_derivatives_agree_with_finite_differences(leaky: float) -> None:
    net = build(dataclasses.replace(TINY, leaky=leaky)).double().train()
    images = draw_images(batch=2).double().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(net(x), torch.tensor([1, 2]))

    assert torch.autograd.gradcheck(loss, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, images, fast_mode=True)


@each_net
def test_a_gradient_penalty_reaches_the_stem_of_every_net(name: str) -> None:
    net, images = build_with_images(name)
    input_gradient(net.train(), images, create_graph=True).square().sum().backward()
    gradient = next(net.stem.parameters()).grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0


@each_net
def test_no_layer_works_in_place(name: str) -> None:
    net, images = build_with_images(name)
    kept = images.clone()
    net.train()(images)
    assert torch.equal(images, kept)
    assert not any(getattr(m, "inplace", False) for m in net.modules())
