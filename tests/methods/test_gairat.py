"""GAIRAT: the paper's values, and where it equals simpler methods."""

import pytest
import torch
from members import LABELS, A, assert_same, batch_of, method_of, train_steps, training_of

from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError

OMEGA = [0.999665, 0.997527, 0.982014, 0.880797, 0.5, 0.119203, 0.017986, 0.002473, 0.000335]
OMEGA += [4.5e-5, 6e-6]


def test_weights_have_the_golden_values():
    method = method_of("gairat")
    weights = method.weigh(torch.arange(11))
    assert (weights / weights.sum() * sum(OMEGA)).tolist() == pytest.approx(OMEGA, abs=2e-6)
    few = method.weigh(torch.tensor([0, 5, 10, 10])).tolist()
    assert few == pytest.approx([3.573805, 0.426151, 2.2e-5, 2.2e-5], abs=2e-6)


def test_its_loss_has_the_golden_value():
    weights = method_of("gairat").weigh(torch.tensor([2, 7]))
    assert weights.tolist() == pytest.approx([1.994977, 0.005023], abs=1e-6)
    assert (weights * cross_entropy(A, LABELS)).mean().item() == pytest.approx(0.680951, abs=1e-6)


def test_equal_counts_weigh_one_and_more_right_iterates_never_weigh_more():
    method = method_of("gairat")
    assert torch.allclose(method.weigh(torch.full((7,), 4)), torch.ones(7))
    weights = method.weigh(torch.arange(11))
    assert (weights.diff() <= 0).all() and weights.mean().item() == pytest.approx(1)


def test_an_iterate_is_counted_while_it_is_right():
    method = method_of("gairat", eps=0.1, step_size=0.02, steps=10)
    batch = batch_of(32)
    training = training_of("gairat", method, 1)
    training.members[0].eval()
    moved, right = method.climb(training.ensemble, batch)
    assert (moved - batch.images).abs().max() <= 0.1 + 1e-6
    assert right.min() >= 0 and right.max() <= 10 and len(set(right.tolist())) > 1


def test_up_to_burn_in_it_is_pgd_at_bit_for_bit():
    pgd_at, gairat = method_of("pgd_at"), method_of("gairat", burn_in=3)
    steps = training_of("pgd_at", pgd_at, 1).attack.steps
    gairat = method_of("gairat", burn_in=3, steps=steps)
    plain = train_steps(pgd_at, training_of("pgd_at", pgd_at, 1))
    assert_same(plain, train_steps(gairat, training_of("gairat", gairat, 1)))
    later = method_of("gairat", burn_in=2, steps=steps)
    found = train_steps(later, training_of("gairat", later, 1))
    assert any(not torch.equal(plain[0][k], found[0][k]) for k in plain[0])


def test_weights_that_all_round_to_nothing_are_no_nan():
    method = method_of("gairat", lambda_=-20)
    assert method.weigh(torch.tensor([10, 10])).tolist() == [0, 0]


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="gairat: steps 0: .*give 1 or more"):
        method_of("gairat", steps=0)
