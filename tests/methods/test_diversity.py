"""ADP's regularisers: entropy of the mean prediction, volume of the wrong classes."""

import math
from dataclasses import replace

import pytest
import torch
from members import (
    LABELS,
    A,
    Z,
    aute_losses,
    method_of,
    training_of,
)

from pipeline.errors import UserError
from pipeline.methods._adp import log_volume, mean_entropy


def test_the_volume_of_identical_members_has_its_golden_value():
    probs_KBC = Z.softmax(1).expand(3, 2, 3)
    wide = torch.cat([probs_KBC / 2, probs_KBC / 2], dim=2)  # 6 classes: room for 3 members
    for probs in (wide, wide.float()):
        found = log_volume(probs, LABELS)
        assert found.tolist() == pytest.approx([-26.5324] * 2, abs=0.02)
    exact = 2 * math.log(1e-6) + math.log(3 + 1e-6)
    assert log_volume(wide, LABELS).tolist() == pytest.approx([exact] * 2, abs=1e-3)


def test_the_volume_of_orthogonal_members_is_almost_0():
    probs_KBC = torch.eye(4, dtype=torch.float64)[1:, None] * 0.5
    probs_KBC[:, :, 0] = 0.5
    assert log_volume(probs_KBC, torch.tensor([0])).item() == pytest.approx(3e-6, rel=1e-3)


def test_the_volume_does_not_see_the_true_class_or_the_order():
    probs_KBC = torch.stack([Z, A]).softmax(-1)
    volume = log_volume(probs_KBC, LABELS)
    assert torch.allclose(volume, log_volume(probs_KBC.flip(0), LABELS))
    raised = probs_KBC.clone()
    raised[:, torch.arange(2), LABELS] += 0.3
    assert torch.allclose(volume, log_volume(raised, LABELS))


def test_a_certain_member_has_a_finite_volume():
    probs_KBC = torch.tensor([[[1.0, 0, 0, 0]], [[0.4, 0.3, 0.2, 0.1]]], requires_grad=True)
    volume = log_volume(probs_KBC, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(volume.sum(), probs_KBC)
    assert volume.isfinite().all() and gradient.isfinite().all()


def test_the_entropy_of_the_mean_prediction_is_at_most_that_of_chance():
    uniform = torch.full((2, 1, 10), 0.1, dtype=torch.float64)
    assert mean_entropy(uniform).item() == pytest.approx(math.log(10))
    assert mean_entropy(torch.stack([Z, A]).softmax(-1)).max() < math.log(3)
    sure = torch.eye(2, dtype=torch.float64)[:, None]
    assert mean_entropy(sure).item() == pytest.approx(math.log(2))
    assert mean_entropy(sure[:1]).item() == pytest.approx(0, abs=1e-15)


def test_the_adp_row_regularises_in_place_of_alignment():
    method = method_of("aute_with_adp")
    plain, _ = aute_losses(replace(method, beta=0.0), [Z, A], LABELS)
    found, _ = aute_losses(method, [Z, A], LABELS)
    probs_KBC = torch.stack([Z, A]).softmax(-1)
    expected = plain - 2 * mean_entropy(probs_KBC) - 0.5 * log_volume(probs_KBC, LABELS)
    assert torch.allclose(found, expected)
    nothing = replace(method, adp_entropy=0.0, adp_volume=0.0)
    assert torch.equal(aute_losses(nothing, [Z, A], LABELS)[0], plain)


def test_more_members_than_wrong_classes_span_no_volume():
    """So ADP's term inside AUTE and iGAT refuses them as ADP does, where it counts."""
    for entry, changed in (("aute", {"align": "adp"}), ("igat", {"start": "none"})):
        with pytest.raises(UserError, match="10 members in 10 classes span no volume"):
            training_of(entry, method_of(entry, **changed), 10)
