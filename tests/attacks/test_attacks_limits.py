"""Attacks where the answer is known: linear models, limits, budgets."""

from dataclasses import asdict
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from victims import (
    EPS,
    EVERY,
    NORMS,
    Changed,
    Counting,
    Exact,
    Linear,
    apgd,
    autoattack,
    fab,
    held_out,
    pgd,
    right,
    square,
    trained,
)

from pipeline.attacks._apgd import Front
from pipeline.attacks.apgd import APGD
from pipeline.attacks.bim import BIM
from pipeline.attacks.fab import DUAL
from pipeline.attacks.malt import MALT
from pipeline.attacks.mim import MIM
from pipeline.attacks.pma import PMA
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy, margin
from pipeline.core.norms import Ball, lengths
from pipeline.errors import UserError
from pipeline.plan.params import checks


def two_classes(norm: Ball = "linf") -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A linear model, images off the box, labels, clean margins z_y - z_k, the normal's length.

    That is the length in the dual norm: a ball of eps moves the margin by eps times it.
    """
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 64, generator=generator) / 10
    images = 0.4 + 0.2 * torch.rand(20, 1, 8, 8, generator=generator)
    model = Linear(weights)
    labels = model(images).argmax(1)
    # Nine tenths of the way to the boundary, so that one pixel alone can reach it.
    normal = weights[0] - weights[1]
    gap = images.flatten(1) @ normal
    images = images - 0.9 * (gap[:, None] * normal / normal.square().sum()).view_as(images)
    logits = model(images).detach()
    slope = lengths(DUAL[norm], normal[None])[0]
    return model, images, labels, -margin(logits, labels), slope


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "apgd_ce", "margin", "apgd_l2", "apgd_l1"])
def test_gradient_attacks_reach_the_worst_case_of_a_linear_model(name: str) -> None:
    model, images, labels, clean, slope = two_classes(NORMS.get(name, "linf"))
    eps = 0.3 * float(clean.min() / slope)  # nobody is fooled, the box is far away
    attack = pgd(eps=eps, step_size=eps, loss="margin") if name == "margin" else EVERY[name](eps)
    moved = attack(model, images, labels, Draws(0, torch.arange(20)))
    worst = -margin(model(moved), labels)
    assert torch.allclose(worst, clean - eps * slope, atol=1e-3 if name == "apgd_l1" else 1e-4)


def test_square_comes_close_to_the_worst_case_of_a_linear_model() -> None:
    model, images, labels, clean, slope = two_classes()
    eps = 0.3 * float(clean.min() / slope)
    attack = square(eps=eps, queries=3000)
    moved = attack(model, images, labels, Draws(0, torch.arange(20)))
    gained = clean + margin(model(moved).detach(), labels)
    assert float((gained / (eps * slope)).min()) > 0.95
    assert torch.allclose((moved - images).abs(), torch.full_like(images, eps), atol=1e-6)


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("targets", [0, 1])
def test_fab_finds_the_boundary_of_a_linear_model(targets: int, norm: Ball) -> None:
    """The least distance is margin / |w| in the dual norm: found just above eps, not below."""
    model, images, labels, clean, slope = two_classes(norm)
    for row in range(5):
        one = slice(row, row + 1)
        for factor, left in ((1.1, 0.0), (0.99, 1.0)):
            eps = factor * float(clean[row] / slope)
            attack = fab(eps=eps, targets=targets, steps=20, norm=norm)
            moved = attack(model, images[one], labels[one], Draws(0, torch.arange(1)))
            assert float(right(model, moved, labels[one]).float()) == left


@pytest.mark.parametrize("norm", DUAL)
def test_a_fab_step_overshoots_the_boundary_by_eta(norm: Ball) -> None:
    model, images, labels, clean, slope = two_classes(norm)
    attack = fab(eps=9.0, targets=1, steps=1, norm=norm)
    moved = attack(model, images, labels, Draws(0, torch.arange(20)))
    assert torch.allclose(lengths(norm, moved - images), 1.05 * clean / slope, rtol=1e-3)


def test_momentum_and_any_iterate_go_together() -> None:
    """Who leaves takes its momentum along: the others climb on as if it had stayed."""
    model = Exact()
    images, _, _ = held_out(40)
    labels = model(images).argmax(1)
    climbs = [
        Ascent(norm="linf", eps=EPS, step_size=0.01, steps=6, decay=1.0, any_iterate=leave)
        for leave in (True, False)
    ]
    left, stayed = (
        climb.climb(model, on_labels(cross_entropy, labels), images, labels, images)
        for climb in climbs
    )
    robust = right(model, left, labels)
    assert 0 < int(robust.sum()) < 40
    assert torch.equal(left[robust], stayed[robust])


def test_momentum_zero_is_bim_and_one_step_of_eps_is_fgsm() -> None:
    images, labels, draws = held_out(32)
    model = trained(EPS)
    bim = BIM(eps=EPS, step_size=EPS / 4, steps=7)(model, images, labels, draws)
    mim = MIM(eps=EPS, step_size=EPS / 4, steps=7, decay=0.0)(model, images, labels, draws)
    assert torch.equal(bim, mim)
    one = BIM(eps=EPS, step_size=EPS, steps=1)(model, images, labels, draws)
    assert torch.equal(one, EVERY["fgsm"]()(model, images, labels, draws))


def test_the_margin_attack_takes_the_same_path_on_log_probabilities() -> None:
    images, labels, _ = held_out(40)
    model = Exact().double()
    paths = [
        pgd(loss="margin", steps=10)(victim, images.double(), labels, held_out(40)[2])
        for victim in (model, Changed(model, lambda logits: logits.log_softmax(1)))
    ]
    same = (paths[0] - paths[1]).abs() < 1e-9
    assert float(same.float().mean()) > 0.999
    assert float((paths[0] - images).abs().amax()) > 0.9 * EPS


@pytest.mark.parametrize("name", ["pgd_l2", "apgd_dlr", "apgd_t", "square"])
def test_scaled_logits_do_not_hide_a_model_from_these_attacks(name: str) -> None:
    images, labels, _ = held_out(60)
    counts = [
        int(right(model, EVERY[name]()(model, images, labels, held_out(60)[2]), labels).sum())
        for model in (trained(EPS), Changed(trained(EPS), lambda logits: logits * 64))
    ]
    assert abs(counts[0] - counts[1]) <= 1


def test_kl_is_blind_to_labels_and_needs_its_start() -> None:
    images, labels, _ = held_out(20)
    model = trained(EPS)
    attack = partial(pgd(loss="kl", start="gaussian"), model, images)
    moved = attack(labels, held_out(20)[2])
    assert torch.equal(moved, attack((labels + 1) % 10, held_out(20)[2]))
    assert float((moved - images).abs().mean()) > EPS / 4
    assert int(right(model, moved, labels).sum()) < int(right(model, images, labels).sum())


def test_more_restarts_and_more_steps_never_raise_the_accuracy() -> None:
    model = trained(0.0)
    images, labels, _ = held_out(120)
    attack = partial(pgd, any_iterate=True, step_size=EPS / 3)
    for changes in (
        [attack(restarts=count) for count in (1, 2, 4)],
        [attack(steps=count, restarts=2) for count in (1, 3, 9)],
        [autoattack(version="standard"), autoattack(version="plus")],
    ):
        found = [right(model, a(model, images, labels, held_out(120)[2]), labels) for a in changes]
        for weaker, stronger in zip(found, found[1:], strict=False):
            assert int((stronger & ~weaker).sum()) <= 1  # a margin of 1e-7 may flip with the batch
        assert int(found[-1].sum()) < int(found[0].sum())


def test_autoattack_is_at_least_as_strong_as_each_of_its_parts() -> None:
    model = trained(EPS)
    images, labels, draws = held_out(100)
    attack = autoattack()
    whole = right(model, attack(model, images, labels, draws), labels)
    assert list(attack.parts()) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    for name, part in attack.parts().items():
        own = held_out(100)[2].fork(name)
        alone = right(model, part(model, images, labels, own), labels)
        assert int((whole & ~alone).sum()) <= 1, name
        assert int(alone.sum()) < int(right(model, images, labels).sum()), name


def test_targeted_parts_of_autoattack_plus_start_once() -> None:
    starts = {n: p.restarts for n, p in autoattack(version="plus", restarts=5).parts().items()}
    once = {"apgd_t": 1, "fab_t": 1, "square": 1}
    assert starts == {"apgd_ce": 5, "apgd_dlr": 5, "fab": 5, **once}


def test_fooled_samples_leave_the_batch() -> None:
    images, labels, _ = held_out(100)
    work = {}
    for name, attack in {
        "whole": pgd(steps=20, restarts=1),
        "restarts": pgd(steps=20, restarts=5),
        "any": pgd(steps=20, restarts=5, any_iterate=True),
        "apgd": apgd(steps=100),
    }.items():
        counting = Counting(trained(0.0))
        attack(counting, images, labels, held_out(100)[2])
        work[name] = counting.backwards / 100
    assert work["whole"] == 20
    assert work["any"] < work["restarts"] < 0.5 * 100
    assert work["apgd"] < 0.5 * 101


def test_budgets_are_what_the_settings_say_for_samples_that_resist() -> None:
    """A model that nothing fools: every forward and backward is spent."""
    model = Changed(Linear(torch.randn(10, 64)), lambda z: z * 0.001 + torch.eye(10)[0])
    images, _, _ = held_out(8)
    labels = torch.zeros(8, dtype=torch.int64)
    expected = {
        "pgd": (pgd(steps=10), 10, 10),
        "pgd_restarts": (pgd(steps=10, restarts=3, any_iterate=True), 33, 30),
        "pgd_kl": (pgd(steps=10, loss="kl"), 11, 10),
        "apgd": (apgd(steps=20), 21, 21),
        "apgd_t": (apgd(steps=20, loss="dlr_targeted", targets=9), 9 * 22 + 1, 9 * 21),
        "fab_t": (fab(steps=20, targets=9), 9 * 41 + 2, 9 * 20),
    }
    for name, (attack, forwards, backwards) in expected.items():
        counting = Counting(model)
        attack(counting, images, labels, held_out(8)[2])
        spent = counting.forwards / 8, counting.backwards / 8
        assert spent == (forwards, backwards), name


def test_apgd_halves_its_step_after_too_few_improvements_or_an_idle_interval() -> None:
    here = [torch.full((1, 1, 1, 1), float(place)) for place in range(9)]
    front = Front.begin(here[0], here[0], 1.0)

    def see(*values: float) -> None:
        for place, value in enumerate(values):
            front.moved = here[place]
            front.observe(torch.tensor([value]), here[place], torch.tensor([False]))

    see(0, 1, 2, 9, 8)
    front.check(enough=2.0)  # three improvements: go on from the last iterate
    assert float(front.step_size) == 1 and torch.equal(front.moved, here[4])
    see(1, 2, 3, 4)
    front.check(enough=2.0)  # three again, but all below the best: back to it
    assert float(front.step_size) == 0.5 and torch.equal(front.moved, here[3])
    assert torch.equal(front.gradient, here[3])
    see(1, 2, 3, 4)
    front.check(enough=2.0)  # idle, but just halved
    assert float(front.step_size) == 0.5
    see(5, 4, 3, 2)
    front.check(enough=2.0)
    assert float(front.step_size) == 0.25 and torch.equal(front.moved, here[3])


def test_more_targets_than_wrong_classes_are_all_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    model, images = Linear(torch.randn(4, 64, generator=generator)), held_out(4)[0]
    labels = model(images).argmax(1)
    attacks = [apgd(loss="dlr_targeted", targets=n) for n in (3, 9)] + [
        fab(targets=n) for n in (3, 9)
    ]
    found = [attack(model, images, labels, Draws(0, torch.arange(4))) for attack in attacks]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])


def test_malt_aims_at_the_nearest_boundary_and_apgd_t_at_the_likeliest_class() -> None:
    """Class 1 is likelier but 1.5 away, class 2 by 0.05; classes without a slope come last."""
    weights = torch.zeros(5, 64)
    weights[1, 0], weights[2, 1] = 0.01, 1.0
    biases = torch.tensor([1.0, 0.98, 0.45, 0.99, -5])
    model = Changed(Linear(weights), lambda logits: logits + biases)
    images, labels = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    usual = dict(eps=0.1, loss="dlr_targeted", targets=1, steps=10)
    for kind, fooled in ((APGD, 0), (MALT, 3)):
        attack = kind(**asdict(apgd(**usual)))
        moved = attack(model, images, labels, Draws(0, torch.arange(3)))
        assert int((~right(model, moved, labels)).sum()) == fooled
    measured = MALT(**asdict(apgd(**usual)))._measure_distances(model, images, labels)
    assert torch.allclose(measured[0, 1:3], torch.tensor([1.5, 0.05]), atol=1e-5)
    assert measured[0].isinf().tolist() == [True, *[False] * 4]
    assert (measured[0, [3, 4]] == torch.finfo(torch.float32).max).all()


def test_malt_aims_at_a_class_without_a_slope_before_the_true_class(monkeypatch) -> None:
    """Class 4 has no slope: with targets for all four wrong classes it is the last of them."""
    weights = torch.zeros(5, 64)
    weights[[0, 1, 2, 3], [9, 0, 1, 2]] = 1.0
    weights[4] = weights[0]  # the gap to the true class moves with no pixel
    shift = torch.tensor([1.0, 0.5, 0.4, 0.3, 0.2])
    model = Changed(Linear(weights), lambda logits: logits + shift)
    images, labels = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64)
    aimed: list[list[int]] = []
    monkeypatch.setattr(
        "pipeline.attacks.malt._towards", lambda targets, labels: aimed.append(targets.tolist())
    )
    attack = MALT(**asdict(apgd(loss="dlr_targeted", targets=4, steps=10)))
    attack._objectives(model, images, labels)
    assert aimed == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_malt_and_pma_refuse_settings_that_are_not_theirs() -> None:
    with pytest.raises(UserError, match="malt needs targets: 1 or more"):
        MALT(**asdict(apgd()))
    with pytest.raises(UserError, match="pma with loss ce: its loss is margin"):
        PMA(**asdict(pgd()))


@pytest.mark.parametrize(
    "fields, classes",
    [
        ({}, 2),
        ({"loss": "ce"}, 2),
        ({"loss": "dlr"}, 3),
        ({"loss": "dlr_targeted"}, 4),
        ({"version": "standard", "targets": 9}, 4),
        ({"version": "plus", "targets": 9}, 4),
        ({"version": "rand", "targets": 9}, 3),
    ],
)
def test_how_many_classes_a_loss_compares(fields, classes):
    assert checks.compares(fields) == classes
