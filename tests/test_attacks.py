import random
from functools import partial

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from victims import (
    EPS,
    EVERY,
    L2,
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

from pipeline.ascent import Ascent, keep_worst, on_labels
from pipeline.attacks.bim import BIM
from pipeline.attacks.mim import MIM
from pipeline.draws import Draws
from pipeline.errors import UserError
from pipeline.losses import cross_entropy, margin
from pipeline.norms import lengths


class Changed(nn.Module):
    """A model with a function of its logits."""

    def __init__(self, model: nn.Module, function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: Tensor) -> Tensor:
        changed: Tensor = self.function(self.model(images))
        return changed


every = pytest.mark.parametrize("name", EVERY)


def half_saturated(seed: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    ends = torch.rand(images.shape, generator=generator) < 0.5
    return torch.where(ends, images.round(), images), torch.arange(count) % 10


@every
@given(seed=st.integers(0, 999), eps=st.sampled_from([0.0, 8 / 255, 0.3, 1.0]))
@settings(max_examples=8, deadline=None)
def test_the_result_lies_in_ball_and_box_and_repeats(name: str, seed: int, eps: float) -> None:
    images, labels = half_saturated(seed)
    model, ids = Exact(seed=seed), torch.arange(4)
    first = EVERY[name](eps=eps)(model, images, labels, Draws(seed, ids))
    again = EVERY[name](eps=eps)(model, images, labels, Draws(seed, ids))
    assert torch.equal(first, again)
    assert first.shape == images.shape and first.dtype == images.dtype
    assert not first.requires_grad
    norm = "l2" if name in L2 else "linf"
    assert float(lengths(norm, first - images).max()) <= eps + 1e-6
    assert float(first.min()) >= 0 and float(first.max()) <= 1


@every
def test_a_sample_is_perturbed_the_same_in_batches_of_any_size_and_order(name: str) -> None:
    model = Exact()
    images, labels, draws = held_out(64)
    attack = EVERY[name]()
    whole = attack(model, images, labels, draws)
    parts = torch.cat(
        [
            attack(model, images[rows], labels[rows], Draws(1, rows))
            for rows in torch.arange(64).split(7)
        ]
    )
    assert torch.equal(whole, parts)
    order = torch.arange(63, -1, -1)
    turned = attack(model, images[order], labels[order], Draws(1, order))
    assert torch.equal(whole, turned[order])


@every
def test_the_model_and_the_generators_are_left_as_they_were(name: str) -> None:
    model = nn.Sequential(
        *[nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.0), nn.ReLU(inplace=True)],
        *[nn.Flatten(), nn.Linear(144, 10)],
    )
    model.train()
    model[1].eval()  # a frozen batch norm in a training model
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    images, labels, draws = held_out(8)
    kept = [images.clone(), labels.clone()]
    states = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    generators = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()
    EVERY[name]()(model, images, labels, draws)
    assert all(torch.equal(value, states[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert numpy.random.get_state()[1].tolist() == generators[1]
    assert random.getstate() == generators[2]
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


@every
def test_no_grad_around_the_attack_and_frozen_weights_change_nothing(name: str) -> None:
    model = Exact()
    images, labels, draws = held_out(6)
    usual = EVERY[name]()(model, images, labels, draws)
    model.requires_grad_(False)
    with torch.no_grad():
        quiet = EVERY[name]()(model, images, labels, held_out(6)[2])
    assert torch.equal(usual, quiet)


@every
def test_saturated_pixels_move_inward(name: str) -> None:
    """Pixels at 0 that should grow and at 1 that should shrink: clamping must not hold them."""
    rising = torch.arange(64) % 2 == 0
    weights = torch.where(rising, -1 / 32, 1 / 32)
    others = torch.tensor([0.0, 0.0, 0.5, 0.3, 0.1])  # beaten by class 0, also in the worst case
    model = Changed(
        Linear(torch.stack([weights, -weights, *(0 * weights for _ in range(3))])),
        lambda logits: logits + others,
    )
    images = (~rising).float().view(1, 1, 8, 8).repeat(6, 1, 1, 1)
    labels = torch.zeros(6, dtype=torch.int64)
    moved = EVERY[name]()(model, images, labels, Draws(0, torch.arange(6)))
    inward = (moved - images).abs()
    if name in {"square", "pgd_kl"}:  # a random search; half of a random start is clipped away
        assert float((inward > 0).float().mean()) > 0.4
    else:
        assert float(inward.min()) > (EPS / 16 if name in L2 else 0.99 * EPS)


@every
def test_eps_zero_returns_the_clean_images(name: str) -> None:
    images, labels, draws = held_out(12)
    assert torch.equal(EVERY[name](eps=0.0)(trained(0.0), images, labels, draws), images)


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "apgd_ce", "apgd_t", "autoattack"])
@pytest.mark.parametrize("training_eps", [0.0, EPS])
def test_the_whole_box_leaves_no_accuracy(name: str, training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(60)
    moved = EVERY[name](eps=1.0)(model, images, labels, draws)
    limit = 0.35 if name in {"fgsm", "bim", "mim"} else 0.05  # one step; no random start
    assert float(right(model, moved, labels).float().mean()) <= limit


def two_classes() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A linear model, images off the box, labels, clean margins z_y - z_k, |w_y - w_k|_1."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 64, generator=generator) / 10
    images = 0.4 + 0.2 * torch.rand(20, 1, 8, 8, generator=generator)
    model = Linear(weights)
    logits = model(images).detach()
    labels = logits.argmax(1)
    return model, images, labels, -margin(logits, labels), (weights[0] - weights[1]).abs().sum()


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "apgd_ce", "margin", "apgd_l2"])
def test_gradient_attacks_reach_the_worst_case_of_a_linear_model(name: str) -> None:
    model, images, labels, clean, slope = two_classes()
    eps = 0.3 * float(clean.min() / slope)  # nobody is fooled, the box is far away
    attack = pgd(eps=eps, step_size=eps, loss="margin") if name == "margin" else EVERY[name](eps)
    moved = attack(model, images, labels, Draws(0, torch.arange(20)))
    if name == "apgd_l2":
        slope = (model.weights[0] - model.weights[1]).norm()
    worst = -margin(model(moved), labels)
    assert torch.allclose(worst, clean - eps * slope, atol=1e-4)


def test_square_comes_close_to_the_worst_case_of_a_linear_model() -> None:
    model, images, labels, clean, slope = two_classes()
    eps = 0.3 * float(clean.min() / slope)
    attack = square(eps=eps, queries=3000)
    moved = attack(model, images, labels, Draws(0, torch.arange(20)))
    gained = clean + margin(model(moved).detach(), labels)
    assert float((gained / (eps * slope)).min()) > 0.95
    assert torch.allclose((moved - images).abs(), torch.full_like(images, eps), atol=1e-6)


@pytest.mark.parametrize("targets", [0, 1])
def test_fab_finds_the_boundary_of_a_linear_model(targets: int) -> None:
    """The least l_inf distance is margin / |w|_1: found within eps just above, not below."""
    model, images, labels, clean, slope = two_classes()
    for row in range(5):
        one = slice(row, row + 1)
        for factor, left in ((1.1, 0.0), (0.99, 1.0)):
            attack = fab(eps=factor * float(clean[row] / slope), targets=targets, steps=20)
            moved = attack(model, images[one], labels[one], Draws(0, torch.arange(1)))
            assert float(right(model, moved, labels[one]).float()) == left


def test_a_fab_step_overshoots_the_boundary_by_eta() -> None:
    model, images, labels, clean, slope = two_classes()
    one = slice(0, 1)
    for factor, left in ((1.06, 0.0), (1.04, 1.0)):
        attack = fab(eps=factor * float(clean[0] / slope), targets=1, steps=1)
        moved = attack(model, images[one], labels[one], Draws(0, torch.arange(1)))
        assert float(right(model, moved, labels[one]).float()) == left


def test_momentum_and_any_iterate_go_together() -> None:
    """Who leaves takes its momentum along: the others climb on as if it had stayed."""
    model = Exact()
    images, labels, _ = held_out(40)
    climbs = [
        Ascent(norm="linf", eps=EPS, step_size=0.02, steps=9, decay=1.0, any_iterate=leave)
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


@pytest.mark.parametrize("name", ["mim", "pgd_l2", "apgd_dlr", "apgd_t", "square"])
def test_scaled_logits_do_not_hide_a_model_from_these_attacks(name: str) -> None:
    images, labels, _ = held_out(60)
    counts = [
        int(right(model, EVERY[name]()(model, images, labels, held_out(60)[2]), labels).sum())
        for model in (trained(EPS), Changed(trained(EPS), lambda logits: logits * 64))
    ]
    assert abs(counts[0] - counts[1]) <= (4 if name == "mim" else 1)


def test_kl_is_blind_to_labels_and_needs_its_start() -> None:
    images, labels, _ = held_out(20)
    model = trained(EPS)
    attack = partial(pgd(loss="kl", start="gaussian"), model, images)
    moved = attack(labels, held_out(20)[2])
    assert torch.equal(moved, attack((labels + 1) % 10, held_out(20)[2]))
    assert float((moved - images).abs().mean()) > EPS / 4
    assert int(right(model, moved, labels).sum()) < int(right(model, images, labels).sum())


class Killer(nn.Module):
    """No gradient reaches the images: rounded away, or cut off."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.model, self.how = trained(0.0), how

    def forward(self, images: Tensor) -> Tensor:
        flat = (images * 255).round() / 255 if self.how == "round" else images.detach()
        logits: Tensor = self.model(flat)
        return logits


@every
@pytest.mark.parametrize("how", ["round", "detach"])
def test_zero_gradients_give_no_nan(name: str, how: str) -> None:
    images, labels, draws = held_out(30)
    moved = EVERY[name]()(Killer(how), images, labels, draws)
    assert moved.isfinite().all()
    if name in {"fgsm", "bim", "mim"}:
        assert torch.equal(moved, images)


@pytest.mark.parametrize("how", ["round", "detach"])
def test_square_needs_no_gradients(how: str) -> None:
    images, labels, draws = held_out(30)
    moved = square(queries=1000)(Killer(how), images, labels, draws)
    assert int(right(Killer(how), moved, labels).sum()) < 20


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
        "square": (square(queries=50), 50, 0),
    }
    for name, (attack, forwards, backwards) in expected.items():
        counting = Counting(model)
        attack(counting, images, labels, held_out(8)[2])
        spent = counting.forwards / 8, counting.backwards / 8
        assert spent == (forwards, backwards), name


class Coin(nn.Module):
    """Every forward draws one of two members."""

    random = True

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([trained(0.0), trained(EPS)])
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        drawn = int(torch.randint(2, (), generator=self.generator))
        logits: Tensor = self.members[drawn](images)
        return logits


def test_nobody_leaves_under_a_random_model() -> None:
    images, labels, draws = held_out(30)
    for attack, forwards in (
        (pgd(steps=4, restarts=3), 3 * 5),
        (apgd(steps=10, restarts=2, eot=3), 2 * (11 + 1) * 3),
        (autoattack(version="rand", eot=2), 2 + 2 * (2 * 11 + 2)),
    ):
        counting = Counting(Coin())
        counting.random = True
        attack(counting, images, labels, draws)
        assert counting.forwards == 30 * forwards, attack


def test_under_a_random_model_the_attempt_with_the_best_mean_margin_is_kept() -> None:
    images, labels, _ = held_out(10)
    model = Coin()
    weak, strong = images + 0.001, pgd(steps=20)(trained(EPS), images, labels, held_out(10)[2])
    attempts = [lambda rows: weak[rows], lambda rows: strong[rows], lambda rows: images[rows]]
    kept = keep_worst(attempts, model, images, labels, votes=30)
    assert float((kept == strong).flatten(1).all(1).float().mean()) > 0.8


def test_attacks_that_trust_one_draw_refuse_a_random_model() -> None:
    images, labels, draws = held_out(4)
    for attack in (pgd(any_iterate=True), square(), fab(), autoattack()):
        with pytest.raises(UserError, match="one lucky draw of a random model"):
            attack(Coin(), images, labels, draws)


def test_contradictory_settings_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="restarts 3 with start none repeats one run"):
        pgd(start="none", restarts=3)
    with pytest.raises(UserError, match="loss ce with targets 9"):
        apgd(targets=9)
    with pytest.raises(UserError, match="loss dlr_targeted with targets 0"):
        apgd(loss="dlr_targeted")


def test_more_targets_than_wrong_classes_are_all_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    model, images = Linear(torch.randn(4, 64, generator=generator)), half_saturated(0)[0]
    labels = model(images).argmax(1)
    attacks = [apgd(loss="dlr_targeted", targets=n) for n in (3, 9)] + [
        fab(targets=n) for n in (3, 9)
    ]
    found = [attack(model, images, labels, Draws(0, torch.arange(4))) for attack in attacks]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
