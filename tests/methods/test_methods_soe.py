"""SoE: golden values, limits, and who learns from what."""

import math

import pytest
import torch
from nets import TINY
from rig import batch_of, changed, method_of, training_of, weights
from torch import Tensor, nn

from pipeline.core.ensemble import MaxConf, combine
from pipeline.core.losses import cross_entropy, soft_minimum
from pipeline.core.metrics import of_members
from pipeline.methods.soe import _DualHead, confidence_cross_entropy

THREE = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)[:, None]


class Fixed(nn.Module):
    """A member with given logits and confidence."""

    def __init__(self, logits: list[float], confidence: float) -> None:
        super().__init__()
        self.logits, self.confidence = torch.tensor(logits), confidence

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), torch.full((len(images),), self.confidence)


def test_soft_minimum_has_its_golden_values_and_bounds() -> None:
    assert float(soft_minimum(THREE, 1.0)) == pytest.approx(-0.21220, abs=5e-6)
    assert float(soft_minimum(THREE, 0.1)) == pytest.approx(0.19997, abs=5e-6)
    for sigma in (0.05, 0.3, 1.0, 4.0):
        value = float(soft_minimum(THREE, sigma))
        assert 0.2 - sigma * math.log(3) <= value <= 0.2
    equal = torch.full((3, 1), 0.7, dtype=torch.float64)
    assert float(soft_minimum(equal, 0.5)) == pytest.approx(0.7 - 0.5 * math.log(3))


def test_soft_minimum_weighs_gradients_by_the_softmax_of_minus_loss() -> None:
    losses = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    for sigma in (0.3, 1.0):
        (found,) = torch.autograd.grad(soft_minimum(losses, sigma).sum(), losses)
        assert torch.allclose(found, (-losses / sigma).softmax(0))
    (found,) = torch.autograd.grad(soft_minimum(losses, 1e-3).sum(), losses)
    assert torch.equal(found.argmax(0), losses.argmin(0))
    assert torch.autograd.gradcheck(lambda x: soft_minimum(x, 0.7), losses)


def test_confidence_loss_is_least_at_its_target_and_finite_when_saturated() -> None:
    target = torch.tensor([0.3])
    values = [float(confidence_cross_entropy(torch.tensor([c]), target)) for c in (0.2, 0.3, 0.5)]
    assert values[1] == min(values)
    assert values[1] == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7))
    ends = confidence_cross_entropy(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert ends.isfinite().all()


def test_the_most_confident_member_answers_alone_and_ties_go_to_the_first() -> None:
    images = torch.zeros(2, 1, 8, 8)
    members = [Fixed([9.0, 0, 0], 0.0), Fixed([0, 1.0, 0], 1.0), Fixed([0, 0, 5.0], 0.0)]
    assert torch.equal(combine("max_conf", members)(images), members[1](images))
    tied = [Fixed([0, 1.0, 0], 0.5), Fixed([9.0, 0, 0], 0.5)]
    assert torch.equal(combine("max_conf", tied)(images), tied[0](images))


def test_members_without_a_head_are_chosen_by_their_largest_softmax() -> None:
    class Plain(Fixed):
        answer = None  # type: ignore[assignment]

    images = torch.zeros(1, 1, 8, 8)
    sure = Plain([0, 5.0, 0], 0.0)
    assert torch.equal(MaxConf([Plain([1.0, 0, 0], 0.9), sure])(images), sure(images))


def test_phase_one_crafts_against_each_member_and_phase_two_against_all() -> None:
    method, batch = method_of("soe", phase_two=3), batch_of()
    images, labels = method._examples(training_of(method, 3, epoch=2), batch)
    assert len(images) == len(labels) == 18
    first = images[:6], images[6:12]
    assert not torch.equal(*first)
    images, labels = method._examples(training_of(method, 3, epoch=3), batch)
    assert len(images) == 6 and torch.equal(labels, batch.labels)
    never = method_of("soe_100_without_phase_two")
    assert len(never._examples(training_of(never, 3, epoch=999), batch)[0]) == 18


def test_as_printed_only_the_evaluator_learns_from_the_confidence() -> None:
    """With and without the BCE the backbone takes the same step; as released it does not."""
    for entry, is_alike in (("soe", True), ("soe_released", False)):
        nets = []
        for weight in (0.0, 5.0):
            method = method_of(entry, weight_confidence=weight, weighting="soft_minimum")
            training = training_of(method)
            method.step(training, batch_of())
            nets.append([m.net for m in training.members])
        assert (not any(changed(weights(nets[0]), weights(nets[1])))) == is_alike


def test_one_member_with_equal_heads_is_adversarial_training_on_its_own_examples() -> None:
    """One member, no clean term, sigma 1: the soft minimum of one loss is that loss."""
    method = method_of("soe", add_clean=False, weight_confidence=0)
    training, batch = training_of(method, members=1), batch_of()
    twin = training_of(method, members=1)
    crafted, labels = method._examples(twin, batch)
    loss = twin.update(0, cross_entropy(twin.members[0](crafted), labels))
    assert float(method.step(training, batch)) == pytest.approx(float(loss), rel=1e-6)
    for one, other in zip(weights(training.members), weights(twin.members), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_loss_does_not_depend_on_the_order_of_members() -> None:
    method, batch = method_of("soe"), batch_of(double=True)
    training = training_of(method, 3, double=True)
    before = method._common(training, batch.images, batch.labels)
    training.members = training.members[::-1]
    assert torch.allclose(method._common(training, batch.images, batch.labels), before)


def test_the_common_loss_has_the_gradient_of_finite_differences() -> None:
    """In a weight behind the BCE's target, which is a constant to the loss."""
    method, batch = method_of("soe", through=True), batch_of(4, double=True)
    training = training_of(method, 2, double=True)
    weight = training.members[0].evaluator.weight
    loss = method._common(training, batch.images, batch.labels)
    (found,) = torch.autograd.grad(loss, weight)
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            weight[0, 3] += step
            values.append(float(method._common(training, batch.images, batch.labels)))
    assert float(found[0, 3]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_a_dual_head_reads_the_features_of_its_net() -> None:
    torch.manual_seed(0)
    net = TINY.build(classes=4, channels=1, size=8, mean=[0.0], std=[1.0])
    member, images = _DualHead(net, rectified=False).eval(), torch.rand(3, 1, 8, 8)
    logits, trust = member.answer(images)
    assert torch.equal(logits, net(images)) and torch.equal(member(images), logits)
    assert torch.allclose(trust, torch.sigmoid(member.evaluator(net.pooled(images)))[:, 0])
    images.requires_grad_()
    assert torch.autograd.grad(member.answer(images)[1].sum(), images)[0].abs().max() > 0
    member.rectified = True
    assert torch.allclose(member.answer(images)[1], trust * logits.softmax(-1).amax(-1))


def test_oracle_is_never_below_vote_or_the_victim_and_regret_is_their_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(4, (200, 3), generator=generator).numpy()
    labels = torch.randint(4, (200,), generator=generator).numpy()
    right = (said[:, 0] == labels).astype("float32")  # the victim hears member 0
    oracle = of_members("oracle", right, said, labels)
    assert (oracle >= of_members("vote", right, said, labels)).all()
    regret = of_members("regret", right, said, labels)
    assert regret.min() == 0 and (regret == oracle - right).all()
    assert of_members("alone", right, said, labels).mean() <= oracle.mean()
