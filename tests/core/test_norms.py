import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.draws import Draws
from pipeline.core.norms import (
    lengths,
    project,
    steepest,
    surface_start,
    uniform_start,
    water_level,
)

cases = st.tuples(st.integers(0, 2**31), st.floats(0, 3), st.floats(0.01, 10))
NORMS = ["linf", "l2"]
BALLS = [*NORMS, "l1"]


def saturated(seed: int, shape: tuple[int, ...] = (5, 2, 4, 4)) -> tuple[Tensor, Tensor]:
    """Images of which half the pixels are 0 or 1, and a movement."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator)
    ends = torch.rand(shape, generator=generator) < 0.5
    images = torch.where(ends, images.round(), images)
    return images, torch.randn(shape, generator=generator)


@pytest.mark.parametrize("norm", BALLS)
@given(case=cases)
@settings(max_examples=50, deadline=None)
def test_projections_and_starts_lie_in_ball_and_box(norm, case) -> None:
    seed, eps, scale = case
    images, moves = saturated(seed)
    draws = Draws(seed, torch.arange(5))
    for moved in (
        project(norm, images + scale * moves, images, eps),
        surface_start(norm, images, eps, draws),
        *([uniform_start(norm, images, eps, draws)] if norm in NORMS else []),
    ):
        assert float(lengths(norm, moved - images).max()) <= eps + 1e-6
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1


@pytest.mark.parametrize("norm", BALLS)
@given(case=cases)
@settings(max_examples=50, deadline=None)
def test_projecting_again_changes_nothing(norm, case) -> None:
    seed, eps, scale = case
    images, moves = saturated(seed)
    once = project(norm, images + scale * moves, images, eps)
    assert torch.allclose(project(norm, once, images, eps), once, atol=1e-6)


@given(case=cases)
@settings(max_examples=30, deadline=None)
def test_the_l2_projection_is_the_nearest_point_of_ball_and_box(case) -> None:
    """Against Dykstra's alternating projections, which converge to the nearest point."""
    seed, eps, scale = case
    images, moves = (tensor.double() for tensor in saturated(seed, (3, 6)))
    target = images + scale * moves
    point, ball_rest, box_rest = target, torch.zeros_like(target), torch.zeros_like(target)
    for _ in range(500):
        inner = point + ball_rest - images
        shrink = (eps / lengths("l2", inner).clamp_min(1e-30)).clamp_max(1)[:, None]
        in_ball = images + shrink * inner
        ball_rest = point + ball_rest - in_ball
        point = (in_ball + box_rest).clamp(0, 1)
        box_rest = in_ball + box_rest - point
    ours = project("l2", target, images, eps)
    assert torch.all(lengths("l2", ours - target) <= lengths("l2", point - target) + 1e-5)


@given(case=cases)
@settings(max_examples=30, deadline=None)
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(case) -> None:
    """Against bisection of the threshold t in sign(d) min(max(|d| - t, 0), room)."""
    seed, eps, scale = case
    images, moves = (tensor.double() for tensor in saturated(seed, (3, 6)))
    deltas = scale * moves
    room = torch.where(deltas > 0, 1 - images, images)
    low, high = torch.zeros(3, 1).double(), deltas.abs().amax(1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        parts = torch.minimum((deltas.abs() - middle).clamp_min(0), room)
        far = parts.sum(1, keepdim=True) > eps
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    parts = torch.minimum((deltas.abs() - high).clamp_min(0), room)
    ours = project("l1", images + deltas, images, eps)
    assert torch.allclose(ours, images + deltas.sign() * parts, atol=1e-9)


@pytest.mark.parametrize("norm", BALLS)
def test_projection_leaves_what_is_inside_alone(norm) -> None:
    images, moves = saturated(0)
    moved = (images + 0.01 * moves).clamp(0, 1)
    assert torch.allclose(project(norm, moved, images, 2.0), moved, atol=1e-7)


@given(st.integers(0, 2**31), st.floats(0, 1.2))
@settings(max_examples=50, deadline=None)
def test_the_water_level_fills_to_the_total_or_says_that_it_cannot(seed, share) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(4, 30, generator=generator, dtype=torch.float64)
    caps = torch.rand(4, 30, generator=generator, dtype=torch.float64)
    caps = torch.where(caps < 0.3, 0.0, caps)
    total = share * (weights * caps).sum(1)
    level = water_level(weights, caps, total)
    filled = (weights * torch.minimum(level[:, None], caps)).sum(1)
    assert torch.allclose(filled, total.clamp_max((weights * caps).sum(1)))
    if abs(share - 1) > 1e-9:
        assert bool(level.isinf().all()) == (share > 1)


def test_steepest_steps_have_unit_length_and_guard_zero() -> None:
    gradients = torch.randn(3, 1, 4, 4)
    gradients[1] = 0
    gradients[2] *= 1e-30
    for norm in NORMS:
        steps = lengths(norm, steepest(norm, gradients))
        assert torch.allclose(steps, torch.tensor([1.0, 0.0, 1.0]), atol=1e-5), norm


@pytest.mark.parametrize("norm", NORMS)
def test_uniform_starts_fill_the_ball(norm) -> None:
    images = torch.full((4000, 1, 2, 2), 0.5)
    start = uniform_start(norm, images, 0.2, Draws(0, torch.arange(4000))) - images
    share = (lengths(norm, start) <= 0.1).float().mean()
    assert float(share) == pytest.approx(1 / 16, abs=5 * math.sqrt(1 / 16 / 4000))
    assert float(start.mean().abs()) < 0.01


@pytest.mark.parametrize("norm", BALLS)
def test_surface_starts_lie_on_the_surface(norm) -> None:
    images = torch.full((50, 1, 4, 4), 0.5)
    start = surface_start(norm, images, 0.2, Draws(0, torch.arange(50)))
    assert torch.allclose(lengths(norm, start - images), torch.full((50,), 0.2), atol=1e-6)
