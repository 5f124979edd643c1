"""A victim that gives one answer to everything has no rank; a poor one has."""

import json

import numpy as np
import pytest
import tiny

from pipeline.core.losses import cross_entropy
from pipeline.flags.evidence import Evidence
from pipeline.flags.flags import FAILS, Flag
from pipeline.flags.masking import constant, outputs
from pipeline.methods.standard import Standard
from pipeline.store.records import Arrays

LABELS = np.arange(100) % 10


def of(answers: np.ndarray, members: np.ndarray | None = None, labels=LABELS) -> Evidence:
    """A victim's evidence from its answers [N] and its members' [N, members]."""
    said = answers[:, None] if members is None else members
    arrays: Arrays = {"labels": labels, "ids": np.arange(len(labels)), "clean/members": said}
    arrays |= {"clean/right": (answers == labels).astype(np.float32)}
    arrays |= {f"clean/{part}": np.zeros(len(labels)) for part in ("margin", "loss")}
    arrays["meta"] = np.array(json.dumps({"spec": {}, "weights": {}, "random": False}))
    return Evidence([(arrays, [])])


@pytest.mark.parametrize("answer", [0, 9, 11])  # 11: a class that no image has
def test_one_answer_to_every_image_fails(answer):
    (text,) = constant(of(np.full(100, answer)))
    assert text == "every member gives one answer to all of 100 images"
    assert Flag("C21", text).fails and "C21" in FAILS


def test_an_ensemble_is_known_by_whom_it_gets_right():
    mixed = np.stack([LABELS, (LABELS + 1) % 10], 1)
    (text,) = constant(of(np.full(100, 3), mixed))
    assert text == "the victim is right on all images of class 3 and on no other"


@pytest.mark.parametrize("other", [1, 50, 100])
def test_one_other_answer_is_enough(other):
    answers = np.zeros(100, int)
    answers[-other:] = LABELS[-other:]
    assert not list(constant(of(answers)))


def test_too_few_images_or_classes_say_nothing():
    assert not list(constant(of(np.zeros(70, int), labels=LABELS[:70])))
    assert list(constant(of(np.zeros(80, int), labels=LABELS[:80])))
    assert not list(constant(of(np.zeros(100, int), labels=np.zeros(100, int))))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["margin", "loss"])
def test_scores_that_are_no_numbers_fail(part, value):
    e = of(LABELS)
    assert not list(outputs(e))
    e.clean[f"clean/{part}"][7] = value
    assert list(outputs(e)) == ["the victim's scores under no attack are no finite numbers"]
    assert "C16" in FAILS


def test_a_collapsed_net_has_a_row_without_a_rank(tmp_path, monkeypatch) -> None:
    """One of ninety kept the whole table from being made."""

    def always_0(self, training, index, batch, adversarial):
        return cross_entropy(training.members[index](adversarial), 0 * batch.labels)

    monkeypatch.setattr(Standard, "loss", always_0)
    params = tiny.table_of(["standard", "pgd_at"])
    params["scales"]["demo"]["images"] = 100
    plan = tiny.place(tmp_path, monkeypatch, params)
    tiny.made(plan, ["standard", "pgd_at"])
    frame, _, _ = tiny.tabulated(plan)
    assert "C21" in frame.loc["standard", "flags"].split()
    assert frame.loc["standard", "not_trusted"] == "C21"
    assert frame.loc["pgd_at", "clean"] > 0
