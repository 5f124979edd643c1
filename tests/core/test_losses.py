"""Golden values, worked out by hand in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import losses
from pipeline.errors import UserError

CLEAN = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]], dtype=torch.float64)
ADVERSARIAL = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 1.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
TARGETS = torch.tensor([2, 0])

ON_LABELS = {
    "cross_entropy": losses.cross_entropy,
    "label_smoothed": lambda z, y: losses.label_smoothed_cross_entropy(z, y, 0.2),
    "boosted": losses.boosted_cross_entropy,
    "margin": losses.margin,
    "probability_margin": losses.probability_margin,
    "dlr": losses.dlr,
    "gap": lambda z, y: losses.gap(z, y, (y + 1) % z.shape[1]),
    "dlr_targeted": lambda z, y: losses.dlr_targeted(z, y, (y + 1) % z.shape[1]),
    "kl": lambda z, y: losses.kl(z, z.roll(1, 1)),
    "js": lambda z, y: losses.js_divergence(z, z.roll(1, 1), 0.5),
}
seeds = st.integers(0, 2**31)


def drawn(seed: int, batch: int = 6, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(classes, (batch,), generator=generator)


def near(values: torch.Tensor, expected: float | list[float]) -> bool:
    return torch.allclose(values, torch.tensor(expected, dtype=values.dtype), rtol=0, atol=6e-7)


def test_cross_entropy_has_its_golden_values() -> None:
    assert near(losses.cross_entropy(CLEAN, LABELS).mean(), 0.317107)
    assert near(losses.cross_entropy(ADVERSARIAL, LABELS).mean(), 0.815825)


def test_kl_has_its_golden_values_in_both_orders() -> None:
    assert near(losses.kl(CLEAN, ADVERSARIAL), [0.255111, 0.248596])
    assert near(losses.kl(ADVERSARIAL, CLEAN), [0.323018, 0.314903])


def test_boosted_cross_entropy_has_its_golden_values() -> None:
    assert near(losses.boosted_cross_entropy(ADVERSARIAL, LABELS), [1.047133, 1.589310])
    uniform = losses.boosted_cross_entropy(torch.zeros(1, 10), torch.tensor([4]))
    assert near(uniform, [-math.log(0.1) - math.log(0.9001)])


def test_smoothed_cross_entropy_and_js_divergence_have_their_golden_values() -> None:
    smoothed = losses.label_smoothed_cross_entropy(CLEAN, LABELS, 0.2)
    assert near(smoothed.mean(), 0.567107)
    assert near(losses.js_divergence(CLEAN, ADVERSARIAL, 0.5).mean(), 0.142865)


def test_trades_and_mart_have_their_golden_values_from_these_parts() -> None:
    natural = losses.cross_entropy(CLEAN, LABELS)
    divergence = losses.kl(CLEAN, ADVERSARIAL)
    assert near((natural + 6 * divergence).mean(), 1.828229)
    weight = 1.0000001 - (-natural).exp()
    mart = losses.boosted_cross_entropy(ADVERSARIAL, LABELS) + 5 * weight * divergence
    assert near(mart.mean(), 1.648710)


def test_margin_gap_and_ratios_are_those_worked_out_by_hand() -> None:
    assert losses.margin(CLEAN, LABELS).tolist() == [-2, -1]
    assert losses.margin(ADVERSARIAL, TARGETS).tolist() == [1, pytest.approx(1.2)]
    assert losses.gap(CLEAN, LABELS, TARGETS).tolist() == [-3, -1]
    assert near(losses.dlr(CLEAN, LABELS), [-2 / 3, -1 / 1.5])
    logits = torch.tensor([[4.0, 3.0, 1.0, 0.0, -5.0]], dtype=torch.float64)
    targeted = losses.dlr_targeted(logits, torch.tensor([0]), torch.tensor([2]))
    assert near(targeted, [(1 - 4) / (4 - (1 + 0) / 2)])


def test_the_margin_of_probabilities_is_that_worked_out_by_hand() -> None:
    found = losses.probability_margin(CLEAN, LABELS)
    first = (1 - math.exp(2)) / (math.exp(2) + 1 + math.exp(-1))
    second = (math.exp(0.5) - math.exp(1.5)) / (math.exp(0.5) + math.exp(1.5) + 1)
    assert near(found, [first, second])
    assert near(losses.probability_margin(1000 * CLEAN, LABELS), [-1, -1])  # it saturates


def test_margin_is_positive_exactly_where_the_example_is_misclassified() -> None:
    logits, labels = drawn(0, batch=500)
    assert torch.equal(losses.margin(logits, labels) > 0, logits.argmax(1) != labels)


def test_margin_of_log_probabilities_is_that_of_logits_with_its_gradient() -> None:
    """Masking by multiplication fails here: every log-probability is below the masked 0."""
    logits, labels = drawn(1)
    paths = []
    for function in (lambda z: z, lambda z: z.log_softmax(1)):
        leaf = logits.clone().requires_grad_()
        values = losses.margin(function(leaf), labels)
        paths.append((values.detach(), torch.autograd.grad(values.sum(), leaf)[0]))
    assert torch.allclose(paths[0][0], paths[1][0])
    assert torch.allclose(paths[0][1], paths[1][1], atol=1e-12)


@given(seeds, st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_no_loss_sees_a_constant_added_to_the_logits(seed: int, constant: float) -> None:
    logits, labels = drawn(seed)
    for name, loss in ON_LABELS.items():
        shifted = loss(logits + constant, labels)
        assert torch.allclose(shifted, loss(logits, labels), rtol=1e-7, atol=1e-9), name


@given(seeds, st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_ratios_do_not_see_the_scale_of_the_logits(seed: int, scale: float) -> None:
    logits, labels = drawn(seed)
    for name in ("dlr", "dlr_targeted"):
        loss = ON_LABELS[name]
        assert torch.allclose(loss(scale * logits, labels), loss(logits, labels)), name


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_divergences_are_zero_on_equal_inputs_and_never_negative(seed: int) -> None:
    logits, _ = drawn(seed)
    other = drawn(seed + 1)[0]
    for divergence in (losses.kl, lambda p, q: losses.js_divergence(p, q, 0.5)):
        assert float(divergence(logits, logits).abs().max()) < 1e-14
        assert bool((divergence(logits, other) > 0).all())
    symmetric = losses.js_divergence(logits, other, 2.0), losses.js_divergence(other, logits, 2.0)
    assert torch.allclose(*symmetric)
    assert float(symmetric[0].max()) <= math.log(2)


@pytest.mark.parametrize("name", ON_LABELS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits, labels = drawn(2)
    assert torch.autograd.gradcheck(lambda z: ON_LABELS[name](z, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", ON_LABELS)
def test_every_example_has_its_own_loss(name: str) -> None:
    logits, labels = drawn(3)
    whole = ON_LABELS[name](logits, labels)
    assert whole.shape == (6,)
    alone = [ON_LABELS[name](logits[i : i + 1], labels[i : i + 1]) for i in range(6)]
    assert torch.allclose(whole, torch.cat(alone))


@pytest.mark.parametrize("name", ON_LABELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = drawn(4)
    half = logits.to(dtype)
    values = ON_LABELS[name](half, labels)
    assert values.dtype == torch.float32
    assert torch.equal(values, ON_LABELS[name](half.float(), labels))


def test_a_confident_rival_in_bfloat16_costs_a_finite_loss() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = losses.boosted_cross_entropy(logits, torch.tensor([1]))
    assert float(loss) == pytest.approx(40 - math.log(1e-4), rel=1e-3)


@pytest.mark.parametrize("name", ON_LABELS)
def test_ties_and_huge_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[0.0, 0, 0, 0], [1e4, -1e4, 0, 0], [3e4, 3e4, 3e4, 3e4]])
    logits.requires_grad_()
    values = ON_LABELS[name](logits, torch.tensor([0, 1, 2]))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all() and gradient.isfinite().all()


def test_ratios_of_too_few_classes_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="dlr needs 3 classes or more, the model has 2"):
        losses.dlr(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(UserError, match="dlr_targeted needs 4 classes or more, the model has 3"):
        losses.dlr_targeted(CLEAN, LABELS, TARGETS)
