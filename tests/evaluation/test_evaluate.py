"""Verdicts on a victim: equal to a plain loop, resumed to the same bytes, counted and fixed."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from victims import Changed, Exact, Linear

from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination, combine
from pipeline.core.losses import cross_entropy, margin
from pipeline.errors import UserError
from pipeline.evaluation.differences import compare_slopes
from pipeline.evaluation.surrogates import surrogates
from pipeline.evaluation.verdicts import Counted, Evaluation
from pipeline.loading import registry
from pipeline.loading.images import Split, subset
from pipeline.store.records import pack

EPS = 0.1


def spec(component: str = "pgd", surrogate: str = "self", **changed: Any) -> dict[str, Any]:
    usual = {"norm": "linf", "eps": EPS, "step_size": EPS / 3, "steps": 5, "restarts": 1}
    fields = {**usual, "start": "uniform", "loss": "ce", "any_iterate": False, **changed}
    return {"component": component, "fields": fields, "surrogate": surrogate}


def split_of(count: int = 40) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Split(images, labels, list("abc"), [0.5], [0.5])


def exact(count: int, rule: str) -> Combination:
    """Members whose arithmetic does not depend on the batch, trained on nothing."""
    nets = [Exact(classes=3, seed=seed).requires_grad_(False) for seed in range(count)]
    return combine(rule, nets).eval()


def labelled(victim: nn.Module, split: Split) -> Split:
    """The split with the victim's own answers for most labels, so that most are right."""
    with torch.no_grad():
        answers = victim(split.floats()).argmax(1)
    answers[::5] = (answers[::5] + 1) % 3
    return Split(split.images, answers, split.names, split.mean, split.std)


def evaluation(victim: Combination, split: Split) -> Evaluation:
    return Evaluation(victim, split, list(range(len(split))))


# ---- verdicts


@pytest.mark.parametrize("surrogate", ["self", "mean_logit", "members", "normalised"])
@pytest.mark.parametrize("rule", ["mean_prob", "vote", "max_conf"])
def test_verdicts_are_those_of_a_plain_loop(rule, surrogate):
    victim = exact(3, rule)
    split, asked = labelled(victim, split_of()), spec(surrogate=surrogate)
    found = evaluation(victim, split).attack("name", asked, 0)
    attack = registry.build("attacks", asked)
    for number, (image, label) in enumerate(zip(split.floats(), split.labels, strict=True)):
        image, label = image[None], label[None]
        right = bool(victim(image).argmax(1) == label)
        for i, model in enumerate(surrogates(victim, surrogate)):
            draws = Draws(derive(0, "name", i), torch.tensor([number]))
            if right:
                moved = attack(model, image, label, draws)
                right = bool(victim(moved).argmax(1) == label)
                last = moved
        assert found["right"][number] == right
        if victim.selects:  # every image goes on: the other members' answers count
            continue
        if victim(image).argmax(1) == label:
            assert found["linf"][number] == (last - image).abs().max()
            assert found["margin"][number] == pytest.approx(-margin(victim(last), label).item())
        elif rule != "max_conf":  # what is wrong before is not attacked, but to ask its members
            assert found["linf"][number] == 0 and found["unchanged"][number]
    assert 0 < found["right"].sum() < (victim(split.floats()).argmax(1) == split.labels).sum()
    assert found["linf"].max() <= EPS + 1e-6 and found["outside"].max() == 0


def test_an_images_draws_are_its_own_in_every_subset():
    victim = exact(3, "mean_prob")
    split, rows = labelled(victim, split_of()), [3, 8, 17, 31, 32, 38]
    whole = evaluation(victim, split).attack("name", spec(), 0)
    part = Evaluation(victim, split, rows).attack("name", spec(), 0)
    for key in ("right", "margin", "linf", "l2", "unchanged"):
        assert np.array_equal(part[key], whole[key][rows])


@pytest.mark.parametrize("rule", ["mean_prob", "random_one"])
def test_batches_change_no_verdict(monkeypatch, rule):
    victim = exact(3, rule)
    split = labelled(combine("mean_prob", victim.members), split_of())
    kind = "self" if rule == "mean_prob" else "mean_logit"
    whole = evaluation(victim, split).attack("name", spec(surrogate=kind), 0)
    monkeypatch.setattr("pipeline.evaluation.verdicts.BATCH", 7)
    parts = evaluation(victim, split).attack("name", spec(surrogate=kind), 0)
    assert pack(whole) == pack(parts)


def test_clean_verdicts_margins_and_gradients_are_the_victims():
    victim = exact(3, "mean_prob")
    split = labelled(victim, split_of())
    found = evaluation(victim, split)
    scores = victim(split.floats())
    assert torch.equal(found.clean["right"], (scores.argmax(1) == split.labels).float())
    assert torch.allclose(found.clean["margin"], -margin(scores, split.labels))
    assert not found.gradients()["zero_gradient"].any()


class Gate(nn.Module):
    """Three pixels as logits, whose gradients are set by the last pixel: 0, inf, nan or as is."""

    def forward(self, images: Tensor) -> Tensor:
        kind = (images.detach()[:, 0, -1, -1:] * 255).round()
        logits = images.flatten(1)[:, :3] * 1
        if logits.requires_grad:
            factor = torch.tensor([0, torch.inf, torch.nan, 1])[kind.long()]
            logits.register_hook(lambda gradient: gradient * factor)
        return logits


def test_images_without_a_gradient_are_counted():
    split = split_of(4)
    split.images[:, 0, -1, -1] = torch.tensor([0, 1, 2, 3]).to(torch.uint8)
    found = evaluation(combine("single", [Gate()]), split).gradients()["zero_gradient"]
    assert found.tolist() == [True, True, True, False]


def test_a_random_victim_has_its_expected_accuracy_on_one_common_image():
    victim = exact(3, "random_one")
    split = labelled(combine("mean_prob", victim.members), split_of())
    asked = spec(surrogate="mean_logit")
    found = evaluation(victim, split).attack("name", asked, 0)

    def expected(images: Tensor) -> Tensor:
        right = [m(images).argmax(1) == split.labels for m in victim.members]
        return torch.stack(right).float().mean(0)

    (model,) = surrogates(victim, "mean_logit")
    draws = Draws(derive(0, "name", 0), torch.arange(40))
    moved = registry.build("attacks", asked)(model, split.floats(), split.labels, draws)
    clean, attacked = expected(split.floats()), expected(moved)
    assert np.array_equal(found["right"], torch.minimum(clean, attacked).numpy())
    assert (found["right"] * 3 % 3 != 0).any()  # some members right, others not
    assert torch.equal(evaluation(victim, split).clean["right"], clean)


def test_a_random_victim_repeats_its_verdicts_whatever_came_before():
    victim = exact(3, "random_one")
    split = labelled(combine("mean_prob", victim.members), split_of())
    one, other = evaluation(victim, split), evaluation(victim, split)
    other.attack("another", spec(), 0)
    assert pack(one.attack("name", spec(), 0)) == pack(other.attack("name", spec(), 0))


def test_an_image_that_was_moved_and_dropped_does_not_count_as_unchanged(monkeypatch):
    """Of a random victim: the attack finds a point on which more members are right."""
    first = torch.zeros(2, 2, 4)
    first[0, 0, 0] = first[1, 0, 1] = 1.0  # each member is right where its own pixel is bright
    nets = [Changed(Linear(w), lambda z: z + torch.tensor([0, 0.5])) for w in first]
    victim = combine("random_one", nets).eval().requires_grad_(False)
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = 255
    split = Split(images, torch.zeros(2, dtype=torch.int64), list("ab"), [0.5], [0.5])

    def attack(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        moved = images.clone()
        moved[0] = 1  # both members are right here; the other image is given back as it was
        return moved

    monkeypatch.setattr(registry, "build", lambda *_: attack)
    found = evaluation(victim, split).attack("name", spec(surrogate="mean_logit"), 0)
    assert found["right"].tolist() == [0.5, 0.5] and found["linf"].tolist() == [0, 0]
    assert found["unchanged"].tolist() == [False, True]


def test_an_attack_of_the_library_meets_as_many_images_whatever_the_batch():
    """It draws its starts for a whole batch from one seed."""
    victim = exact(2, "mean_prob")
    split = labelled(victim, split_of())
    fields = {"norm": "linf", "as_published": False, "class": "PGD"}
    fields |= {"arguments": {"eps": EPS, "alpha": EPS / 4, "steps": 2}}
    asked = {"component": "torchattacks", "fields": fields, "surrogate": "self"}
    whole, parts = (
        Evaluation(victim, split, list(range(40)), batch=size).attack("name", asked, 0)
        for size in (300, 7)
    )
    assert whole["linf"].max() > 0 and pack(whole) == pack(parts)


# ---- what flags need to know


class OfTheBatch(nn.Module):
    """Scores beside those of whoever is judged together with an image."""

    def forward(self, images: Tensor) -> Tensor:
        scores = images.flatten(1)[:, :3]
        return scores - scores.mean(0)


@pytest.mark.parametrize("images, batch", [(40, 300), (100, 64), (65, 64), (100, 300)])
def test_verdicts_that_hang_on_the_batch_are_seen_however_few_images_it_has(images, batch):
    split = split_of(images)
    rows = list(range(images))
    assert Evaluation(combine("single", [OfTheBatch()]), split, rows, batch=batch).flips() > 0
    assert Evaluation(exact(1, "single"), split, rows, batch=batch).flips() == 0


@pytest.mark.parametrize("rule", ["mean_prob", "vote", "single", "random_one"])
def test_members_that_give_probabilities_are_seen_behind_every_rule(rule):
    count = 1 if rule == "single" else 2
    nets = [Exact(classes=3, seed=seed).requires_grad_(False) for seed in range(count)]
    for kind, function in (("probs", lambda z: z.softmax(1)), ("logits", lambda z: z)):
        victim = combine(rule, [Changed(net, function) for net in nets]).eval()
        said = evaluation(victim, split_of()).outputs()
        assert said == ("log_probs" if (kind, rule) == ("logits", "mean_prob") else kind)


HALF = (torch.arange(64).view(8, 8) % 2 == 0).float()


@pytest.mark.parametrize(
    "seen, ratio",
    [
        (lambda x: x, 1),
        (lambda x: HALF * x + (1 - HALF) * x.detach(), 0),  # matters, and has no gradient
        (lambda x: HALF * x, 1),  # does not matter
    ],
)
def test_pixels_without_a_gradient_are_the_victims_fault_only_where_they_matter(seen, ratio):
    net, images = Exact(classes=3), split_of(20).floats()

    class Behind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return net(seen(images))

    found = compare_slopes(Behind(), images, net(images).argmax(1), EPS)
    near = (found - ratio).abs() < 0.05
    assert int(near.sum()) >= 18  # what pixels change together may cancel


# ---- work


def test_counted_counts_images_forwards_and_backwards():
    model = Counted(exact(2, "mean_prob"))
    images = torch.rand(6, 1, 8, 8, requires_grad=True)
    with torch.no_grad():
        model(images)
    assert model.work == {"forwards": 6, "backwards": 0}
    torch.autograd.grad(cross_entropy(model(images), torch.zeros(6, dtype=int)).sum(), images)
    model(images[:2])
    assert model.work == {"forwards": 14, "backwards": 6}
    assert not model.random and Counted(exact(2, "random_one")).random


def test_a_record_says_how_many_gradients_an_attack_spent():
    victim = exact(3, "mean_prob")
    split = labelled(victim, split_of())
    right = int(evaluation(victim, split).clean["right"].sum())
    found = evaluation(victim, split).attack("name", spec(steps=5), 0)
    assert found["work"].tolist() == [5 * right, 5 * right]
    lazy = evaluation(victim, split).attack("name", spec(steps=5, any_iterate=True), 0)
    assert lazy["work"][1] < 5 * right
    each = evaluation(victim, split).attack("name", spec(surrogate="members", steps=5), 0)
    assert 5 * right < each["work"][1] < 3 * 5 * right  # who is fooled leaves


@pytest.mark.parametrize("rule", ["single", "mean_prob", "vote", "max_conf", "random_one"])
def test_a_verdict_asks_every_member_once(rule):
    victim = exact(1 if rule == "single" else 3, rule)
    asked = dict.fromkeys(range(len(victim.members)), 0)
    for number, member in enumerate(victim.members):
        member.register_forward_hook(
            lambda _, images, __, number=number: asked.update(
                {number: asked[number] + len(images[0])}
            )
        )
    evaluation(victim, split_of(40))
    assert set(asked.values()) == {40}


def test_the_work_of_folded_networks_is_counted():
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    victim = combine("single", [nn.Sequential(*layers).eval().requires_grad_(False)]).eval()
    split = labelled(victim, split_of())
    right = int(evaluation(victim, split).clean["right"].sum())
    fields = dict(norm="linf", eps=0.0, steps=7, restarts=1, loss="ce", targets=0, rho=0.75, eot=1)
    asked = {"component": "apgd", "fields": fields, "surrogate": "self"}
    assert evaluation(victim, split).attack("name", asked, 0)["work"].tolist() == [8 * right] * 2


# ---- which images


def test_the_subset_is_pythons_sample_with_seed_0():
    random.seed(0)
    assert subset(1000, 10_000) == sorted(random.sample(range(10_000), 1000))
    assert subset(1000, 10_000)[:3] == [1, 3, 4]
    assert subset(5, 5) == [0, 1, 2, 3, 4]
    for images in (0, 6):
        with pytest.raises(UserError, match=f"images: {images} asked for, the test split has 5"):
            subset(images, 5)
