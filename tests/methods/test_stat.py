"""STAT: the paper's values, recomputed in float64, and where it equals simpler methods."""

import pytest
import torch
from members import (
    LABELS,
    A,
    Answers,
    Z,
    assert_same,
    batch_of,
    method_of,
    train_steps,
    training_of,
)

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, true_probability
from pipeline.methods.stat import _extremes

T = torch.tensor([[3.0, -1, 0], [-0.5, 2, 0.5]], dtype=torch.float64)
DETACHED = [-0.107440, 0.072512, 0.034928, 0.019797, -0.094987, 0.075191]


def squeezed(beta: float, *rows: torch.Tensor) -> tuple[torch.Tensor, Answers]:
    """Losses where a member answers Z on x, A on the adversarial, T on the collaborative image."""
    member, clean = Answers(*(rows or (Z, A, T))), torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    batch = Batch(clean, LABELS, Draws(0, torch.arange(2)))
    return method_of("stat", beta=beta).squeeze(member, batch, clean + 1, clean + 2), member


def test_its_loss_has_the_golden_values():
    losses, _ = squeezed(6.0)
    assert losses.mean().item() == pytest.approx(3.204109, abs=6e-7)
    gaps = (losses - cross_entropy(Z, LABELS)) / 6
    assert gaps.tolist() == pytest.approx([0.647295, 0.315039], abs=6e-7)


def test_its_gradient_is_that_of_detached_targets():
    losses, member = squeezed(1.0)
    losses.mean().backward()
    assert member.rows[1].grad.flatten().tolist() == pytest.approx(DETACHED, abs=6e-7)


def test_equal_neighbours_cost_clean_cross_entropy_alone():
    losses, _ = squeezed(6.0, Z, Z, Z)
    assert torch.allclose(losses, cross_entropy(Z, LABELS), atol=1e-12)


def test_the_extremes_are_found_whichever_point_they_are():
    points = torch.stack([A, Z, T])
    lowest, highest = _extremes(points, LABELS)
    assert (lowest.tolist(), highest.tolist()) == ([0, 0], [2, 2])


def test_neighbours_stay_in_the_ball_and_surround_the_image():
    method = method_of("stat")
    training = training_of("stat", method, 1)
    training.members[0].eval()
    batch = batch_of(16)
    adversarial, collaborative = method.find_neighbours(training.members[0], batch)
    for points in (adversarial, collaborative):
        assert (points - batch.images).abs().max() <= method.eps + 1e-6
        assert points.min() >= 0 and points.max() <= 1 and not points.requires_grad
    low, own, high = (
        true_probability(training.members[0](x), batch.labels)
        for x in (adversarial, batch.images, collaborative)
    )
    assert (low < high).all()
    assert ((low < own) & (own < high)).float().mean() > 0.5


def test_running_statistics_move_twice_a_step():
    method = method_of("stat")
    training = training_of("stat", method, 1)
    method.step(training, batch_of())
    counts = {int(v) for k, v in training.members[0].state_dict().items() if "tracked" in k}
    assert counts == {2}


def test_beta_zero_is_clean_training_bit_for_bit():
    standard, stat = method_of("standard"), method_of("stat", beta=0.0)
    clean = train_steps(standard, training_of("standard", standard, 1))
    assert_same(clean, train_steps(stat, training_of("stat", stat, 1)))
