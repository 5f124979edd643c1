"""Entries called released, literal or printed that share code with others: one step or one call of
each, recomputed from the papers' own lines."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, permutations

import pytest
import torch
from rig import ATTACK, batch_of, method_of, training_of
from torch.nn import functional as F

from pipeline.contracts.recipe import Recipe
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.loading.registry import component_class
from pipeline.plan import Plan, load_plan
from pipeline.plan.params.entries import Setting
from pipeline.training.schedules import learning_rate

PAPER = Plan({**load_plan().entries.params, "scale": "paper"})


def twins(entry, members=2, mode="train_update", **changed):
    """The entry's method, a training, and another with the same weights."""
    method = method_of(entry, **changed)
    pair = [training_of(method, members) for _ in range(2)]
    for training in pair:
        training.recipe = replace(training.recipe, attack_bn_mode=mode)
    return method, *pair


def descend(twin, loss, optimisers=slice(None)):
    for optimiser in twin.optimisers[optimisers]:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in twin.optimisers[optimisers]:
        optimiser.step()


def assert_equal(ours, theirs):
    """Parameters, up to rounding that grows with them."""
    for one, other in zip(ours, theirs, strict=True):
        for (name, value), wanted in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.allclose(value, wanted, atol=1e-6, rtol=1e-4), name


def gradients(members, images, labels, each=False):
    """Each member's losses [B], and its gradients on its images: of the batch's mean loss, or of
    each image's own."""
    losses, slopes = [], []
    for member, own in zip(members, images, strict=True):
        inputs = own.clone().requires_grad_()
        loss = F.cross_entropy(member(inputs), labels, reduction="none")
        total = loss.sum() if each else loss.mean()
        slopes.append(torch.autograd.grad(total, inputs, create_graph=True)[0].flatten(1))
        losses.append(loss)
    return losses, slopes


def cosines(slopes, pairs):
    return [F.cosine_similarity(slopes[i], slopes[j], eps=1e-8).abs().mean() for i, j in pairs]


def mean(values):
    return torch.stack(list(values)).mean()


def released_red(method, twin, batch, own):
    """train_red: CE summed over members, cosines of unordered pairs, twice the squared slopes on
    half clean and half adversarial images."""
    count = len(twin.members)
    losses, slopes = gradients(twin.members, own, batch.labels)
    mixed = batch.images
    if method.lipschitz_on == "halves":
        half, ensemble = len(batch.labels) // 2, combine("mean_prob", twin.members).train()
        rest = batch.select(slice(half, None))
        crafted = ATTACK(ensemble, rest.images, rest.labels, rest.draws.fork("attack"))
        mixed = torch.cat([batch.images[:half], crafted])
    steep = slopes
    if method.lipschitz_on == "halves":
        steep = gradients(twin.members, [mixed] * count, batch.labels)[1]
    total = sum(loss.mean() for loss in losses)
    total = total + method.weight_similarity * mean(cosines(slopes, combinations(range(count), 2)))
    return total + method.weight_lipschitz * mean(2 * s.square().sum(1).mean() for s in steep)


@pytest.mark.parametrize("entry", ["red", "red_clean", "red_pretrained", "ps_red"])
def test_a_step_on_clean_images_is_that_of_reds_code(entry):
    method, training, twin = twins(entry)
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    total = released_red(method, twin, batch, [batch.images] * 2)
    descend(twin, total)
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_equal(training.members, twin.members)


def test_a_generated_net_of_the_released_spread_steps_as_reds_code():
    """Kernels in the tens: the loss and every first slope, which one step would round away."""
    method, training, twin = twins("ps_red_from_released", members=2, weight_lipschitz=0.1)
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    total = released_red(method, twin, batch, [batch.images] * 2)
    assert loss == pytest.approx(float(total.detach()), rel=1e-3)


def test_red_at_trains_on_each_members_own_examples():
    method, training, twin = twins("red_at")
    batch = batch_of(8)
    loss = float(method.step(training, batch))
    own = []
    for i, member in enumerate(twin.members):
        member.eval()  # models[j].eval() in its code, and noise of its own
        draws = batch.draws.fork(i).fork("attack")
        own.append(ATTACK(member, batch.images, batch.labels, draws))
        member.train()
    total = released_red(method, twin, batch, own)
    descend(twin, total)
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_equal(training.members, twin.members)


def test_red_as_printed_is_eq_13():
    """Means over clean and adversarial images; every ordered pair, of half as many unordered."""
    method, training, twin = twins("red_printed", members=3, mode="eval")
    batch = batch_of(6)
    loss = float(method.step(training, batch))
    losses, clean = gradients(twin.members, [batch.images] * 3, batch.labels, each=True)
    ensemble = combine("mean_prob", twin.members).eval()  # by statistics that have moved
    crafted = ATTACK(ensemble, batch.images, batch.labels, batch.draws.fork("attack"))
    for member in twin.members:
        member.train()
    _, other = gradients(twin.members, [crafted] * 3, batch.labels, each=True)
    similar = [sum(cosines(s, permutations(range(3), 2))) / 3 for s in (clean, other)]
    steep = [mean(g.norm(dim=1).mean() for g in s) for s in (clean, other)]
    total = mean(loss.mean() for loss in losses)
    total = total + method.weight_lipschitz * mean(steep) + method.weight_similarity * mean(similar)
    descend(twin, total)
    assert loss == pytest.approx(float(total.detach()), rel=1e-4)
    assert_equal(training.members, twin.members)


def test_at_aka_literal_is_eq_2_with_one_over_n_on_the_second_sum():
    """Three teachers, one step of their particles along the raw sums, then theirs and the
    student's. The printed width and step move nothing, so these are wider."""
    changed = dict(width=2.0, step_size=0.01, steps=1, eps=0.1)
    method, training, twin = twins("at_aka_literal", members=1, mode="eval", **changed)
    batch, h2, n = batch_of(), 4.0, 3
    loss = float(method.step(training, batch))
    still = method_of("at_aka_literal", **{**changed, "step_size": 0.0})
    points = [*still.craft(twin, twin.assistants, batch)]

    particles = []
    for i, teacher in enumerate(twin.assistants):
        teacher.eval()
        move = torch.zeros_like(batch.images)
        for point in points:
            inputs = point.clone().requires_grad_()
            total = F.cross_entropy(teacher(inputs), batch.labels, reduction="sum")
            rise = torch.autograd.grad(total, inputs)[0]
            apart = points[i] - point
            squared = apart.flatten(1).square().sum(1)
            kernel = (-squared / (2 * h2)).exp().view(-1, 1, 1, 1)
            move = move + kernel * rise + kernel * apart / h2 / n
        moved = points[i] + 0.01 * move
        moved = torch.max(torch.min(moved, batch.images + 0.1), batch.images - 0.1)
        particles.append(moved.clamp(0, 1))
        teacher.train()

    taught = []
    for i, (teacher, images) in enumerate(zip(twin.assistants, particles, strict=True)):
        logits = teacher(images)
        taught.append(logits.detach())
        descend(twin, F.cross_entropy(logits, batch.labels), slice(1 + i, 2 + i))
    own = torch.stack([F.cross_entropy(z, batch.labels, reduction="none") for z in taught])
    weights = own.softmax(0)[..., None]  # Eq. 6, b = 1
    target = (weights * torch.stack(taught)).sum(0)
    answer = twin.members[0](batch.images)
    matched = (answer - target).square().sum(1).mean()
    total = 0.5 * F.cross_entropy(answer, batch.labels) + 0.5 * matched
    descend(twin, total, slice(0, 1))
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_equal([*training.members, *training.assistants], [*twin.members, *twin.assistants])


def test_pgd20_trades_is_trades_own_evaluation():
    """pgd_attack_cifar10.py: uniform noise in the ball, twenty steps of 0.003, no restart."""
    found = PAPER.entries.attack("pgd20_trades", Fraction(1), "8/255")
    attack = component_class("attacks", found.component)(**found.fields)
    training = training_of(method_of("standard"), 1)
    net, batch, eps = training.members[0].eval(), batch_of(), 8 / 255
    draws = Draws(3, torch.arange(6))
    noise = draws.fork(0).uniform(1, 8, 8) * 2 * eps - eps
    points = (batch.images + noise).clamp(0, 1)
    for _ in range(20):
        inputs = points.clone().requires_grad_()
        total = F.cross_entropy(net(inputs), batch.labels, reduction="sum")
        points = points + 0.003 * torch.autograd.grad(total, inputs)[0].sign()
        points = torch.max(torch.min(points, batch.images + eps), batch.images - eps).clamp(0, 1)
    examples = attack(net, batch.images, batch.labels, Draws(3, torch.arange(6)))
    assert float(noise.abs().max()) > 0.9 * eps
    assert torch.allclose(examples, points, atol=1e-6)


def test_meat_released_has_the_codes_start_rates_decay_and_radius():
    average = PAPER.entries.entry("averages", "meat_released")[1]
    assert (average["start"], average["bn_statistic"]) == (75, "median_of_ema")
    setting = Setting("cifar10", "wrn34_10", "meat", 1, 0)
    fields = PAPER.entries.method(average["method"], setting)[1]
    recipe = Recipe(**fields)
    rates = {epoch: learning_rate(recipe, epoch, 0.0) for epoch in (1, 40, 60, 80, 100, 120)}
    wanted = {1: 0.1, 40: 0.1, 60: 0.055, 80: 0.01, 100: 0.0075, 120: 0.005}
    assert rates == pytest.approx(wanted)
    assert recipe.weight_decay == 0.0007 and recipe.normalise is False
    attack = PAPER.entries.attack(recipe.attack, Fraction(1))
    assert [attack.fields[k] for k in ("eps", "step_size", "steps")] == [0.031, 0.007, 10]


def test_meat_released_steps_by_sgd_on_examples_of_its_radius():
    """One step of the member whose epochs are averaged: weight decay and rate are the entry's."""
    setting = Setting("cifar10", "wrn34_10", "meat", 1, 0)
    recipe = Recipe(**PAPER.entries.method("pgd_at_meat_released", setting)[1])
    found = PAPER.entries.attack(recipe.attack, Fraction(1))
    attack = component_class("attacks", found.component)(**found.fields)
    method = method_of("pgd_at")
    pair = [training_of(method, 1) for _ in range(2)]
    for training in pair:
        training.recipe, training.attack = recipe, attack
        training.optimisers = method.setup(training)
    training, twin = pair
    batch = batch_of()
    method.step(training, batch)

    net = twin.members[0].eval()
    before = [p.detach().clone() for p in net.parameters()]
    images = attack(net, batch.images, batch.labels, batch.draws.fork("attack"))
    assert float((images - batch.images).abs().max()) == pytest.approx(0.031, abs=1e-6)
    net.train()
    slopes = torch.autograd.grad(F.cross_entropy(net(images), batch.labels), list(net.parameters()))
    for value, old, slope in zip(training.members[0].parameters(), before, slopes, strict=True):
        assert torch.allclose(value, old - recipe.lr * (slope + 0.0007 * old), atol=1e-6)


@pytest.mark.parametrize("dataset, arch", [
    ("cifar10", "resnet18_red"), ("tiny_imagenet", "resnet18_red_imagenet"),
])  # fmt: skip
def test_ps_red_keeps_the_released_stem_whatever_the_tables_net_is(dataset, arch):
    plan = PAPER
    for row in ("ps_red_released", "ps_red_released_at"):
        victim = plan.name_victim(row, Setting(dataset, arch, "red", 3, 0))
        for element in victim.elements:
            fields = plan.run(element.run).spec["arch"]["fields"]
            assert (fields["stem"], fields["stem_bias"], fields["init"]) == (
                "cifar",
                False,
                "default",
            )
