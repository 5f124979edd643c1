"""CW-L2, DeepFool and Fog: no ball bounds them, so what they return is checked instead."""

import pytest
import torch
from torch import Tensor, nn
from victims import EPS, Counting, Exact, Linear, digits, held_out, right, trained

from pipeline.attacks.cw_l2 import CWL2
from pipeline.attacks.deepfool import DeepFool
from pipeline.attacks.fog import Fog, fractal
from pipeline.core.draws import Draws
from pipeline.core.losses import margin
from pipeline.core.norms import lengths
from pipeline.errors import UserError


def cw(**changed) -> CWL2:
    return CWL2(**{**dict(c=1.0, kappa=0.0, steps=40, lr=0.1, searches=3), **changed})


def deepfool(**changed) -> DeepFool:
    return DeepFool(**{**dict(steps=30, overshoot=0.02, rivals=9), **changed})


def fog(**changed) -> Fog:
    return Fog(**{**dict(strength=0.5, step_size=0.1, steps=5, decay=2.0), **changed})


EVERY = {"cw_l2": cw, "deepfool": deepfool, "fog": fog}
every = pytest.mark.parametrize("name", EVERY)
both_nets = pytest.mark.parametrize("training_eps", [0.0, EPS])


class Logs(nn.Module):
    """The same decisions as log-probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).log_softmax(1)


@every
def test_the_result_lies_in_the_box_and_repeats_in_batches_of_any_size(name: str) -> None:
    model = Exact()
    images, labels, draws = held_out(40)
    whole = EVERY[name]()(model, images, labels, draws)
    assert whole.shape == images.shape and not whole.requires_grad
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1
    assert torch.equal(whole, EVERY[name]()(model, images, labels, held_out(40)[2]))
    parts = [
        EVERY[name]()(model, images[rows], labels[rows], Draws(1, rows))
        for rows in torch.arange(40).split(7)
    ]
    assert torch.equal(whole, torch.cat(parts))


@both_nets
def test_cw_with_a_search_over_c_fools_an_undefended_net_altogether(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(100)
    moved = cw(searches=6, steps=80)(model, images, labels, draws)
    assert float(right(model, moved, labels).float().mean()) <= 0.01
    fixed = cw(searches=1, c=0.03)(model, images, labels, draws)
    assert int(right(model, fixed, labels).sum()) > 10  # one c is not enough for everybody


@both_nets
@pytest.mark.parametrize("name", ["cw_l2", "deepfool"])
def test_images_are_unchanged_exactly_where_there_was_no_success(name, training_eps) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(60)
    attack = cw(searches=1, c=0.1) if name == "cw_l2" else deepfool(steps=1)
    moved = attack(model, images, labels, draws)
    resists = right(model, moved, labels)
    same = (moved == images).flatten(1).all(1)
    was_right = right(model, images, labels)
    assert torch.equal(same[was_right], resists[was_right])
    assert 0 < int(resists.sum()) < 60


def test_cw_is_not_disarmed_by_log_probabilities() -> None:
    images, labels, _ = held_out(60)
    model = trained(0.0)
    found = [cw()(victim, images, labels, held_out(60)[2]) for victim in (model, Logs(model))]
    counts = [int(right(model, moved, labels).sum()) for moved in found]
    assert abs(counts[0] - counts[1]) <= 1
    assert float((found[0] - found[1]).abs().median()) < 1e-4


def test_more_searches_over_c_only_come_nearer() -> None:
    model = trained(0.0)
    images, labels, draws = held_out(40)
    reached = []
    for searches in (1, 3, 6):  # the first c is too small for some
        moved = cw(c=0.1, searches=searches)(model, images, labels, draws)
        far = lengths("l2", moved - images)
        reached.append(torch.where(right(model, moved, labels), 100.0, far))
    assert bool((reached[1] <= reached[0]).all()) and bool((reached[2] <= reached[1]).all())
    assert float(reached[2].mean()) < float(reached[0].mean())


def test_kappa_asks_for_confident_mistakes() -> None:
    model = trained(0.0)
    images, labels, draws = held_out(40)
    moved = cw(kappa=2.0, searches=6)(model, images, labels, draws)
    found = margin(model(moved), labels).detach()[~(moved == images).flatten(1).all(1)]
    assert len(found) > 30 and float(found.min()) > 2 - 1e-4


def test_cw_moves_saturated_pixels() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean = images.flatten(1).mean(1)
            return torch.stack([mean, 0 * mean + 0.5], 1)  # white is class 0, dark is class 1

    images, labels = torch.ones(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    attack = cw(c=100.0, searches=4, steps=300, lr=0.1)
    moved = attack(Mean(), images, labels, Draws(0, torch.arange(1)))
    assert torch.allclose(moved, torch.full_like(images, 0.5), atol=0.1)


@both_nets
def test_deepfool_fools_everybody_in_the_batch_it_is_judged_in(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels = (part[-300:] for part in digits())
    moved = deepfool(steps=50)(model, images, labels, Draws(0, torch.arange(300)))
    assert int(right(model, moved, labels).sum()) == 0
    assert float(lengths("l2", moved - images).median()) < 1.5


def test_deepfool_goes_overshoot_beyond_a_linear_boundary() -> None:
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 64, generator=generator) / 10
    images = 0.4 + 0.2 * torch.rand(20, 1, 8, 8, generator=generator)
    model = Linear(weights)
    logits = model(images).detach()
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = (weights[None] - weights[labels][:, None]).norm(dim=2)
    distances = torch.where(slopes > 0, gaps / slopes, torch.inf).amin(1)
    moved = deepfool(rivals=3)(model, images, labels, Draws(0, torch.arange(20)))
    expected = 1.02 * (distances + 1e-4)  # the authors' step beyond the boundary
    assert torch.allclose(lengths("l2", moved - images), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e-4, 1e-20])
def test_deepfools_steps_do_not_depend_on_the_scale_of_the_logits(scale: float) -> None:
    """One step: where squares of slopes underflow, or 1e-4 of logits is large, nothing changes."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 64, generator=generator) / 10
    images = 0.4 + 0.2 * torch.rand(20, 1, 8, 8, generator=generator)
    labels = Linear(weights)(images).argmax(1)
    attack, draws = deepfool(rivals=3, steps=1), Draws(0, torch.arange(20))
    plain, scaled = (
        attack(Linear(factor * weights), images, labels, draws) - images for factor in (1, scale)
    )
    assert bool((plain != 0).flatten(1).any(1).all())
    off = lengths("l2", scaled - plain) / lengths("l2", plain)
    assert float(off.max()) < 1e-3


@pytest.mark.parametrize("attack", [cw(), deepfool()])
def test_a_random_model_is_refused(attack) -> None:
    model = Exact()
    model.random = True
    with pytest.raises(UserError, match="lucky draw"):
        attack(model, *held_out(4))


def literal_fog(offsets: Tensor, side: int, decay: float) -> Tensor:
    """The published recursion, written point by point in place (one image)."""
    grid = [[0.0] * side for _ in range(side)]
    step, amplitude, used = side, 100.0, 0
    while step >= 2:
        half, count = step // 2, side // step
        noise = [offsets[used + i * count**2 :][: count**2].view(count, count) for i in range(3)]

        def put(y, x, points, which, noise=noise, step=step, amplitude=amplitude):
            mean = sum(grid[b % side][a % side] for b, a in points) / 4
            wobble = amplitude * (2 * float(noise[which][y // step][x // step]) - 1)
            grid[y][x] = mean + wobble

        for y in range(0, side, step):
            for x in range(0, side, step):
                corners = [(y, x), (y + step, x), (y, x + step), (y + step, x + step)]
                put(y + half, x + half, corners, 0)
        for y in range(0, side, step):
            for x in range(0, side, step):
                around = [(y, x), (y, x + step), (y - half, x + half), (y + half, x + half)]
                put(y, x + half, around, 1)
                around = [(y, x), (y + step, x), (y + half, x - half), (y + half, x + half)]
                put(y + half, x, around, 2)
        step, amplitude, used = half, amplitude / decay, used + 3 * count**2
    map_ = torch.tensor(grid)
    return (map_ - map_.min()) / (map_.max() - map_.min())


@pytest.mark.parametrize("side", [2, 8, 16])
def test_the_fractal_is_the_published_recursion_from_0_to_1(side: int) -> None:
    offsets = torch.rand(3, side * side - 1, generator=torch.Generator().manual_seed(side))
    maps = fractal(offsets, side, 1.75)
    assert maps.shape == (3, side, side)
    assert torch.equal(maps.amin((1, 2)), torch.zeros(3))
    assert torch.equal(maps.amax((1, 2)), torch.ones(3))
    for row in range(3):
        assert torch.allclose(maps[row], literal_fog(offsets[row], side, 1.75), atol=1e-4)


@pytest.mark.parametrize(("height", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
def test_fog_fits_images_of_any_side(height: int, channels: int) -> None:
    images = torch.rand(2, channels, height, height)
    model = Exact(pixels=channels * height**2)
    moved = fog(steps=1)(model, images, torch.tensor([0, 1]), Draws(0, torch.arange(2)))
    assert moved.shape == images.shape and float(moved.min()) >= 0 and float(moved.max()) <= 1


def test_no_fog_still_stretches_brightness_and_black_stays_black() -> None:
    images = torch.rand(2, 1, 8, 8) / 2
    images[1] = 0
    clear = fog(strength=0.0).blend(images, torch.rand(2, 255), 16)
    assert torch.allclose(clear[0], images[0] / images[0].max())
    assert torch.equal(clear[1], images[1])


def test_fog_whose_levels_grow_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="fog needs a decay above 0"):
        fog(decay=0.0)


def test_adversarial_fog_is_worse_than_random_fog() -> None:
    model = trained(0.0)
    images, labels, draws = held_out(100)
    counts = [
        int(right(model, fog(steps=steps)(model, images, labels, draws), labels).sum())
        for steps in (0, 3, 20)
    ]
    assert counts[0] > counts[1] + 10 > counts[2] + 10


def test_budgets_are_what_the_settings_say() -> None:
    images, labels, draws = held_out(10)
    for attack, forwards, backwards in (
        (cw(steps=7, searches=2), 1 + 14, 14),
        (fog(steps=7), 7, 7),
    ):
        counting = Counting(trained(EPS))
        attack(counting, images, labels, draws)
        assert (counting.forwards, counting.backwards) == (10 * forwards, 10 * backwards)
