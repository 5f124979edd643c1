"""A batch in parts (`micro_batch`): the update of the whole, or a refusal."""

from dataclasses import replace

import pytest
import tiny
import torch
from members import batch_of, method_of, training_of
from torch import nn

from pipeline.contracts.method import Method, learn
from pipeline.errors import UserError
from pipeline.loading.registry import component_class
from pipeline.plan import Plan
from pipeline.plan.params import schema
from pipeline.plan.params.parts import IMAGE_BY_IMAGE, WHOLE, why_whole
from pipeline.store import checkpoint
from pipeline.training.averaging import Judge, _craft
from pipeline.training.trainer import Trainer

METHODS = schema.available("methods")
EQUAL = [name for name in METHODS if not why_whole(name, schema.writes_step(name))]


def without_batch_norm(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, nn.Identity())
        without_batch_norm(child)
    return net.double()


def updated(entry: str, most: int, count: int = 7):
    """Weights after one update on a batch in parts of at most so many images, and the loss."""
    method = method_of(entry)
    members = 3 if method.joint else 1
    training = training_of(entry, method, members, micro_batch=most, lr=0.001)
    for net in [*training.networks, *training.parents.values()]:
        without_batch_norm(net)
    training.optimisers = method.setup(training)
    batch = batch_of(count)
    loss = learn(method, training, replace(batch, images=batch.images.double()))
    return torch.cat([p.flatten() for net in training.networks for p in net.parameters()]), loss


@pytest.mark.parametrize("entry", EQUAL)
def test_without_batch_norm_a_batch_in_parts_is_the_whole(entry):
    whole, loss = updated(entry, 0)
    parts, other = updated(entry, 3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(other, loss, rtol=0, atol=1e-10)


def test_a_part_has_no_further_view_to_show():
    batch = batch_of(4)
    assert batch.select(slice(2)).view(1).shape[0] == 2  # nothing is augmented
    augmented = replace(batch, augment=lambda draws: batch.images)
    with pytest.raises(UserError, match="no further view"):
        augmented.select(slice(2)).view(1)


@pytest.mark.parametrize("count, most, sizes", [
    (7, 0, [7]), (7, 7, [7]), (7, 9, [7]), (7, 6, [3, 4]), (7, 3, [2, 2, 3]), (8, 2, [2] * 4),
    (3, 2, [3]), (5, 2, [2, 3]),  # no image alone
])  # fmt: skip
def test_parts_are_nearly_equal_and_no_image_is_alone(count, most, sizes):
    training, batch = (
        training_of("pgd_at", method_of("pgd_at"), 1, micro_batch=most),
        batch_of(count),
    )
    parts = training.split(batch)
    assert [len(part.labels) for part in parts] == sizes
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert all(len(training.split(part)) == 1 for part in parts)


def test_every_part_has_batch_statistics_of_its_own():
    method, batch = method_of("standard"), batch_of(6)
    whole, parts = (training_of("standard", method, 1, micro_batch=m) for m in (0, 3))
    seen = []
    parts.members[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    learn(method, whole, batch)
    learn(method, parts, batch)
    assert seen == [3, 3]
    before, after = (t.members[0].state_dict() for t in (whole, parts))
    assert any(not torch.equal(before[k], after[k]) for k in before if "running_mean" in k)


def test_who_writes_step_is_known_to_the_plan():
    for name in METHODS:
        assert schema.writes_step(name) == (component_class("methods", name).step != Method.step)
    own = {name for name in METHODS if schema.writes_step(name)}
    assert own == {*IMAGE_BY_IMAGE, *WHOLE}


def plan(**recipe) -> Plan:
    return Plan(tiny.changed(**recipe))


def id_of(plan: Plan) -> str:
    return tiny.one_run(plan, "pgd_at").id


def test_parts_are_in_a_runs_name_unless_they_are_the_whole():
    usual = id_of(plan())
    assert id_of(plan(micro_batch=0)) == id_of(plan(micro_batch=32)) == usual  # batches have 32
    assert len({usual, id_of(plan(micro_batch=16)), id_of(plan(micro_batch=8))}) == 3


def test_what_a_part_cannot_train_is_refused_in_one_line():
    for row in WHOLE:
        with pytest.raises(UserError, match=f"micro_batch: 8 would train another {row}") as raised:
            tiny.runs(plan(micro_batch=8), row, 3, overrides=(("epochs", 100),))
        assert f"methods.{row} micro_batch: 0" in tiny.line(raised)
    with pytest.raises(UserError, match="recipes.unified.micro_batch: 1 is"):
        id_of(plan(micro_batch=1))


def test_a_training_in_parts_is_not_that_of_whole_batches(tmp_path, monkeypatch):
    found = {}
    for most in (0, 16):
        asked = tiny.changed(epochs=1, micro_batch=most, validate_every=0)
        placed = tiny.place(tmp_path / str(most), monkeypatch, asked)
        trainer = Trainer(placed, tiny.one_run(placed, "standard"), tiny.CPU, None)
        trainer.fit()
        found[most] = trainer.history[0]["loss"], trainer.flops
    assert found[0][0] != found[16][0]
    assert found[0][1] == found[16][1]


def test_validation_shows_a_member_no_more_images_at_once_than_training(tmp_path, monkeypatch):
    asked = tiny.changed(epochs=1, micro_batch=16)
    placed = tiny.place(tmp_path, monkeypatch, asked)
    run = tiny.one_run(placed, "pgd_at")
    trainer, seen = Trainer(placed, run, tiny.CPU, None), []

    def note(module: nn.Module, given: tuple) -> None:
        seen.append(len(given[0]))

    weights = checkpoint.copied(checkpoint.view(trainer.training.members))
    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        parts = trainer._validated(weights)
        judged = Judge(run.spec, run, tiny.CPU)(trainer.training.members)
    finally:
        hook.remove()
    assert max(seen) == 16
    trainer.recipe = replace(trainer.recipe, micro_batch=0)
    assert trainer._validated(weights) == parts  # how many at once changes nothing
    assert judged == tuple(parts.values())


def test_examples_for_batch_statistics_are_crafted_part_by_part():
    found, batch = [], batch_of(7)
    batch = replace(batch, images=batch.images.double())
    for most in (0, 3):
        training, seen = training_of("pgd_at", method_of("pgd_at"), 1, micro_batch=most), []
        without_batch_norm(training.members[0])
        training.members[0].register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(len(given[0]))
        )
        found.append(_craft(training, batch))
        assert max(seen) == (most or 7)
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)
