"""AUTE's losses against golden values (float64, by hand) and the printed formulas."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from members import (
    LABELS,
    NAMES,
    A,
    Z,
    assert_same,
    attack_of,
    aute_losses,
    batch_of,
    differ,
    method_of,
    states,
    train_steps,
    training_of,
)
from torch import Tensor, nn

from pipeline.core import batchnorm
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.methods.aute import Aute
from pipeline.plan.params.entries import Entries

PAPER = method_of("aute")
RELEASED = replace(method_of("aute_released"), ramp_start=40, ramp_end=80)


def weight_of(method: Aute, probs: list[float], label: int, index: int = 0) -> float:
    """The weight on cross-entropy of one example predicted with these probabilities."""
    logits, labels = torch.tensor([probs], dtype=torch.float64).log(), torch.tensor([label])
    method = replace(method, beta=0.0, base_loss="ce")
    losses, _ = aute_losses(method, [logits] * 3, labels, index)
    return (losses / cross_entropy(logits, labels)).item()


def test_the_unlearning_weight_has_its_golden_values():
    learn = replace(PAPER, margin=0.25, gamma=0.5)
    for method in (learn, replace(RELEASED, margin=0.25, gamma=0.5)):
        assert weight_of(method, [0.5, 0.375, 0.125], 0) == pytest.approx(0.875)
    scaled = replace(learn, index_scaled=True)
    found = [weight_of(scaled, [0.6875, 0.1875, 0.125], 0, i) for i in range(3)]
    assert found == pytest.approx([0, -0.25, -0.5])
    assert weight_of(learn, [0.6875, 0.1875, 0.125], 0) == pytest.approx(-0.25)
    wrong = [0.625, 0.125, 0.25]
    assert weight_of(learn, wrong, 1) == pytest.approx(1.5)  # 1 + |D|
    assert weight_of(replace(learn, wrong_margin="zero"), wrong, 1) == pytest.approx(1)
    assert weight_of(PAPER, [0.9, 0.05, 0.05], 0) == pytest.approx(-0.0085)
    assert weight_of(RELEASED, [0.5, 0.495, 0.005], 0) == pytest.approx(0.995)


def test_at_the_margin_the_paper_forgets_and_the_code_learns():
    for at_margin, weight in (("forget", 0), ("learn", 1)):
        method = replace(PAPER, margin=0.0, at_margin=at_margin)
        assert weight_of(method, [0.25] * 4, 0) == weight


def test_the_released_loss_is_weight_times_the_boosted_base():
    labels = torch.tensor([0, 0])
    logits = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.495, 0.005]], dtype=torch.float64).log()
    losses, _ = aute_losses(replace(RELEASED, beta=0.0), [logits] * 2, labels, index=1)
    assert losses.tolist() == pytest.approx([-0.0085 * 0.1565, 0.995 * 1.3761], rel=1e-3)
    losses, _ = aute_losses(replace(RELEASED, beta=0.0), [logits] * 2, labels, index=0)
    assert losses.tolist() == pytest.approx([0, 0.995 * 1.3761], rel=1e-3)


def test_alignment_is_ramped_as_the_code_does():
    def aligned(method: Aute, epoch: int) -> float:
        found, _ = aute_losses(method, [Z, A, Z + A], LABELS, epoch=epoch)
        return found.sum().item()

    plain = aligned(replace(RELEASED, beta=0.0), 120)
    full = aligned(RELEASED, 120) - plain
    assert full > 0.01
    for epoch, share in ((1, 0), (40, 0), (60, 0.5), (80, 1), (120, 1)):
        assert aligned(RELEASED, epoch) - plain == pytest.approx(share * full)
    assert aligned(PAPER, 1) == aligned(PAPER, 120)


def test_a_scale_keeps_the_ramps_shape():
    fields = (
        Entries({**tiny.params(epochs=12), "scale": "demo"})
        .method("aute_released", tiny.SETTING)[0]
        .fields
    )
    assert (fields["ramp_start"], fields["ramp_end"]) == (4, 8)


@pytest.mark.parametrize("order", ["member_peers", "peers_member"])
@pytest.mark.parametrize("align", ["weighted", "unweighted"])
def test_alignment_with_equal_peers_is_nothing(order, align):
    method = replace(PAPER, learn="plain", kl_order=order, align=align)
    losses, nets = aute_losses(method, [Z, Z, Z], LABELS)
    assert torch.allclose(losses, cross_entropy(Z, LABELS), atol=1e-14)
    losses.sum().backward()
    expected = (Z.softmax(1) - nn.functional.one_hot(LABELS, 3)).abs().sum()
    assert nets[0].logits.grad.abs().sum().item() == pytest.approx(expected.item())


def test_peers_receive_no_gradient():
    for name in [n for n in NAMES if n.startswith("aute")]:
        losses, nets = aute_losses(method_of(name), [Z, A, Z + A], LABELS, index=1)
        losses.sum().backward()
        assert nets[1].logits.grad is not None
        assert nets[0].logits.grad is None and nets[2].logits.grad is None


def reference(method: Aute, z: Tensor, held: Tensor, peers: list[Tensor]) -> Tensor:
    """AUTE's sum of losses from the paper's formulas; weights are taken at logits `held`."""
    total = z.new_zeros(())
    for row, label in enumerate(LABELS.tolist()):
        p, q = z[row].softmax(0), held[row].softmax(0)
        wrong = [k for k in range(3) if k != label]
        d = q[label] - max(q[k] for k in wrong)
        if method.wrong_margin == "zero" and d < 0:
            d = d * 0
        w = 1 - d if d < method.margin else -method.gamma * d
        base = -p[label].log()
        if method.base_loss == "boosted":
            base = base - (1.0001 - max(p[k] for k in wrong) + 1e-12).log()
        mean = torch.stack([peer[row].softmax(0) for peer in peers]).mean(0)
        pair = (p, mean) if method.kl_order == "member_peers" else (mean, p)
        divergence = (pair[0] * (pair[0].log() - pair[1].log())).sum()
        total = total + w * base + method.beta * (1 - q[label]) * divergence
    return total


def numeric_gradient(function: Any, z: Tensor, step: float = 1e-6) -> Tensor:
    gradient = torch.zeros_like(z)
    for i in range(z.numel()):
        moved = torch.zeros_like(z).flatten()
        moved[i] = step
        up, down = function(z + moved.view_as(z)), function(z - moved.view_as(z))
        gradient.view(-1)[i] = (up - down) / (2 * step)
    return gradient


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("own, peer", [(Z, A), (A, Z)], ids=["knows", "doubts"])
@pytest.mark.parametrize("start", [PAPER, RELEASED], ids=["paper", "released"])
def test_gradients_are_those_of_the_printed_loss(start, own, peer, detached):
    # at margin 0.5 the rows are: one unlearned, one learned; one learned, one wrong
    method = replace(start, detach_weights=detached, index_scaled=False, gamma=0.5, margin=0.5)
    peers = [peer, Z + A]
    losses, nets = aute_losses(method, [own, *peers], LABELS)
    assert losses.sum().item() == pytest.approx(reference(method, own, own, peers).item())
    losses.sum().backward()

    def loss(z: Tensor) -> Tensor:
        return reference(method, z, own if detached else z, peers)

    assert torch.allclose(nets[0].logits.grad, numeric_gradient(loss, own), atol=1e-8)


def test_aute_without_both_parts_is_joint_adversarial_training_bit_for_bit():
    joint = method_of("pgd_at_joint")
    reduced = method_of("aute", learn="plain", beta=0.0)
    trained = train_steps(joint, training_of("pgd_at_joint", joint, 3))
    other = training_of("aute", reduced, 3)
    assert other.attack == attack_of("pgd_at_joint")
    assert_same(trained, train_steps(reduced, other))


def test_a_member_sees_the_peers_before_it_updated_and_those_after_it_not_yet():
    method = method_of("aute")
    whole, parts = (training_of("aute", method, 3) for _ in range(2))
    batch = batch_of()
    adversarial = parts.craft(batch)
    method.step(whole, batch)
    late = training_of("aute", method, 3)
    late.update(1, method.loss(late, 1, batch, adversarial))  # before member 0's update
    assert differ(states(late)[1], states(whole)[1])
    for index in range(3):
        parts.update(index, method.loss(parts, index, batch, adversarial))
        assert not differ(states(parts)[index], states(whole)[index])


def test_member_0_is_unaffected_by_what_the_others_learn():
    method = method_of("aute")
    one, two = (training_of("aute", method, 3) for _ in range(2))
    for group in two.optimisers[2].param_groups + two.optimisers[1].param_groups:
        group["lr"] = 0.5
    for training in (one, two):
        method.step(training, batch_of())
    assert not differ(states(one)[0], states(two)[0])
    assert differ(states(one)[1], states(two)[1])


def test_released_peers_move_their_statistics_and_ours_do_not():
    method, batch = method_of("aute"), batch_of()
    for mode, moves in (("eval", False), ("train_frozen", False), ("train_update", True)):
        training = training_of("aute", method, 2, attack_bn_mode=mode)
        before = states(training)[1]
        method.loss(training, 0, batch, batch.images)
        assert differ(before, states(training)[1]) == moves
        assert all(m.training for m in training.members[1].modules())


def test_peers_that_are_asked_once_are_not_folded(monkeypatch):
    method, batch = method_of("aute"), batch_of()
    training = training_of("aute", method, 2, attack_bn_mode="eval")
    monkeypatch.setattr(batchnorm, "folded", lambda module: pytest.fail("a peer was folded"))
    method.loss(training, 0, batch, batch.images)


@pytest.mark.parametrize("smoothing", [0.1, 0.3, 0.5])
def test_label_smoothing_shares_the_coefficient_among_the_wrong_classes(smoothing):
    method = replace(PAPER, learn="smooth", smoothing=smoothing, beta=0.0)
    losses, _ = aute_losses(method, [Z, A], LABELS)
    target = torch.full((2, 3), smoothing / 2, dtype=torch.float64)
    target[torch.arange(2), LABELS] = 1 - smoothing
    assert torch.allclose(losses, -(target * Z.log_softmax(1)).sum(1))


def test_every_row_of_the_ablation_is_another_loss():
    rows = ["aute", "aute_released", *(n for n in NAMES if n.startswith(("aute_w", "aute_ls")))]
    sums = [aute_losses(method_of(n), [Z, A, Z + A], LABELS, 1)[0].sum().item() for n in rows]
    assert len({round(s, 9) for s in sums}) == len(rows) > 7


def test_more_peers_than_there_are_are_refused():
    with pytest.raises(UserError, match="aute: peers 3, but a member has 2; 0 is all"):
        training_of("aute", replace(PAPER, peers=3), 3)


def test_labels_are_smoothed_at_most_to_an_even_one():
    even = replace(PAPER, learn="smooth", smoothing=1 - 1 / 3, beta=0.0)
    losses, _ = aute_losses(even, [Z, A], LABELS)
    assert torch.allclose(losses, -Z.log_softmax(1).mean(1))
    for smoothing in (0.91, -0.1):
        beyond = replace(PAPER, learn="smooth", smoothing=smoothing)
        with pytest.raises(UserError, match=f"aute: smoothing {smoothing}: .* 0 to 0.9,"):
            training_of("aute", beyond, 2)
