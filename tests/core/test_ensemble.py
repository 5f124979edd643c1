"""Combination rules: what they compute, that they can be attacked, and the models that stand in."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.core.ensemble import RULES, Scaled, check_finite, combine, mean_log_prob
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.evaluation.surrogates import Normalised, surrogates

PIXELS, CLASSES = 6, 4
JOINT_RULES = [name for name in RULES if name != "single"]
each_rule = pytest.mark.parametrize("rule", JOINT_RULES)


class Fixed(nn.Module):
    """Gives the same logits whatever it sees."""

    def __init__(self, logits: list[list[float]], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.given = nn.Parameter(torch.tensor(logits, dtype=dtype))

    def forward(self, images: Tensor) -> Tensor:
        return self.given + 0 * images.sum()


class Gatekeeper(nn.Linear):
    """A member that would also weigh three members, by the first three pixels."""

    def weigh(self, images: Tensor) -> Tensor:
        return images[:, :3]


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Gatekeeper(PIXELS, CLASSES)


def linears(count: int) -> list[nn.Module]:
    return [linear(seed) for seed in range(count)]


def images(count: int = 8) -> Tensor:
    return torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(0))


@each_rule
def test_identical_members_agree_with_each_of_them(rule):
    member = linear(0)
    answers = combine(rule, [member] * 3)(images(64)).argmax(1)
    assert torch.equal(answers, member(images(64)).argmax(1))


@each_rule
def test_one_member_gives_its_raw_logits_under_every_rule(rule):
    member = linear(0)
    alone = combine(rule, [member])
    assert torch.equal(alone(images()), member(images()))
    assert not alone.random


@each_rule
def test_every_rule_can_be_attacked_end_to_end(rule):
    shown = images().requires_grad_()
    losses = cross_entropy(combine(rule, linears(3))(shown), torch.zeros(8, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(losses.sum(), shown)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(1) > 0).all()


def test_half_precision_logits_are_combined_in_float32():
    halves = [Fixed([[1.0, 2.0]], torch.bfloat16) for _ in range(2)]
    assert combine("mean_prob", halves)(torch.zeros(1, 1)).dtype == torch.float32


# ---- mean_prob


def test_softmax_of_mean_prob_is_the_mean_of_the_softmaxes():
    members = [m.double() for m in linears(5)]
    shown = images().double()
    mean = torch.stack([m(shown).softmax(1) for m in members]).mean(0)
    assert torch.allclose(combine("mean_prob", members)(shown).softmax(1), mean, atol=1e-14)
    assert torch.allclose(combine("mean_prob", members)(shown).exp(), mean, atol=1e-14)


def test_mean_prob_has_the_cards_golden_value():
    z = Fixed([[2.0, 0, -1], [0.5, 1.5, 0]], torch.float64)
    a = Fixed([[1.0, 0.5, 0], [0, 1, 1.2]], torch.float64)
    scores = combine("mean_prob", [z, a])(torch.zeros(1, dtype=torch.float64))
    assert cross_entropy(scores, torch.tensor([0, 1])).mean().item() == pytest.approx(
        0.535677, abs=5e-7
    )


def test_over_confident_members_have_a_gradient_where_a_clamp_has_none():
    labels = torch.tensor([1])
    logits_KBC = torch.tensor([[[0.0, -200.0]], [[10.0, -195.0]]], requires_grad=True)
    clamped = logits_KBC.softmax(-1).mean(0).clamp_min(1e-40).log()
    (lost,) = torch.autograd.grad(cross_entropy(clamped, labels).sum(), logits_KBC)
    assert (lost == 0).all()
    scores = mean_log_prob(logits_KBC)
    assert scores[0, 1].item() == pytest.approx(math.log((1 + math.exp(-5)) / 2) - 200, abs=1e-3)
    (gradient,) = torch.autograd.grad(cross_entropy(scores, labels).sum(), logits_KBC)
    assert gradient[0, 0].abs().min() > 0.9


# ---- vote, max_conf, random_one


def test_vote_counts_decisions_not_confidence():
    sure, unsure = Fixed([[9.0, 0, 0]]), Fixed([[0.0, 0.1, 0]])
    assert combine("vote", [sure, unsure, unsure])(torch.zeros(1)).argmax(1).item() == 1
    assert combine("mean_prob", [sure, unsure, unsure])(torch.zeros(1)).argmax(1).item() == 0


def test_a_tied_vote_goes_to_the_higher_mean_probability():
    first, second, third = Fixed([[2.0, 0, 0]]), Fixed([[0.0, 3, 0]]), Fixed([[0.0, 0, 1]])
    assert combine("vote", [first, second, third])(torch.zeros(1)).argmax(1).item() == 1


def test_max_conf_answers_with_the_surest_member_of_every_image():
    first = Fixed([[3.0, 0], [0.0, 1]])
    second = Fixed([[1.0, 0], [0.0, 2]])
    answers = combine("max_conf", [first, second])(torch.zeros(2))
    assert torch.equal(answers, torch.tensor([[3.0, 0], [0.0, 2]]))


def test_max_conf_gives_no_gradient_to_the_members_that_stay_silent():
    loud, silent = Fixed([[3.0, 0]]), Fixed([[1.0, 0]])
    combine("max_conf", [silent, loud])(torch.zeros(1)).sum().backward()
    assert silent.given.grad is not None and (silent.given.grad == 0).all()
    assert loud.given.grad is not None and (loud.given.grad == 1).all()


def test_equally_sure_members_answer_by_the_lowest_index():
    tied = combine("max_conf", [Fixed([[1.0, 0]]), Fixed([[0.0, 1]])])
    assert torch.equal(tied(torch.zeros(1)), torch.tensor([[1.0, 0]]))


class Gate(Fixed):
    """A member that weighs all by given logits."""

    def weigh(self, images: Tensor) -> Tensor:
        return torch.tensor([[0.0, math.log(2)], [math.log(3), 0.0]], dtype=torch.float64)


def test_a_gate_weighs_members_as_in_the_golden_values():
    z, a = [[2.0, 0, -1], [0.5, 1.5, 0]], [[1.0, 0.5, 0], [0, 1, 1.2]]
    mixture = combine("gated", [Gate(z, torch.float64), Fixed(a, torch.float64)])
    logits = mixture(torch.zeros(2, dtype=torch.float64))
    mixed = [4 / 3, 1 / 3, -1 / 3, 0.375, 1.375, 0.3]
    assert logits.flatten().tolist() == pytest.approx(mixed, abs=1e-9)
    losses = cross_entropy(logits, torch.tensor([0, 1])).tolist()
    assert losses == pytest.approx([0.442604, 0.536012], abs=6e-7)


def test_a_certain_gate_is_its_member_and_an_even_one_the_mean_of_logits():
    members, shown = linears(3), images()
    members[0].weigh = lambda images: torch.tensor([[0.0, 80.0, 0.0]]).expand(len(images), 3)
    assert torch.allclose(combine("gated", members)(shown), members[1](shown))
    members[0].weigh = lambda images: torch.zeros(len(images), 3)
    even = combine("mean_logit", members)(shown)
    assert torch.allclose(combine("gated", members)(shown), even, atol=1e-6)


def test_scaled_members_are_gated_as_before_and_members_without_a_gate_are_refused():
    members = linears(3)
    heated = combine("gated", [Scaled(member, 10) for member in members])
    assert torch.allclose(heated(images()), 10 * combine("gated", members)(images()), atol=1e-5)
    with pytest.raises(UserError, match="combine: gated: these members have no gate"):
        combine("gated", [nn.Linear(PIXELS, CLASSES) for _ in range(3)])


def test_random_one_draws_every_member_equally_often_for_whole_batches():
    members = [Fixed([[float(i)]] * 3) for i in range(4)]
    ensemble = combine("random_one", members)
    assert ensemble.random
    answers = torch.stack([ensemble(torch.zeros(3))[:, 0] for _ in range(2000)])
    assert (answers == answers[:, :1]).all()
    counts = answers[:, 0].long().bincount(minlength=4)
    chi_square = ((counts - 500) ** 2 / 500).sum().item()
    assert chi_square < 16.3  # 99.9 % quantile with 3 degrees of freedom


def test_a_reseeded_random_rule_repeats_its_draws():
    ensemble = combine("random_one", [Fixed([[float(i)]]) for i in range(4)])

    def draw(seed: int) -> list[float]:
        ensemble.reseed(seed)
        return [ensemble(torch.zeros(1)).item() for _ in range(20)]

    first, other = draw(1), draw(2)
    assert first == draw(1) != other


# ---- properties


@given(st.permutations(range(4)), st.sampled_from(["mean_prob", "mean_logit", "vote"]))
@settings(max_examples=25, deadline=None)
def test_the_order_of_members_does_not_matter(order, rule):
    members = linears(4)
    shuffled = [members[i] for i in order]
    given_, other = combine(rule, members)(images()), combine(rule, shuffled)(images())
    assert torch.allclose(given_, other, atol=1e-6)


@given(st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_scaling_keeps_a_members_decision_and_normalising_undoes_it(factor):
    member = linear(0)
    scaled = Scaled(member, factor)
    assert torch.equal(scaled(images()).argmax(1), member(images()).argmax(1))
    assert torch.allclose(Normalised(scaled)(images()), Normalised(member)(images()), atol=1e-4)


# ---- surrogates


def test_surrogates_are_what_their_names_say():
    members = linears(3)
    victim = combine("mean_prob", members)
    shown = images()
    assert surrogates(victim, "self") == [victim]
    (mean,) = surrogates(victim, "mean_logit")
    assert torch.allclose(mean(shown), torch.stack([m(shown) for m in members]).mean(0))
    for alone, member in zip(surrogates(victim, "members"), members, strict=True):
        assert torch.equal(alone(shown), member(shown))
    with pytest.raises(ValueError, match="no surrogate"):
        surrogates(victim, "ghost")


def test_the_normalised_surrogate_sees_through_confidence():
    members = linears(3)
    (plain,) = surrogates(combine("mean_prob", members), "normalised")
    hidden = combine("mean_prob", [Scaled(members[0], 50), members[1], Scaled(members[2], 0.1)])
    (seen,) = surrogates(hidden, "normalised")
    assert torch.allclose(seen(images()), plain(images()), atol=1e-4)


def test_a_random_victims_surrogates_are_deterministic():
    victim = combine("random_one", linears(3))
    for kind in ("mean_logit", "members", "normalised"):
        for model in surrogates(victim, kind):
            assert not model.random


def test_scores_of_no_image_are_no_fault():
    check_finite(torch.zeros(3, 0, 10), torch.zeros(0, 1, 8, 8), "victim")
