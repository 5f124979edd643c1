"""Numbers that cannot be meant are refused in the plan, each by its name."""

from typing import Any

import pytest
import tiny

from pipeline.errors import UserError
from pipeline.plan import Plan


def changed(section: str, entry: str, **keys: Any) -> dict[str, Any]:
    found = tiny.params(epochs=1)
    found[section][entry] |= keys
    return found


RECIPES = [
    ({"lr": -0.1}, "lr: -0.1 is not between 0 and 10"),
    ({"lr": 100}, "lr: 100 is not between 0 and 10"),
    ({"lr": 0}, "lr: 0 is none"),
    ({"lr_values": [-0.01, 0.001]}, "lr_values: -0.01 is not between"),
    ({"momentum": 9}, "momentum: 9 is not between 0 and 1"),
    ({"momentum": -0.9}, "momentum: -0.9 is not between"),
    ({"nesterov": True, "momentum": 0}, "nesterov: needs momentum above 0"),
    ({"weight_decay": -0.0005}, "weight_decay: -0.0005 is not between 0 and 1"),
    ({"ema_decay": 1.5}, "ema_decay: 1.5 is not between"),
    ({"batch_size": 1}, "batch_size: 1 is too few; write 2 or more"),
]


@pytest.mark.parametrize("keys, text", RECIPES, ids=lambda value: "")
def test_a_recipes_numbers_have_ranges(keys, text):
    with pytest.raises(UserError, match=f"params.yaml: recipes.unified.*{text}") as raised:
        Plan(changed("recipes", "unified", **keys))
    tiny.line(raised)


ATTACKS = [
    ({"eps": 8}, r"eps: 8 is more than 1, in a box .* did you mean 8/255\?"),
    ({"step_size": 2}, r"step_size: 2 is more than 1, .* did you mean 2/255\?"),
    ({"norm": "l2", "eps": 800}, "eps: 800 is more than 200"),
]


@pytest.mark.parametrize("keys, text", ATTACKS, ids=lambda value: "")
def test_a_radius_longer_than_the_box_is_refused(keys, text):
    with pytest.raises(UserError, match=f"params.yaml: attacks.pgd10.{text}") as raised:
        Plan(changed("attacks", "pgd10", **keys))
    tiny.line(raised)


NOTHING = [
    ("margin_pgd100", {"restarts": 0}, "restarts: 0 tries"),
    ("apgd_ce", {"restarts": 0}, "restarts: 0 tries"),
    ("apgd_ce", {"eot": 0}, "eot: 0 tries"),
    ("noise", {"tries": 0}, "tries: 0 tries"),
    ("deepfool", {"rivals": 0}, "rivals: 0 tries"),
    ("svgd", {"particles": 0}, "particles: 0 tries"),
    ("blur", {"widths": []}, r"widths: \[\] tries"),
]


@pytest.mark.parametrize("entry, keys, text", NOTHING, ids=lambda value: "")
def test_an_attack_that_would_try_nothing_is_refused(entry, keys, text):
    """It would return the images as they are, and every net would look robust."""
    with pytest.raises(
        UserError, match=rf"params.yaml: attacks.\w*{entry}.{text} nothing"
    ) as raised:
        Plan(changed("attacks", entry, **keys))
    tiny.line(raised)


def test_a_librarys_radius_is_too():
    found = tiny.params(epochs=1)
    found["attacks"]["theirs"] = {"base": "torchattacks", "class": "PGD", "norm": "linf", "eps": 8}
    found["suites"]["unified"]["attacks"] += ["theirs"]
    with pytest.raises(UserError, match=r"attacks.theirs.eps: 8 .* did you mean 8/255\?"):
        Plan(found)


def test_the_whole_box_and_a_long_way_in_l2_are_allowed():
    Plan(changed("attacks", "pgd10", eps=1))
    Plan(changed("attacks", "pgd10", norm="l2", eps=12, step_size=2))


def test_more_images_than_the_test_split_has_are_refused():
    found = tiny.params(epochs=1)
    found["scales"]["demo"]["images"] = 5000
    found["tables"]["table1"]["images"] = 5000
    with pytest.raises(UserError, match="images: 5000 asked for, digits has 720 to test"):
        Plan(found)


def test_validation_needs_images_that_are_held_out():
    found = changed("datasets", "digits", validation=0)
    with pytest.raises(UserError, match="datasets.digits.validation: is 0, but recipes validate"):
        Plan(found)
    found["scales"]["demo"]["recipe"]["validate_every"] = 0
    Plan(found)


def test_dlr_needs_three_classes():
    found = changed("datasets", "digits", classes=2)
    found["suites"]["unified"]["attacks"] += ["mean_logit_apgd_dlr"]
    found["suites"]["unified"]["stop_when_fooled"] = True
    found["tables"]["table1"]["columns"] = ["clean", "unified_worst"]
    (cell, *_) = Plan(found).tables["table1"].cells
    met = [name for name, _ in cell.records["unified"].attacks]
    assert "mean_logit_apgd_dlr" not in met and met  # the others mean something
    found["datasets"]["digits"]["classes"] = 1
    with pytest.raises(UserError, match="suites.unified: has no attack for .* and 1 classes"):
        Plan(found)


def test_a_column_that_needs_more_classes_is_refused_by_name():
    found = changed("datasets", "digits", classes=2)
    found["suites"]["unified"]["attacks"] += ["mean_logit_apgd_dlr"]
    found["tables"]["table1"]["columns"] += ["mean_logit_apgd_dlr"]
    with pytest.raises(UserError, match="columns: mean_logit_apgd_dlr does not meet the row"):
        Plan(found)
