"""ARD, IAD, RSLAD and their teachers' mixtures: the papers' values, recomputed in float64."""

from dataclasses import replace

import pytest
import torch
from members import (
    LABELS,
    A,
    Answers,
    Z,
    assert_same,
    batch_of,
    losses_of,
    method_of,
    train_steps,
    training_of,
)
from torch import Tensor

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine

T = torch.tensor([[3.0, -1, 0], [-0.5, 2, 0.5]], dtype=torch.float64)  # the teacher on x
T_ADV = torch.tensor([[1.5, 1, 0], [0.2, 0.8, 0.9]], dtype=torch.float64)  # and on x'
THIRD = torch.tensor([[0.0, 1, 0], [1, 1, 1]], dtype=torch.float64)
RULES = {
    "mean_logit": 0.058311,
    "mean_prob": 0.055533,
    "naive": 0.233629,
    "linear": 0.126505,
    "soft": 0.076040,
    "pareto": 0.053725,
}


def mean_loss(entry: str, epoch: int = 120, **changed) -> float:
    teacher = combine("mean_prob", [Answers(T, T_ADV)])
    method = method_of(entry, **changed)
    return losses_of(method, Answers(Z, A), epoch=epoch, teacher=teacher).mean().item()


def distilled(student: Answers, logits_KBC: Tensor, labels: Tensor = LABELS, **changed) -> float:
    clean = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    batch = Batch(clean, labels, Draws(0, torch.arange(2)))
    method = method_of("rslad", **{"scale": 1.0, "weight_clean": 1 / 6, **changed})
    return method.distil(student, batch, clean + 1, logits_KBC).mean().item()


def test_ard_has_the_golden_values():
    assert mean_loss("ard") == pytest.approx(0.222362, abs=6e-7)
    assert mean_loss("ard", over_classes=False) == pytest.approx(0.667086, abs=6e-7)
    soft = mean_loss("ard", over_classes=False, temperature=1.0)
    assert soft == pytest.approx(0.380601, abs=6e-7)
    assert mean_loss("ard", alpha=0.0) == pytest.approx(0.317107, abs=6e-7)


def test_iad_has_the_golden_values_printed_and_released():
    assert mean_loss("iad", weighting="released") == pytest.approx(0.399637, abs=6e-7)
    assert mean_loss("iad", weighting="printed") == pytest.approx(0.372169, abs=6e-7)


def test_iad_learns_from_the_teacher_alone_up_to_its_epoch_and_at_full_trust():
    plain = mean_loss("ard", over_classes=False, temperature=1.0)
    assert mean_loss("iad", epoch=60, begin=60) == pytest.approx(plain, abs=1e-12)
    assert mean_loss("iad", epoch=61, begin=60) != pytest.approx(plain, abs=1e-3)
    assert mean_loss("iad", beta=0.0) == pytest.approx(plain, abs=1e-12)


def test_iads_gradient_reaches_the_students_clean_answer_but_not_the_teacher():
    student, inner = Answers(Z, A), Answers(T, T_ADV)
    teacher = combine("single", [inner])
    losses_of(method_of("iad"), student, epoch=120, teacher=teacher).sum().backward()
    assert student.rows[0].grad.abs().max() > 0
    assert all(row.grad is None for row in inner.rows)


def test_rslad_has_the_golden_values_and_no_labels():
    teacher = T[None]
    assert distilled(Answers(Z, A), teacher) == pytest.approx(0.331612, abs=6e-7)
    assert distilled(Answers(Z, A), teacher, scale=0.1) == pytest.approx(0.033161, abs=6e-7)
    swapped = distilled(Answers(Z, A), teacher, labels=LABELS.flip(0))
    assert swapped == distilled(Answers(Z, A), teacher)
    assert distilled(Answers(T, T), teacher) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_three_teachers_have_the_golden_values_under_every_rule(rule):
    teachers = torch.stack([T, T_ADV, THIRD])
    found = distilled(Answers(Z, A), teachers, mix=rule)
    assert found == pytest.approx(RULES[rule], abs=6e-7)


@pytest.mark.parametrize("rule", RULES)
def test_equal_teachers_are_one(rule):
    one, three = T[None], torch.stack([T, T, T])
    found = distilled(Answers(Z, A), three, mix=rule)
    assert found == pytest.approx(distilled(Answers(Z, A), one), abs=1e-9)


def test_rslads_examples_leave_the_teachers_answers():
    method = method_of("rslad")
    training = training_of("rslad", method, 1)
    training.members[0].eval()
    batch = batch_of(16)
    logits_KBC = method.ask(training, batch.images)
    moved = method.climb(training.ensemble, batch, logits_KBC)
    assert (moved - batch.images).abs().max() <= method.eps + 1e-6
    far = replace(method, weight_clean=0.0)
    distances = [
        far.distil(training.members[0], batch, x, logits_KBC).mean() for x in (batch.images, moved)
    ]
    assert distances[1] > 1.1 * distances[0]


def test_ard_with_alpha_zero_is_clean_training_bit_for_bit():
    standard, ard = method_of("standard"), method_of("ard", alpha=0.0)
    clean = train_steps(standard, training_of("standard", standard, 1))
    assert_same(clean, train_steps(ard, training_of("ard", ard, 1)))


@pytest.mark.parametrize("rule, clean", [("mean_logit", 0), ("soft", 0), ("pareto", 1)])
def test_rslad_asks_for_the_students_clean_answer_where_the_mixture_follows_it(rule, clean):
    method = method_of("rslad", mix=rule, steps=2)
    training, batch, asked = training_of("rslad", method, 1), batch_of(), []
    logits_KBC = method.ask(training, batch.images)
    training.ensemble.register_forward_hook(lambda *_: asked.append(1))
    method.climb(training.ensemble, batch, logits_KBC)
    assert len(asked) == 2 + clean
