"""ARoW: the paper's values, recomputed in float64, and where it equals simpler methods."""

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


def loss(weight: float, smoothing: float, clean=Z, adversarial=A) -> float:
    method = method_of("arow", weight_regulariser=weight, smoothing=smoothing)
    return losses_of(method, Answers(clean, adversarial)).mean().item()


def test_its_loss_has_the_golden_values():
    assert loss(6.0, 0.2) == pytest.approx(1.402574, abs=6e-7)
    assert loss(7.0, 0.2) == pytest.approx(1.541818, abs=6e-7)
    assert loss(0.0, 0.2) == pytest.approx((0.503179 + 0.631035) / 2, abs=6e-7)
    assert loss(1.0, 0.2) - loss(0.0, 0.2) == pytest.approx(0.139244, abs=6e-7)


def test_its_loss_is_the_printed_formula():
    p, q = Z.softmax(1), A.softmax(1)
    expected = []
    for i, y in enumerate(LABELS):
        divergence = sum(float(p[i, k]) * math.log(p[i, k] / q[i, k]) for k in range(3))
        smoothed = -0.8 * math.log(p[i, y]) - sum(0.2 / 3 * math.log(p[i, k]) for k in range(3))
        expected.append(smoothed + 7 * divergence * (1 - float(q[i, y])))
    assert losses_of(method_of("arow"), Answers(Z, A)).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_gradient_flows_through_the_weight():
    def gradient(weight: float):
        member = Answers(Z, A)
        losses_of(method_of("arow", weight_regulariser=weight), member).mean().backward()
        return [row.grad for row in member.rows]

    clean, adversarial = gradient(7.0)
    assert gradient(0.0)[1] is None
    q = A.clone().requires_grad_()
    probs = q.softmax(1)
    divergence = (Z.softmax(1) * (Z.log_softmax(1) - probs.log())).sum(1)
    doubt = 1 - probs[torch.arange(2), LABELS]
    (expected,) = torch.autograd.grad(7 * (divergence * doubt).mean(), q)
    assert torch.allclose(adversarial, expected, atol=1e-9)
    assert (clean - gradient(0.0)[0]).abs().max() > 0.01


def test_without_weight_and_smoothing_it_is_clean_training_bit_for_bit():
    standard = method_of("standard")
    arow = method_of("arow", weight_regulariser=0.0, smoothing=0.0)
    clean = train_steps(standard, training_of("standard", standard, 1))
    assert_same(clean, train_steps(arow, training_of("arow", arow, 1)))


def test_where_every_adversarial_prediction_is_surely_wrong_it_is_trades():
    wrong = torch.tensor([[0.0, 40, 0], [0, 0, 40]])
    trades = losses_of(method_of("trades", beta=7.0), Answers(Z, wrong)).mean().item()
    assert loss(7.0, 0.0, adversarial=wrong) == pytest.approx(trades, abs=1e-9)
