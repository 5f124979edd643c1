"""MART: the paper's values, recomputed in float64, and where it equals simpler methods."""

import math

import pytest
import torch
from members import (
    LABELS,
    A,
    Answers,
    Z,
    assert_same,
    losses_of,
    method_of,
    train_steps,
    training_of,
)

from pipeline.core.losses import boosted_cross_entropy, cross_entropy


def test_its_loss_and_both_gradients_have_the_golden_values():
    member = Answers(Z, A)
    losses = losses_of(method_of("mart", beta=5.0), member)
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(1.648710, abs=6e-7)
    assert losses_of(method_of("mart"), member).mean().item() == pytest.approx(1.714808, abs=6e-7)
    clean, adversarial = (row.grad.flatten().tolist() for row in member.rows)
    assert clean == pytest.approx(
        [6.7e-05, 0.005948, -0.006015, 0.141517, -0.005943, -0.135575], abs=6e-7
    )
    assert adversarial == pytest.approx(
        [-0.490758, 0.382543, 0.108215, -0.075168, -0.704329, 0.779497], abs=6e-7
    )


def test_its_loss_is_the_printed_formula():
    p, q = Z.softmax(1), A.softmax(1)
    expected = []
    for i, y in enumerate(LABELS):
        rival = max(float(q[i, k]) for k in range(3) if k != y)
        divergence = sum(float(p[i, k]) * math.log(p[i, k] / q[i, k]) for k in range(3))
        boosted = -math.log(q[i, y]) - math.log(1.0001 - rival)
        expected.append(boosted + 5 * divergence * (1.0000001 - float(p[i, y])))
    found = losses_of(method_of("mart", beta=5.0), Answers(Z, A)).tolist()
    assert found == pytest.approx(expected, abs=1e-9)


def test_beta_zero_ignores_clean_images():
    member = Answers(Z, A)
    losses_of(method_of("mart", beta=0.0), member).sum().backward()
    assert member.rows[0].grad is None and member.rows[1].grad is not None


def test_sure_and_right_on_every_clean_image_it_is_boosted_cross_entropy():
    sure = torch.tensor([[60.0, 0, 0], [0, 60, 0]])
    losses = losses_of(method_of("mart"), Answers(sure, A))
    assert losses.tolist() == pytest.approx(boosted_cross_entropy(A, LABELS).tolist(), abs=1e-5)
    assert (losses >= cross_entropy(A, LABELS)).all()


def test_uniform_predictions_of_ten_classes_cost_the_known_value():
    even = torch.zeros(1, 10)
    losses = losses_of(method_of("mart"), Answers(even, even), torch.tensor([3]))
    assert losses.item() == pytest.approx(-math.log(0.1) - math.log(0.9001), abs=1e-9)


def test_one_joint_member_is_the_single_model_method_bit_for_bit():
    one, joint = method_of("mart"), method_of("mart_joint")
    alone = train_steps(one, training_of("mart", one, 1))
    assert_same(alone, train_steps(joint, training_of("mart_joint", joint, 1)))
