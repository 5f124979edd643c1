"""DI2, M-DI2, momentum PGD and skip gradients: the attacks of transfer sets; and EoT-PGD."""

import pytest
import torch
from nets import RESNET8, build, draw_images
from torch import Tensor, nn
from torch.nn import functional as F
from victims import EPS, Exact, held_out, right, trained

from pipeline.archs.vgg16 import Vgg
from pipeline.attacks.di2 import DI2, diversify, resize_matrix
from pipeline.attacks.eot_pgd import EOTPGD
from pipeline.attacks.mim import MIM
from pipeline.core.draws import Draws
from pipeline.core.layers import Net, Residual, set_skip_gamma, skip_gamma
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import lengths
from pipeline.errors import UserError


def di2(**changed) -> DI2:
    usual = dict(eps=EPS, step_size=EPS / 5, steps=6, restarts=1, start="none", loss="ce")
    usual |= dict(confidence=0.1, decay=1.0, probability=0.5, resize_rate=0.75, gamma=1.0)
    return DI2(**{**usual, **changed})


def eot_pgd(**changed) -> EOTPGD:
    return EOTPGD(**{**dict(eps=EPS, step_size=EPS / 4, steps=5, eot=4), **changed})


EVERY = {
    "di2": lambda eps=EPS: di2(eps=eps, decay=0.0),
    "m_di2": lambda eps=EPS: di2(eps=eps, start="uniform", restarts=2),
    "mpgd": lambda eps=EPS: di2(eps=eps, probability=0.0, start="uniform", loss="margin"),
    "eot_pgd": lambda eps=EPS: eot_pgd(eps=eps),
}
every = pytest.mark.parametrize("name", EVERY)


@every
@pytest.mark.parametrize("eps", [0.0, 8 / 255, 1.0])
def test_the_result_lies_in_ball_and_box_whatever_the_batch(name: str, eps: float) -> None:
    model = Exact()
    images, labels, draws = held_out(30)
    whole = EVERY[name](eps)(model, images, labels, draws)
    assert float(lengths("linf", whole - images).max()) <= eps + 1e-6
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1 and not whole.requires_grad
    parts = [
        EVERY[name](eps)(model, images[rows], labels[rows], Draws(1, rows))
        for rows in torch.arange(30).split(7)
    ]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    if eps == 0:
        assert torch.equal(whole, images)


@every
def test_these_attacks_lower_the_accuracy(name: str) -> None:
    model = trained(0.0)
    images, labels, draws = held_out(100)
    before = int(right(model, images, labels).sum())
    after = int(right(model, EVERY[name]()(model, images, labels, draws), labels).sum())
    assert after < 0.7 * before


def test_never_resizing_is_mim() -> None:
    model = trained(EPS)
    images, labels, draws = held_out(20)
    ours = di2(probability=0.0)(model, images, labels, draws)
    mim = MIM(eps=EPS, step_size=EPS / 5, steps=6, decay=1.0)(model, images, labels, draws)
    assert torch.equal(ours, mim)
    assert not torch.equal(ours, di2(probability=1.0)(model, images, labels, held_out(20)[2]))


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_resized_images_keep_their_shape_and_are_those_of_interpolate(side: int) -> None:
    images = torch.rand(6, 2, side, side, generator=torch.Generator().manual_seed(0))
    resized = diversify(images, 0.75, 1.0, Draws(0, torch.arange(6)))
    assert resized.shape == images.shape
    found = set()
    for row, image in enumerate(resized):
        filled = (image.sum(0) != 0).nonzero()
        (top, left), (bottom, right_) = filled.amin(0).tolist(), filled.amax(0).tolist()
        size = bottom - top + 1
        assert size == right_ - left + 1 and int(0.75 * side) <= size < side
        inner = F.interpolate(images[row][None], size=size, mode="bilinear", align_corners=False)
        cut = image[:, top : bottom + 1, left : right_ + 1]
        assert torch.allclose(cut, inner[0], atol=1e-5)
        found.add((top, left, size))
    assert len(found) > 1  # every image draws for itself


def test_a_whole_resize_is_the_identity_and_gradients_flow() -> None:
    whole = resize_matrix(torch.tensor([8]), torch.tensor([0]), 8)
    assert torch.equal(whole[0], torch.eye(8))
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    diversify(images, 0.9, 1.0, Draws(0, torch.arange(2))).sum().backward()
    assert float(images.grad.abs().amin()) > 0


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="square"):
        diversify(torch.rand(1, 1, 8, 9), 0.9, 1.0, Draws(0, torch.arange(1)))


def test_the_margin_stops_counting_at_its_confidence() -> None:
    """Once every margin is above it, nothing but momentum is left."""
    model = trained(0.0)
    images, labels, draws = held_out(20)
    wrong = (labels + 1) % 10
    keep = ~right(model, images, wrong)
    plain = di2(probability=0.0, loss="margin", confidence=-100.0, decay=0.0)
    assert torch.equal(plain(model, images, wrong, draws)[keep], images[keep])
    free = di2(probability=0.0, loss="margin", confidence=1000.0, decay=0.0)
    assert not torch.equal(free(model, images, wrong, draws)[keep], images[keep])


def test_restarts_differ_and_those_that_would_not_are_refused() -> None:
    with pytest.raises(UserError, match="repeats one run"):
        di2(probability=0.0, restarts=3)
    model = Exact()
    images, _, draws = held_out(30)
    labels = model(images).argmax(1)
    one = di2(probability=0.0, start="uniform")(model, images, labels, draws)
    three = di2(probability=0.0, start="uniform", restarts=3)(
        model, images, labels, held_out(30)[2]
    )
    assert not torch.equal(one, three)


# ---- skip gradients


def resnet() -> tuple[Net, Tensor, Tensor]:
    return build(RESNET8).eval().double(), draw_images().double(), torch.tensor([1, 2, 3])


def slope(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(net(images), labels).sum(), images)[0]


def test_gamma_changes_gradients_and_never_values() -> None:
    net, images, labels = resnet()
    logits, plain = net(images), slope(net, images, labels)
    for gamma in (1.0, 0.5, 0.0):
        with skip_gamma(net, gamma):
            assert torch.equal(net(images), logits)
            assert torch.equal(slope(net, images, labels), plain) == (gamma == 1.0)
    assert torch.equal(slope(net, images, labels), plain)


def test_gamma_scales_the_branch_of_a_block() -> None:
    """dy/dh = 1 + gamma f'(h), checked against finite differences of skip and branch."""
    branch = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
    block = Residual(nn.Identity(), branch[0], branch[1], nn.Identity())
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-6 * torch.ones_like(x)
    change = (branch(x + step) - branch(x - step)) / 2e-6  # directional, along ones
    for gamma in (0.0, 0.2, 1.0):
        with skip_gamma(nn.Sequential(block), gamma):
            found = torch.autograd.functional.jvp(block, x, torch.ones_like(x))[1]
        assert torch.allclose(found, 1 + gamma * change, atol=1e-6)


def test_gamma_is_put_back_after_an_error_and_per_block() -> None:
    net, images, _ = resnet()
    set_skip_gamma(net, 0.7)
    with pytest.raises(ValueError), skip_gamma(net, 0.2):
        net(images[0, 0])
    blocks = [b for b in net.modules() if isinstance(b, Residual)]
    assert [b.skip_gamma for b in blocks] == [0.7] * len(blocks)


def test_skip_gradients_need_residual_blocks() -> None:
    net = build(Vgg(depth=16, conv_bias=False), size=32)
    with pytest.raises(UserError, match="residual"), skip_gamma(net, 0.2):
        pass


def test_skip_gradients_take_another_path_through_a_resnet() -> None:
    net, images, labels = resnet()
    plain, sgm = (
        di2(probability=0.0, gamma=gamma)(net, images, labels, Draws(0, torch.arange(3)))
        for gamma in (1.0, 0.2)
    )
    assert not torch.equal(plain, sgm)


# ---- expectation over transformations


class Noisy(nn.Module):
    """Logits with fresh noise on the images at every call."""

    random = True

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.model, self.noise = trained(0.0), noise
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=self.generator)
        return self.model(images + self.noise * noise)


def test_eot_on_a_deterministic_model_is_pgd() -> None:
    images, labels, _ = held_out(30)
    one, four = (eot_pgd(eot=eot)(trained(EPS), images, labels, held_out(30)[2]) for eot in (1, 4))
    assert float(((one - four).abs() < 1e-6).float().mean()) > 0.99


def test_the_variance_of_the_gradient_falls_with_the_draws() -> None:
    """One step of tiny size and no start shows the gradient's sign; agreement grows with eot."""
    images, labels, _ = held_out(50)
    agreement = []
    for eot in (1, 4, 16):
        model = Noisy(0.3)
        signs = [
            (eot_pgd(eot=eot, steps=1, step_size=EPS)(model, images, labels, held_out(50)[2]))
            for _ in range(2)
        ]
        agreement.append(float((signs[0] == signs[1]).float().mean()))
    assert agreement[0] < agreement[1] < agreement[2]
