"""HAT: the paper's values, recomputed in float64, and where it equals simpler methods."""

import pytest
import torch
from members import A, Answers, Z, assert_same, losses_of, method_of, train_steps, training_of

T = torch.tensor([[3.0, -1, 0], [-0.5, 2, 0.5]])  # the member's logits at helper points
HELPER = Answers(Z, torch.tensor([[0.0, 0, 1], [0, 1, 0]]))  # which it calls 2 and 1


@pytest.mark.parametrize("beta, gamma, expected", [(2.5, 0.5, 1.779804), (6.0, 0.25, 2.244760)])
def test_its_loss_has_the_golden_values(beta, gamma, expected):
    method = method_of("hat", beta=beta, gamma=gamma)
    losses = losses_of(method, Answers(Z, A, T), helper=HELPER)
    assert losses.mean().item() == pytest.approx(expected, abs=6e-7)


def test_no_gradient_reaches_the_helper_and_some_reaches_all_three_points():
    member, helper = Answers(Z, A, T), Answers(Z, A)
    losses_of(method_of("hat"), member, helper=helper).sum().backward()
    assert all(row.grad is None for row in helper.rows)
    assert all(row.grad.abs().max() > 0 for row in member.rows)


def test_the_helper_labels_the_adversarial_point_and_h_one_is_that_point():
    member = Answers(Z, A)
    losses = losses_of(method_of("hat", h=1.0, gamma=1.0), member, helper=HELPER)
    trades = losses_of(method_of("trades", beta=2.5), member)
    expected = -A.log_softmax(1)[torch.arange(2), torch.tensor([2, 1])]
    assert torch.allclose(losses - trades, expected, atol=1e-9)


def test_gamma_zero_is_trades_bit_for_bit():
    trades, hat = method_of("trades"), method_of("hat", beta=6.0, gamma=0.0)
    expected = train_steps(trades, training_of("trades", trades, 1))
    assert_same(expected, train_steps(hat, training_of("hat", hat, 1)))
