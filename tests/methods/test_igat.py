"""iGAT: golden values of its two terms, the draw that shares images out, and ADP at weight 0."""

import pytest
import torch
from members import A, Given, Z, assert_same, batch_of, method_of, states, training_of
from torch import Tensor

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.methods.igat import share_out

LABELS = torch.tensor([1, 1])  # the mean of Z and A gets the first image wrong, the second right
WITHOUT = {"weight_global": 0, "weight_weakness": 0, "start": "none"}


def term_of(**changed) -> tuple[Tensor, Draws]:
    """What the terms add to ADP's regularisers, [B], of members that answer Z and A."""
    batch = Batch(torch.zeros(2, 1, 2, 2), LABELS, Draws(0, torch.arange(2)))
    found = []
    for method in (method_of("igat", **WITHOUT | changed), method_of("igat", **WITHOUT)):
        training = training_of("adp_at", method, 1)
        training.members, training.classes = [Given(Z.clone()), Given(A.clone())], 3
        found.append(method.terms(training, batch)[1])
    return (found[0] - found[1]).detach(), batch.draws


def test_weakness_has_its_golden_values_and_is_none_where_the_ensemble_is_right():
    one, _ = term_of(weight_weakness=1.0)
    assert one.tolist() == pytest.approx([1.856584, 0], abs=5e-7)
    every, _ = term_of(weight_weakness=1.0, weakness="all")
    assert every.tolist() == pytest.approx([2.562777, 0], abs=5e-7)


def test_the_drawn_members_cross_entropy_is_added_where_the_ensemble_is_wrong():
    # Of the first image's true class, Z says less than A: A is twice as likely.
    added, draws = term_of(weight_global=1.0)
    better = bool(draws.fork("share").uniform()[0] >= 1 / 3)
    assert added.tolist() == pytest.approx([1.180270 if better else 2.169846, 0], abs=5e-7)


def test_each_member_is_twice_as_likely_as_the_next_worse_one():
    count = 7000
    true_KB = torch.tensor([[0.5], [0.1], [0.9]]).expand(-1, count)
    chosen = share_out(true_KB, Draws(1, torch.arange(count)))
    shares = torch.bincount(chosen, minlength=3) / count
    assert shares.tolist() == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=0.02)
    half = share_out(true_KB[:, ::2], Draws(1, torch.arange(count)[::2]))
    assert torch.equal(chosen[::2], half)  # whatever the batch


def test_a_sure_wrong_member_has_a_finite_term_without_gradient():
    method = method_of("igat", **WITHOUT | {"weight_weakness": 1.0, "alpha": 0, "beta": 0})
    training = training_of("adp_at", method, 1)
    sure = Given(torch.tensor([[60.0, 0, 0]]))
    training.members, training.classes = [sure], 3
    batch = Batch(torch.zeros(1, 1, 2, 2), LABELS[:1], Draws(0, torch.arange(1)))
    regulariser = method.terms(training, batch)[1]
    assert regulariser.item() == pytest.approx(4.605170, abs=5e-7)  # -log 0.01
    assert torch.autograd.grad(regulariser.sum(), sure.logits)[0].abs().max() == 0


def test_without_its_terms_it_is_adp_on_both_kinds_of_images_bit_for_bit():
    found = []
    for entry, changed in (("igat", WITHOUT), ("adp_at_objective", {"optimiser": "sgd"})):
        method = method_of(entry, **changed)
        training = training_of("adp_at_objective", method, 3)
        for seed in range(2):
            method.step(training, batch_of(seed=seed))
        found.append(states(training))
    assert_same(*found)


def test_members_start_as_the_trained_ensembles():
    training = training_of("igat", method_of("igat"), 3)
    assert_same(states(training), [m.state_dict() for m in training.parents["start"].members])
