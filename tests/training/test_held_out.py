"""Recipes that train on the validation images where nothing validates on them, or divide by a
paper's deviations."""

import pytest
import tiny
import torch
from projects import published

from pipeline.errors import UserError
from pipeline.loading import models
from pipeline.loading.images import load_split, load_training
from pipeline.plan import Plan
from pipeline.plan.params.entries import Setting
from pipeline.training.trainer import Trainer

PAPER = Plan(published() | {"scale": "paper"})


def fields_of(recipe, entry):
    setting = Setting("cifar10", "resnet20", recipe, 3, 0)
    return PAPER.entries.method(entry, setting)[1]


def asked(**recipe):
    params = tiny.changed(epochs=1, train_images=0)
    for key in ("validate_every", "train_images"):
        del params["scales"]["demo"]["recipe"][key]
    params["recipes"]["unified"] |= recipe
    return params


def run_of(params, row="standard"):
    return tiny.one_run(Plan(params), row)


@pytest.mark.parametrize("recipe, entry, deviations", [
    ("aute", "aute_released", [0.2023, 0.1994, 0.2010]),
    ("aute_deep", "aute", [0.2023, 0.1994, 0.2010]),
    ("unified", "aute_own", [0.2023, 0.1994, 0.2010]),
    ("soe", "soe_100_released", [0.2023, 0.1994, 0.2010]),
    ("unified", "soe_own", [0.2023, 0.1994, 0.2010]),
    ("red", "red", None),
    ("unified", "red_own", None),
    ("unified", "ps_red_own", None),
    ("meat", "pgd_at_meat_released", None),
])  # fmt: skip
def test_the_papers_own_recipes_train_on_all_50000_images(recipe, entry, deviations):
    fields = fields_of(recipe, entry)
    assert fields["held_out"] == "if_validated"
    assert fields["validate_every"] == 0 or fields["select"] == "best_test_as_published"
    assert fields.get("input_std") == deviations


def test_what_need_not_be_given_is_in_no_name():
    fields = fields_of("unified", "pgd_at_joint")
    assert not {"held_out", "input_std"} & set(fields)
    plain = run_of(asked(validate_every=0))
    assert run_of(asked(validate_every=0, held_out="always", input_std=[])).id == plain.id
    assert run_of(asked(validate_every=0, held_out="if_validated")).id != plain.id


def test_who_validates_leaves_the_images_out():
    plain = run_of(asked(validate_every=1))
    assert run_of(asked(validate_every=1, held_out="if_validated")).id == plain.id


def test_training_images_are_the_split_and_behind_it_what_nothing_validates_on(
    tmp_path, monkeypatch
):
    plan = tiny.place(tmp_path, monkeypatch, asked(validate_every=0, held_out="if_validated"))
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, None)
    parts = [load_split(run.dataset, name, tiny.CPU) for name in ("train", "validation")]
    assert len(trainer.split) == len(parts[0]) + len(parts[1]) == 897 + 180
    assert torch.equal(trainer.split.images, torch.cat([part.images for part in parts]))
    assert torch.equal(trainer.split.labels, torch.cat([part.labels for part in parts]))
    assert trainer.split.std == parts[0].std
    few = load_training(run.dataset, 100, "if_validated", tiny.CPU)
    assert len(few) == 100 and few.labels.bincount().tolist() == [10] * 10
    # A scale that cuts every set to thousands leaves a smaller one as it is.
    assert len(load_training(run.dataset, 5000, "always", tiny.CPU)) == 897


@pytest.mark.parametrize("given, wanted", [([0.25], [0.25]), ([0.2, 0.3, 0.4], None)])
def test_deviations_are_of_images_of_as_many_channels(tmp_path, monkeypatch, given, wanted):
    plan = tiny.place(tmp_path, monkeypatch, asked(validate_every=0, input_std=given))
    run = tiny.one_run(plan, "standard")
    split = load_split(run.dataset, "test", tiny.CPU)
    (net,) = models.build_members(run.spec, split, tiny.CPU)
    found = [b for n, b in net.named_buffers() if n.endswith("std")][0].flatten()
    assert found.tolist() == pytest.approx(wanted or split.std)


def test_a_deviation_is_above_zero():
    with pytest.raises(UserError, match="recipes.unified.input_std: 0 is none"):
        run_of(asked(input_std=[0]))


def test_a_choice_is_not_made_on_images_that_a_row_was_trained_on():
    params = asked(validate_every=0, held_out="if_validated")
    params["suites"]["unified"]["split"] = "validation"
    with pytest.raises(
        UserError, match="suites.unified.split: a row's recipe trains on the validation images"
    ):
        Plan(params)
