"""Entries that train as released: one step against the papers' own lines, written anew here."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from rig import ATTACK, batch_of, method_of, training_of
from torch.nn import functional as F

from pipeline.core.ensemble import combine
from pipeline.methods._fusion import fuse_probs
from pipeline.plan import Plan, load_plan
from pipeline.plan.params.entries import Setting

PAPER = Plan({**load_plan().entries.params, "scale": "paper"})
EPOCH = 120  # of AUTE's 120, where its ramp has ended


def released(entry, members=3, **changed):
    """A training in the mode of the released codes, and a twin with the same weights."""
    method = method_of(entry, **changed)
    pair = [training_of(method, members, epoch=EPOCH) for _ in range(2)]
    for training in pair:
        training.recipe = replace(training.recipe, attack_bn_mode="train_update")
    return method, *pair


def crafted(twin, batch):
    """Examples against the mean of the twin's members, every forward in training mode."""
    mean = combine("mean_prob", twin.members).train()
    return ATTACK(mean, batch.images, batch.labels, batch.draws.fork("attack"))


def assert_equal(training, twin, atol=1e-6):
    """Weights and running statistics."""
    for one, other in zip(training.members, twin.members, strict=True):
        states = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
        for (name, value), wanted in states:
            assert torch.allclose(value, wanted, atol=atol), name


def aute_loss(method, logits, peers, labels, index):
    """Adversarial_Trainer.train: MART's base loss, its weight, the ramped alignment."""
    probs, rows = logits.softmax(1), torch.arange(len(labels))
    others = probs.clone()
    others[rows, labels] = 0
    true, rival = probs[rows, labels], others.max(1).values
    base = F.cross_entropy(logits, labels, reduction="none") - (1.0001 - rival + 1e-12).log()
    distance = torch.where(true > rival, true - rival, torch.zeros_like(true))
    weight = torch.where(distance > method.margin, -method.gamma * index * distance, 1 - distance)
    mean = torch.stack([p.softmax(1) for p in peers]).mean(0)
    apart = F.kl_div(probs.log(), mean, reduction="none").sum(1)
    return (weight * base + method.beta * (1 - true) * apart).mean()


def test_aute_crafts_and_asks_its_peers_in_training_mode():
    method, training, twin = released("aute_released")
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    images = crafted(twin, batch)
    expected = []
    for i, member in enumerate(twin.members):
        logits = member(images)
        with torch.no_grad():
            peers = [m(images) for m in twin.members[:i] + twin.members[i + 1 :]]
        one = aute_loss(method, logits, peers, batch.labels, i)
        twin.optimisers[i].zero_grad()
        one.backward()
        twin.optimisers[i].step()
        expected.append(float(one.detach()))
    assert loss == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert_equal(training, twin)


def test_evaluation_mode_is_another_step():
    """What the unified table does to AUTE: other examples, other peers, another loss."""
    method, training, twin = released("aute_released")
    twin.recipe = replace(twin.recipe, attack_bn_mode="eval")
    batch = batch_of(8)
    assert float(method.step(training, batch)) != pytest.approx(
        float(method.step(twin, batch)), rel=1e-3
    )


def test_soe_crafts_against_the_collaboration_in_training_mode():
    method, training, twin = released("soe_released")
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    together = combine("max_conf", twin.members)
    together.train()
    adversarial = ATTACK(together, batch.images, batch.labels, batch.draws.fork("attack"))
    total = 0.0
    for images in (adversarial, batch.images):
        answers = [m.heads(images, through=True) for m in twin.members]
        losses = torch.stack(
            [F.cross_entropy(z, batch.labels, reduction="none") for z, _ in answers]
        )
        doubts, confidences = [], []
        for (logits, trust), own in zip(answers, losses, strict=True):
            largest = logits.softmax(1).max(1).values
            right = logits.argmax(1) == batch.labels
            confidence = trust * torch.where(right, largest.detach(), largest)
            target = (-own).exp().detach()
            doubts.append(F.binary_cross_entropy(confidence, target))
            confidences.append(confidence.detach())
        shares = torch.stack(confidences).softmax(0)
        total = total + (shares * losses).sum(0).mean() + torch.stack(doubts).mean()
    for optimiser in twin.optimisers:
        optimiser.zero_grad()
    total.backward()
    for optimiser in twin.optimisers:
        optimiser.step()
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_equal(training, twin)


def red_loss(method, members, images, labels, mixed):
    """train_red: summed CE, cosines of the batch loss's gradients, twice their square."""

    def gradient(member, inputs):
        inputs = inputs.clone().requires_grad_()
        loss = F.cross_entropy(member(inputs), labels)
        return loss, torch.autograd.grad(loss, inputs, create_graph=True)[0].flatten(1)

    clean = [gradient(m, images) for m in members]
    pairs = [
        F.cosine_similarity(a, b, eps=1e-8).abs().mean()
        for (_, a), (_, b) in combinations(clean, 2)
    ]
    squares = [2 * gradient(m, mixed)[1].square().sum(1).mean() for m in members]
    similar, steep = torch.stack(pairs).mean(), torch.stack(squares).mean()
    cross_entropy = sum(loss for loss, _ in clean)
    return cross_entropy + method.weight_similarity * similar + method.weight_lipschitz * steep


def test_red_crafts_the_second_half_against_all_in_training_mode():
    method, training, twin = released("red")
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    half = batch.select(slice(4, None))
    mixed = torch.cat([batch.images[:4], crafted(twin, half)])
    total = red_loss(method, twin.members, batch.images, batch.labels, mixed)
    for optimiser in twin.optimisers:
        optimiser.zero_grad()
    total.backward()
    for optimiser in twin.optimisers:
        optimiser.step()
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    for one, other in zip(training.members, twin.members, strict=True):
        for (name, value), wanted in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.allclose(value, wanted, atol=1e-6), name


@pytest.mark.parametrize("size", [6, 7])
def test_red_crafts_no_image_that_nothing_reads(size):
    """In evaluation mode an example does not depend on its batch: the same loss as from all."""
    method = method_of("red")
    training, twin = training_of(method), training_of(method)
    seen = []

    def record(model, images, labels, draws):
        seen.append(len(images))
        return ATTACK(model, images, labels, draws)

    training.attack = record
    batch = batch_of(size)
    everything = twin.craft(batch, combine("mean_prob", twin.members))
    examples = method._crafted(training, batch)
    assert seen == [size - size // 2]
    assert torch.allclose(examples, everything[size // 2 :], atol=1e-6)


def test_red_at_crafts_each_members_own_examples_in_evaluation_mode_from_own_noise():
    method, training, twin = released("red_at", members=2)
    batch = batch_of()
    before = [m.state_dict()["stem.1.running_mean"].clone() for m in training.members]
    first, second = method._own(training, batch)
    for member, mean in zip(training.members, before, strict=True):
        assert torch.equal(member.state_dict()["stem.1.running_mean"], mean)
        assert member.training
    twin.members[1].load_state_dict(twin.members[0].state_dict())
    same = method._own(twin, batch)
    assert not torch.equal(*same)  # equal members, other noise
    assert not torch.equal(first, second)


def test_where_every_teachers_probability_rounds_to_zero_the_target_is_finite():
    logits_KBC = torch.tensor([[[150.0, 0, 0]], [[150.0, 1, 0]]])
    found = fuse_probs(torch.tensor([[0.25], [0.75]]), logits_KBC)
    exact = logits_KBC.double().softmax(-1)
    wanted = (torch.tensor([0.25, 0.75])[:, None, None] * exact).sum(0).log()
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-6)
    one_alone = fuse_probs(torch.tensor([[0.0], [1.0]]), logits_KBC)
    assert torch.allclose(one_alone, logits_KBC[1].log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("order", ["teacher_student", "student_teacher"])
def test_pareto_has_a_finite_loss_for_saturated_teachers(order):
    method = method_of("at_aka_pareto", kl_order=order)
    logits_KBC = torch.tensor([150.0, 0, 0, 0]).expand(3, 2, 4)
    student = torch.zeros(2, 4, requires_grad=True)
    losses = method.mixed(student, logits_KBC, torch.tensor([0, 1]))
    losses.sum().backward()
    assert losses.isfinite().all() and student.grad.isfinite().all()


TRAIN_MODE = {
    "unified": ["aute_released_train_mode", "aute_own", "soe_own", "red_own", "ps_red_own"],
    "aute": ["aute_released", "pgd_at_joint"],
    "aute_deep": ["aute_released"],
    "aute_datasets": ["aute_released"],
    "soe": ["soe_100", "soe_100_released"],
    "red": ["red", "red_at", "ps_red"],
}


@pytest.mark.parametrize("recipe, entry", [(r, e) for r, es in TRAIN_MODE.items() for e in es])
def test_entries_of_the_released_codes_craft_in_training_mode(recipe, entry):
    assert fields_of(recipe, entry)["attack_bn_mode"] == "train_update"


@pytest.mark.parametrize("entry", ["aute", "aute_released", "soe", "red", "pgd_at_joint"])
def test_the_unified_protocol_crafts_in_evaluation_mode(entry):
    assert fields_of("unified", entry)["attack_bn_mode"] == "eval"


def test_reds_rate_drops_in_epochs_80_and_110():
    """Its code says t < 80 of a t that begins at 1; a milestone is the last epoch before."""
    for recipe, entry in (("red", "red"), ("unified", "red_own"), ("unified", "ps_red_own")):
        assert list(fields_of(recipe, entry)["milestones"]) == [79, 109]


def test_soe_crafts_ten_steps_of_a_hundredth_from_the_image_at_every_radius():
    for eps in ("0.01", "0.07"):
        attack = PAPER.entries.attack("train_soe_released", Fraction(1), eps)
        assert (attack.fields["steps"], attack.fields["start"]) == (10, "none")
        assert attack.fields["step_size"] == pytest.approx(0.01)


def fields_of(recipe, entry):
    setting = Setting("cifar10", "resnet20", recipe, 3, 0)
    return PAPER.entries.method(entry, setting)[1]
