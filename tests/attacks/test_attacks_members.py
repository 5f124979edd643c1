"""Attacks that see every member: random inference in expectation, the choice of one member."""

import warnings
from fractions import Fraction

import pytest
import torch
from projects import published
from torch import Tensor, nn
from victims import EPS, Exact, Linear, held_out, right, trained

from pipeline.attacks.blur import Blur, blur
from pipeline.attacks.eot_pgd import EOTPGD
from pipeline.attacks.members_arc import MembersARC
from pipeline.attacks.members_pgd import MembersPGD
from pipeline.attacks.noise import Noise
from pipeline.attacks.pgd_l1 import PGDL1, soften
from pipeline.attacks.svgd import SVGD
from pipeline.core.draws import Draws
from pipeline.core.ensemble import MaxConf, MeanProb, RandomOne
from pipeline.core.losses import cross_entropy
from pipeline.core.norms import lengths
from pipeline.core.particles import _kernel
from pipeline.errors import UserError
from pipeline.evaluation.surrogates import Answers, surrogates
from pipeline.plan.params.entries import Entries

GOALS = ("mean_ce", "mean_prob", "worst_margin", "hinge", "chosen", "lower", "mismatch", "gate")
GOALS += ("gate_margin", "force")


def members_pgd(goal: str, heard: str = "all", **changed) -> MembersPGD:
    usual = dict(eps=EPS, step_size=EPS, steps=8, restarts=1, goal=goal, weight=0.5)
    usual |= dict(heard=heard, decay=0.75, schedule="cosine", targets=0)
    return MembersPGD(**{**usual, **changed})


def arc(**changed) -> MembersARC:
    return MembersARC(
        **{**dict(eps=EPS, step_size=EPS / 2, steps=8, restarts=2, targets=3), **changed}
    )


def pair() -> list[nn.Module]:
    return [trained(EPS), trained(0.1)]


def share(members: list[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([right(m, images, labels) for m in members]).float().mean(0)


def test_a_boundary_towards_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="members_arc needs targets of 1 or more"):
        arc(targets=0)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("heard", ["all", "confident"])
def test_the_result_lies_in_ball_and_box_whatever_the_batch(goal: str, heard: str) -> None:
    model = Answers([Exact(seed=0), Exact(seed=1)])
    images, labels, draws = held_out(30)
    attack = members_pgd(goal, heard, restarts=2)
    whole = attack(model, images, labels, draws)
    assert float((whole - images).abs().max()) <= EPS + 1e-6
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1 and not whole.requires_grad
    parts = [attack(model, images[r], labels[r], Draws(1, r)) for r in torch.arange(30).split(7)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_a_forced_choice_towards_targets_and_arc_do_not_depend_on_the_batch() -> None:
    model = Answers([Exact(seed=0), Exact(seed=1)])
    images, labels, draws = held_out(30)
    for attack in (members_pgd("force", "confident", targets=2), arc()):
        whole = attack(model, images, labels, draws)
        assert float((whole - images).abs().max()) <= EPS + 1e-6
        assert float(whole.min()) >= 0 and float(whole.max()) <= 1 and not whole.requires_grad
        parts = [
            attack(model, images[r], labels[r], Draws(1, r)) for r in torch.arange(30).split(7)
        ]
        assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


def test_arc_leaves_no_more_members_right_than_the_mean_does() -> None:
    """Two members that fall to opposite moves: the mean's gradient is 0, each member's is not."""
    up, down = (Linear(way * torch.eye(2)) for way in (1.0, -1.0))
    images = torch.tensor([[[[0.52, 0.5]]], [[[0.48, 0.5]]]])
    labels = torch.tensor([0, 1])
    found = arc(eps=0.1, step_size=0.05, steps=5, targets=1)(
        Answers([up, down]), images, labels, Draws(0, torch.arange(2))
    )
    after = share([up, down], found, labels)
    assert bool((after <= share([up, down], images, labels)).all())


def test_arc_fools_members_that_fail_together() -> None:
    images, labels, draws = held_out(80)
    moved = arc()(Answers(pair()), images, labels, draws)
    assert float(share(pair(), moved, labels).mean()) < 0.8 * float(
        share(pair(), images, labels).mean()
    )


def test_the_lesser_of_margin_and_lead_is_not_traded_for_the_greater() -> None:
    """SoE: an ever wronger member that nobody hears is no success; a sum would ask for it."""
    attack = members_pgd("force", "confident", weight=1.0)
    wrong, heard = (
        torch.tensor([[[-m, 0.0, 0.5 + lead], [9.0, 0.0, 0.5]]])
        for m, lead in ((9, -0.4), (0.1, 0.1))
    )
    labels = torch.tensor([0])
    values = [float(attack._force(a, 0, labels, None)) for a in (wrong, heard)]
    assert values == pytest.approx([-0.4, 0.1], abs=1e-6)


def test_a_cosine_falls_to_nothing_and_targets_are_for_a_forced_choice() -> None:
    attack = members_pgd("force", steps=10)
    sizes = [attack._step_size(t) for t in range(10)]
    assert sizes[0] == EPS and sizes == sorted(sizes, reverse=True) and sizes[-1] < EPS / 40
    assert members_pgd("force", schedule="constant")._step_size(7) == EPS
    with pytest.raises(UserError, match="targets are for goal force"):
        members_pgd("gate", targets=1)


@pytest.mark.parametrize("goal", ["mean_ce", "mean_prob", "worst_margin", "hinge"])
def test_the_best_iterate_is_right_for_no_more_members_than_the_clean_image(goal: str) -> None:
    members = pair()
    images, labels, draws = held_out(80)
    moved = members_pgd(goal)(Answers(members), images, labels, draws)
    clean, after = share(members, images, labels), share(members, moved, labels)
    assert bool((after <= clean).all())
    assert float(after.mean()) < 0.8 * float(clean.mean())


class Counted(nn.Module):
    """Counts the images that a model is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return self.model(images)


@pytest.mark.parametrize(("goal", "heard"), [("mean_ce", "all"), ("chosen", "confident")])
def test_images_without_a_right_answer_are_not_asked_again(goal: str, heard: str) -> None:
    images, labels, draws = held_out(80)
    model = Counted(Answers(pair()))
    moved = members_pgd(goal, heard, eps=1.0, step_size=0.2, restarts=5)(
        model, images, labels, draws
    )
    assert float(share(pair(), moved, labels).mean()) < 0.05
    assert model.asked < 80 + 80 * 5 * 9 / 4  # of 5 runs of 8 steps and a last look
    model.asked = 0
    lost = labels[:4] + 1  # wrong before it begins
    members_pgd(goal, heard)(model, images[:4], lost % 10, draws.select(torch.arange(4)))
    assert model.asked == 4


def test_the_exact_expectation_is_no_weaker_than_samples_of_it() -> None:
    """T5: the sum over members against gradients of single draws, in expected accuracy."""
    members = [trained(0.0), trained(EPS)]
    images, labels, _ = held_out(150)
    exact = members_pgd("mean_prob", steps=20, step_size=EPS / 5)
    sampled = EOTPGD(eps=EPS, step_size=EPS / 5, steps=20, eot=4)
    found = {
        "exact": exact(Answers(members), images, labels, held_out(150)[2]),
        "sampled": sampled(RandomOne(members), images, labels, held_out(150)[2]),
    }
    means = {name: float(share(members, x, labels).mean()) for name, x in found.items()}
    assert means["exact"] <= means["sampled"] + 0.02


def test_the_worst_margin_makes_all_members_fail_at_once() -> None:
    members = pair()
    images, labels, _ = held_out(100)
    survive = {
        goal: float(
            (
                share(
                    members,
                    members_pgd(goal, steps=20)(Answers(members), images, labels, held_out(100)[2]),
                    labels,
                )
                > 0
            )
            .float()
            .mean()
        )
        for goal in ("worst_margin", "mean_ce")
    }
    assert survive["worst_margin"] <= survive["mean_ce"] + 0.02


class Toy(nn.Module):
    """Logits and confidence that are linear in two pixels."""

    def __init__(self, logit: list[float], bias: float, trust: list[float], level: float) -> None:
        super().__init__()
        self.logit, self.bias = torch.tensor(logit), bias
        self.trust, self.level = torch.tensor(trust), level

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1) @ self.logit + self.bias
        return torch.stack([value, torch.zeros_like(value)], 1)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        trust = torch.sigmoid(images.flatten(1) @ self.trust + self.level)
        return self(images), trust


def switching() -> tuple[MaxConf, Tensor, Tensor]:
    """Member 0 is chosen and cannot be fooled; member 1 is wrong, if only it were chosen."""
    strong = Toy([1.0, 0.0], 5.0, [0.0, -4.0], 3.0)  # right everywhere; trust falls in pixel 2
    weak = Toy([0.0, 0.0], -5.0, [0.0, 0.0], 0.0)  # wrong everywhere; trust one half
    images = torch.tensor([[[[0.5, 0.2]]]])
    return MaxConf([strong, weak]), images, torch.tensor([0])


def test_a_gradient_through_the_chosen_member_does_not_switch_but_forcing_does() -> None:
    """T14: what plain PGD through the selection cannot see."""
    victim, images, labels = switching()
    draws = Draws(0, torch.arange(1))
    attack = dict(eps=0.6, step_size=0.1, steps=15, heard="confident")
    assert bool(right(victim, images, labels))
    model = Answers(victim.members)
    plain = members_pgd("chosen", **{**attack, "eps": 0.6, "restarts": 1})
    with torch.no_grad():
        start = plain(model, images, labels, draws)
    assert bool(right(victim, start, labels))
    for goal in ("force", "lower", "gate"):
        found = members_pgd(goal, weight=1.0, **attack)(model, images, labels, draws)
        assert not bool(right(victim, found, labels)), goal
    assert float(model(found)[0, 1, -1]) > float(model(found)[0, 0, -1])


def test_a_chosen_members_answer_lies_between_all_and_any() -> None:
    members = pair()
    images, labels, draws = held_out(80)
    moved = members_pgd("gate", "confident")(Answers(members), images, labels, draws)
    shares, chosen = share(members, moved, labels), right(MaxConf(members), moved, labels)
    assert bool((chosen <= (shares > 0)).all()) and bool((chosen >= (shares == 1)).all())


def test_mismatch_is_nothing_where_the_trusted_are_right_or_nobody_is_trusted() -> None:
    attack = members_pgd("mismatch", "confident", weight=1.0)
    plain = members_pgd("chosen", "confident")
    labels = torch.tensor([0])
    for logits, trust in (([[40.0, 0.0]] * 2, [0.9, 0.8]), ([[0.0, 1.0]] * 2, [0.0, 0.0])):
        answers = torch.cat([torch.tensor(logits), torch.tensor(trust)[:, None]], 1)[None]
        same = attack._goal(answers, labels) - plain._goal(answers, labels)
        assert float(same.abs()) < 1e-6


def test_a_gate_of_no_temperature_is_refused() -> None:
    with pytest.raises(UserError, match="temperature"):
        members_pgd("gate", weight=0.0)


def test_answers_are_logits_and_confidence_of_every_member() -> None:
    images, _, _ = held_out(5)
    (model,) = surrogates(RandomOne(pair()), "answers")
    answers = model(images)
    assert answers.shape == (5, 2, 11)
    for number, member in enumerate(pair()):
        logits = member(images)
        assert torch.allclose(answers[:, number, :-1], logits)
        assert torch.allclose(answers[:, number, -1], logits.softmax(1).amax(1))


@pytest.mark.parametrize(("kind", "factor"), [("cooled", 0.1), ("heated", 10.0)])
def test_scaled_surrogates_decide_as_the_victim_does(kind: str, factor: float) -> None:
    images, _, _ = held_out(20)
    (model,) = surrogates(MeanProb([trained(EPS)]), kind)
    assert torch.allclose(model(images), (trained(EPS)(images) * factor).log_softmax(1), atol=1e-5)


# ---- particles, other balls, no attack


def svgd(**changed) -> SVGD:
    usual = dict(eps=EPS, step_size=EPS / 4, steps=5, particles=3, kernel="median", width=0.001)
    return SVGD(
        **{
            **usual,
            **dict(repulsion=1.0, is_balanced=True, is_signed=True, divided="both"),
            **changed,
        }
    )


def test_svgd_fools_and_its_literal_kernel_is_no_interaction() -> None:
    model = trained(0.0)
    images, labels, draws = held_out(40)
    moved = svgd(repulsion=0.2)(model, images, labels, draws)
    assert float((moved - images).abs().max()) <= EPS + 1e-6
    assert int(right(model, moved, labels).sum()) < 25
    literal = svgd(kernel="fixed", is_balanced=False, is_signed=False)
    cloud = literal.climb(model, images, labels, held_out(40)[2])
    alone = svgd(kernel="fixed", is_balanced=False, is_signed=False, repulsion=0.0)
    assert torch.equal(cloud, alone.climb(model, images, labels, held_out(40)[2]))


@pytest.mark.parametrize(("width", "warned"), [(0.001, True), (1.0, False)])
def test_a_kernel_that_underflows_is_said_at_the_printed_width(width: float, warned: bool) -> None:
    """T13: at 32x32 the exponent is about -1e6, so particles do not interact."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model, draws = Exact(pixels=3 * 32**2), Draws(0, torch.arange(2))
    cloud = dict(eps=8 / 255, step_size=0.003, steps=1, kernel="fixed", width=width)
    attack = svgd(**cloud, is_balanced=False, is_signed=False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        points = attack.climb(model, images, torch.tensor([0, 1]), draws)
    assert [str(w.message) for w in found] == ["svgd: width 0.001: all kernels are 0"] * warned
    pairs = _kernel(points.flatten(2), torch.full((2,), width**2))[*torch.triu_indices(3, 3, 1)]
    assert bool((pairs == 0).all()) is warned and bool((pairs > 0).all()) is not warned


def test_particles_spread_wider_than_those_that_do_not_repel() -> None:
    model = trained(EPS)
    images, labels, _ = held_out(20)
    spread = [
        float((svgd(repulsion=r).climb(model, images, labels, held_out(20)[2]).std(0)).mean())
        for r in (0.0, 5.0)
    ]
    assert spread[1] > spread[0]


def test_a_single_particle_without_a_kernel_is_signed_ascent() -> None:
    model = trained(EPS)
    images, labels, draws = held_out(10)
    attack = svgd(particles=1, steps=1, kernel="none")
    moved = attack.climb(model, images, labels, draws)[0]
    start = attack.climb
    zero = svgd(particles=1, steps=0, kernel="none").climb(model, images, labels, held_out(10)[2])
    begin = zero[0].clone().requires_grad_()
    slope = torch.autograd.grad(cross_entropy(model(begin), labels).sum(), begin)[0]
    step = (begin + EPS / 4 * slope.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    assert torch.allclose(moved, step, atol=1e-6) and start is not None


def l1(**changed) -> PGDL1:
    return PGDL1(**{**dict(norm="l1", eps=3.0, step_size=0.6, steps=10, share=0.1), **changed})


@pytest.mark.parametrize("eps", [0.0, 1.0, 5.0])
def test_l1_images_lie_in_their_ball_and_box(eps: float) -> None:
    model = trained(0.0)
    images, labels, draws = held_out(40)
    moved = l1(eps=eps)(model, images, labels, draws)
    assert float((moved - images).abs().flatten(1).sum(1).max()) <= eps + 1e-4
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    if eps:
        before, after = (int(right(model, x, labels).sum()) for x in (images, moved))
        assert after < before
        assert float((moved != images).flatten(1).float().mean()) < 0.7  # sparse
    else:
        assert torch.equal(moved, images)


def test_softening_is_the_projection_onto_the_l1_ball() -> None:
    deltas = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, 0.0]])
    found = soften(deltas, 2.0)
    assert torch.allclose(found, torch.tensor([[2.0, 0.0, 0.0], [0.2, 0.1, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(1, 20, generator=generator)
    nearest = soften(point, 1.5)
    assert float(nearest.abs().sum()) == pytest.approx(1.5, abs=1e-5)
    for _ in range(50):  # no point of the ball is nearer
        other = torch.randn(1, 20, generator=generator)
        other = 1.5 * other / other.abs().sum()
        assert float((other - point).norm()) >= float((nearest - point).norm()) - 1e-6


def test_l1_spends_its_whole_budget_on_the_steepest_pixels_of_a_linear_model() -> None:
    weights = torch.zeros(2, 64)
    weights[1, :3] = torch.tensor([3.0, 2.0, 1.0])
    images = torch.zeros(1, 1, 8, 8)
    moved = l1(eps=1.5, step_size=0.5, share=1 / 64, steps=10)(
        Linear(weights), images, torch.tensor([0]), Draws(0, torch.arange(1))
    )
    assert torch.allclose(moved.flatten()[:3], torch.tensor([1.0, 0.5, 0.0]), atol=0.02)


def test_noise_is_worse_with_more_tries_and_far_from_an_attack() -> None:
    model = trained(0.0)
    images, labels, _ = held_out(100)
    left = [
        int(
            right(
                model,
                Noise(norm="linf", eps=EPS, tries=tries)(model, images, labels, held_out(100)[2]),
                labels,
            ).sum()
        )
        for tries in (1, 10)
    ]
    assert left[1] <= left[0] and left[1] > 70
    moved = Noise(norm="l2", eps=0.5, tries=3)(model, images, labels, held_out(100)[2])
    assert float(lengths("l2", moved - images).max()) <= 0.5 + 1e-6


def test_blur_keeps_flat_images_and_the_least_width_changes_nothing() -> None:
    flat = torch.full((2, 3, 8, 8), 0.3)
    assert torch.allclose(blur(flat, 1.0), flat, atol=1e-6)
    images, labels, draws = held_out(60)
    assert torch.equal(blur(images, 0.0), images)
    spread = torch.zeros(1, 1, 9, 9)
    spread[0, 0, 4, 4] = 1
    once = blur(spread, 1.0)
    assert float(once.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(once[0, 0, 4, 5] / once[0, 0, 4, 4]) == pytest.approx(0.6065, abs=1e-3)
    model = trained(0.0)
    wide = Blur(widths=[0.0, 0.5, 1.5])(model, images, labels, draws)
    assert int(right(model, wide, labels).sum()) < int(right(model, images, labels).sum())


def test_an_attack_on_another_model_climbs_on_where_that_model_is_fooled() -> None:
    """The first iterate that fools a member or the normalised mean need not fool the victim."""
    entries, met = Entries(published()), {}
    for name in entries.section("attacks"):
        fields = entries.named_attack(name, Fraction(1)).spec["fields"]
        if entries.surrogate(name) not in ("self", "averaged") and "any_iterate" in fields:
            met[name] = fields["any_iterate"]
    assert {"members_margin_pgd", "normalised_margin_pgd"} <= set(met)
    assert [name for name, stops in met.items() if stops] == []
