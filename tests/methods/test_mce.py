"""MCE: golden values of its loss, learners in turn, and edges to those before."""

import math
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from members import LABELS, A, Z, assert_same, batch_of, method_of, states, training_of
from torch import Tensor

from pipeline.core.ensemble import combine
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.plan import Plan


def test_the_loss_has_its_golden_values():
    loss = method_of("mce").margin_loss
    second = loss(Z, LABELS) - cross_entropy(Z, LABELS)
    assert second.tolist() == pytest.approx([0.849012, 0.854131], abs=5e-7)
    assert loss(Z, LABELS).tolist() == pytest.approx([1.018858, 1.318499], abs=5e-7)
    assert loss((Z + A) / 2, LABELS).tolist() == pytest.approx([1.201758, 1.540325], abs=5e-7)


def test_the_losses_limits():
    loss = method_of("mce").margin_loss
    even = torch.zeros(1, 10, dtype=torch.float64)
    assert loss(even, LABELS[:1]).item() == pytest.approx(2 * math.log(10))
    assert torch.allclose(loss(Z + 7, LABELS), loss(Z, LABELS))
    pair = Z[:, :2]
    assert torch.allclose(loss(pair, LABELS), 2 * cross_entropy(pair, LABELS))
    assert torch.equal(method_of("mce", weight=0).margin_loss(Z, LABELS), cross_entropy(Z, LABELS))
    assert loss(Z.to(torch.bfloat16), LABELS).dtype == torch.float32


def test_examples_raise_the_loss_of_the_learners_mean_within_the_ball():
    method = method_of("mce")
    learner, before = (training_of("mce", method, 1) for _ in range(2))
    method.step(before, batch_of())
    earlier = [m.eval().requires_grad_(False) for m in before.members]
    earlier[0].zero_grad(set_to_none=True)
    learner.parents = {"earlier": combine("mean_logit", earlier)}
    fixed, batch = states(before), batch_of(seed=1)
    crafted = method.craft(learner, batch)
    assert (crafted - batch.images).abs().max() <= method.eps + 1e-6
    assert learner.members[0].training and not earlier[0].training

    def common(images: Tensor) -> float:
        together = combine("mean_logit", [*earlier, learner.members[0].eval()])
        found = method.margin_loss(together(images), batch.labels).mean().item()
        learner.members[0].train()
        return found

    assert common(crafted) > common(batch.images)
    method.step(learner, batch)
    assert_same(states(before), fixed)
    assert all(p.grad is None for p in earlier[0].parameters())


def test_the_first_learner_without_the_second_term_is_adversarial_training():
    """But for the start, which is uniform in half of the ball."""
    mce, plain = method_of("mce", weight=0), method_of("pgd_at")
    ours, twin = training_of("mce", mce, 1), training_of("pgd_at", plain, 1)
    for seed in range(2):
        batch = batch_of(seed=seed)
        crafted = mce.craft(ours, batch)
        mce.step(ours, batch)
        twin.attack = lambda model, images, labels, draws, x=crafted: x
        plain.step(twin, batch)
    assert_same(states(ours), states(twin))


def test_every_learner_rests_on_those_before_and_three_are_a_part_of_five():
    plan = Plan(tiny.params())
    three, five = tiny.runs(plan, "mce", 3), tiny.runs(plan, "mce", 5)
    assert [r.id for r in three] == [r.id for r in five][:3]
    for index, run in enumerate(five):
        assert list(run.parents) == [r.id for r in five[:index]]
        assert len(run.spec["parents"]) == min(index, 1)
        if index:
            earlier = run.edges["earlier"]
            assert earlier.combine == ("mean_logit" if index > 1 else "single")
    assert tiny.one_run(plan, "mce") == three[0]
    assert three[1].id != tiny.runs(plan, "pgd_at", 3)[1].id


def test_learners_are_trained_one_after_another_and_again_to_the_same_bytes(tmp_path, monkeypatch):
    asked = tiny.params(epochs=1, train_images=64, validate_every=0)
    asked["methods"]["mce"] |= {"steps": 1}
    plan = tiny.place(tmp_path, monkeypatch, asked)
    _, two = tiny.trained(plan, "mce", 2)
    first = (two.folder / "weights.safetensors").read_bytes()
    shutil.rmtree(two.folder)
    tiny.trained(plan, "mce", 2)
    assert (two.folder / "weights.safetensors").read_bytes() == first


def test_learners_in_one_run_and_unknown_rules_are_refused():
    with pytest.raises(UserError, match="learners train in turn"):
        training_of("mce", replace(method_of("mce"), joint=True), 2)
    asked = tiny.params()
    asked["methods"]["mce"]["earlier"] = "mean_logits"
    with pytest.raises(UserError, match=r"methods\.mce\.earlier"):
        tiny.runs(Plan(asked), "mce", 2)
