"""BARRE: golden values of its loss, learners that go on from those before, and MCE without that."""

import pytest
import tiny
import torch
from members import LABELS, A, Z, assert_same, batch_of, method_of, states, training_of

from pipeline.core.ensemble import RandomOne, combine, mean_log_prob
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.plan import Plan


def after_one(entry: str, **changed):
    """A second learner in training, and the frozen first one that it rests on."""
    method = method_of(entry, **changed)
    first, second = (training_of(entry, method, 1) for _ in range(2))
    method.step(first, batch_of())
    before = first.members[0].eval().requires_grad_(False)
    before.zero_grad(set_to_none=True)
    second.parents = {"earlier": combine(method.earlier, [before])}
    second.optimisers = method.setup(second)
    return method, second, first


def test_the_loss_has_its_golden_values_for_a_learner_and_for_their_mean_probability():
    loss = method_of("barre").margin_loss
    assert loss(Z, LABELS).tolist() == pytest.approx([1.018858, 1.318499], abs=5e-7)
    together = mean_log_prob(torch.stack([Z, A]))
    assert loss(together, LABELS).tolist() == pytest.approx([1.236269, 1.607686], abs=5e-7)
    plain = method_of("barre", weight=0).margin_loss(Z, LABELS)
    assert torch.equal(plain, cross_entropy(Z, LABELS))


def test_a_learner_starts_as_the_one_before_and_leaves_it_alone():
    method, learner, first = after_one("barre")
    assert_same(states(learner), states(first))
    fixed, batch = states(first), batch_of(seed=1)
    crafted = method.craft(learner, batch)
    assert (crafted - batch.images).abs().max() <= method.eps + 1e-6
    method.step(learner, batch)
    assert_same(states(first), fixed)
    assert not torch.equal(*(next(t.members[0].parameters()) for t in (learner, first)))
    assert all(p.grad is None for p in first.members[0].parameters())


def test_examples_raise_the_loss_of_the_expected_answer():
    method, learner, first = after_one("barre")
    for seed in range(3):
        method.step(learner, batch_of(seed=seed))
    batch = batch_of(seed=7)
    crafted = method.craft(learner, batch)
    both = combine("mean_prob", [m.members[0].eval() for m in (first, learner)])
    clean, attacked = (method.margin_loss(both(x), batch.labels) for x in (batch.images, crafted))
    assert attacked.mean() > clean.mean()


def test_not_persistent_and_on_the_mean_of_logits_it_is_mce_bit_for_bit():
    found = []
    for entry, changed in (("barre", {"persistent": False, "earlier": "mean_logit"}), ("mce", {})):
        method, learner, _ = after_one(entry, **changed)
        method.step(learner, batch_of(seed=1))
        found.append(states(learner))
    assert_same(*found)


def test_the_first_learner_without_the_second_term_is_adversarial_training():
    barre, plain = method_of("barre", weight=0), method_of("pgd_at")
    ours, twin = training_of("barre", barre, 1), training_of("pgd_at", plain, 1)
    batch = batch_of()
    crafted = barre.craft(ours, batch)
    barre.step(ours, batch)
    twin.attack = lambda model, images, labels, draws: crafted
    plain.step(twin, batch)
    assert_same(states(ours), states(twin))


def test_every_learner_rests_on_those_before_and_one_is_drawn_at_test():
    plan = Plan(tiny.params())
    three, two = tiny.runs(plan, "barre", 3), tiny.runs(plan, "barre", 2)
    assert [r.id for r in two] == [r.id for r in three][:2]
    assert list(three[2].parents) == [r.id for r in three[:2]]
    assert method_of("barre").combine == "random_one"
    with pytest.raises(UserError, match="learners train in turn"):
        training_of("barre", method_of("barre"), 2)


def test_a_random_rule_draws_by_the_epoch_and_the_batchs_first_image(monkeypatch):
    method, learner, _ = after_one("barre", earlier="random_one", steps=16)
    draw, drawn = RandomOne._draw, []

    def noted(self: RandomOne, shape: tuple[int, ...]) -> torch.Tensor:
        drawn.append(draw(self, shape))
        return drawn[-1]

    monkeypatch.setattr(RandomOne, "_draw", noted)

    def learners(batch) -> list[int]:
        drawn.clear()
        method.craft(learner, batch)
        return [int(member) for member in drawn]

    first, other = learners(batch_of()), learners(batch_of(seed=1))
    assert set(first) == {0, 1} and len(first) == 16 and first != other
    # a resumed training meets the same batch; where an epoch's batches begin with it, others too
    assert learners(batch_of()) == first == learners(batch_of(4))
    assert learners(batch_of().select(slice(1, None))) != first
