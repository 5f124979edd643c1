"""One attack that fails names itself and keeps the others' work; nobody is asked of no image."""

import shutil
from fractions import Fraction
from typing import Any

import numpy as np
import projects
import pytest
import tiny
import torch
from test_evaluate import evaluation, exact, split_of

from pipeline import evaluate
from pipeline.attacks.bim import BIM
from pipeline.errors import UserError
from pipeline.loading.images import Split
from pipeline.plan import Plan, Record
from pipeline.plan.params.entries import Entries
from pipeline.store.records import read_arrays


def asked(*attacks: str, **suite: Any) -> dict[str, Any]:
    found = tiny.params(epochs=1, validate_every=0)
    found["attacks"]["pixelwise"] = {"base": "torchattacks", "class": "TIFGSM", "norm": "linf"}
    found["attacks"]["pixelwise"] |= {"eps": "8/255"}  # knows three channels; digits have one
    found["suites"]["unified"] = {"attacks": list(attacks), **suite}
    found["tables"]["table1"] |= {"columns": ["clean"], "members": [1]}
    return found


def record_of(plan: Plan) -> Record:
    tiny.trained(plan, "standard")
    return plan.table("table1").cells[0].records["unified"]


@pytest.mark.parametrize("leave", [False, True])
def test_a_failing_attack_names_itself_and_keeps_the_others_work(
    tmp_path, monkeypatch, crafted, leave
):
    order = ("fgsm", "pixelwise", "pgd10")
    plan = tiny.place(tmp_path, monkeypatch, asked(*order, stop_when_fooled=leave))
    for _ in range(2):
        with pytest.raises(UserError, match="pixelwise: .*TIFGSM knows images of 3") as raised:
            evaluate.evaluate(plan, record_of(plan), tiny.CPU)
        tiny.line(raised)
    assert crafted == ["fgsm", "pixelwise"] + ([] if leave else ["pgd10"]) + ["pixelwise"]
    crafted.clear()
    mended = Plan(asked("fgsm", "pgd10", stop_when_fooled=leave))
    record = record_of(mended)
    evaluate.evaluate(mended, record, tiny.CPU)
    assert crafted == (["pgd10"] if leave else [])
    kept = read_arrays(record.path)
    record.path.unlink()
    shutil.rmtree("work/records")
    evaluate.evaluate(mended, record, tiny.CPU)
    assert crafted[-2:] == ["fgsm", "pgd10"]
    again = read_arrays(record.path)
    assert all(np.array_equal(kept[k], again[k]) for k in kept)


def test_an_attack_that_leaves_its_ball_or_the_box_fails_before_its_record_is_written(
    tmp_path, monkeypatch
):
    """A user's own attack that did was told so at the table alone, after all had been computed."""
    plan = tiny.place(tmp_path, monkeypatch, asked("fgsm", "bim"))
    record = record_of(plan)
    for moved, text in (
        (lambda self, net, images, *_: (images + 0.3).clamp(0, 1), r"bim: an image left its ball"),
        (lambda self, net, images, *_: images - 2, "bim: an image left the range of pixels"),
    ):
        monkeypatch.setattr(BIM, "__call__", moved)
        with pytest.raises(UserError, match=text) as raised:
            evaluate.evaluate(plan, record, tiny.CPU)
        tiny.line(raised)
        assert not record.path.exists()


RETURNED = [
    (
        lambda images: images.clone().requires_grad_(),
        r"images with a gradient \(detach them\), not images",
    ),
    (lambda images: images[:, :, 1:], r"torch.float32 \(7, 1, 7, 8\), not images"),
    (lambda images: images.double(), r"torch.float64 \(7, 1, 8, 8\), not images"),
    (lambda images: (images, 3), "a tuple, not images"),
    (lambda images: None, "a NoneType, not images"),
]


def test_an_attack_that_returns_something_else_names_itself(tmp_path, monkeypatch):
    """Each was a traceback in code that the attack's author has never seen."""
    plan = tiny.place(tmp_path, monkeypatch, asked("bim", "fgsm"))
    record = record_of(plan)
    for change, text in RETURNED:
        monkeypatch.setattr(
            BIM, "__call__", lambda self, net, images, *_, change=change: change(images)
        )
        with pytest.raises(UserError, match=rf"bim: attacks/bim\.py returns {text}") as raised:
            evaluate.evaluate(plan, record, tiny.CPU)
        tiny.line(raised)


def wrong(split: Split) -> Split:
    """The split with labels that no answer is."""
    with torch.no_grad():
        answers = exact(1, "single")(split.floats()).argmax(1)
    return Split(split.images, (answers + 1) % 3, split.names, split.mean, split.std)


def test_no_entry_is_asked_about_no_image() -> None:
    """Every entry that is for one network: where each image is wrong before, none is called."""
    entries = Entries(projects.published())
    victim, split = exact(1, "single"), wrong(split_of())
    names = [n for n in entries.section("attacks") if entries.suits(n, "single")]
    assert len(names) > 50
    for name in names:
        asked = entries.named_attack(name, Fraction(1)).spec
        found = evaluation(victim, split).attack(
            name, {**asked, "surrogate": entries.surrogate(name)}
        )
        assert not found["asked"].any() and not found["right"].any() and not found["linf"].any()
