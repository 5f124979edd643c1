"""TRS: golden values of linear members, the smoothing attack, and what it is without its terms."""

import pytest
import torch
from members import assert_same, batch_of, method_of, states, training_of
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.methods.trs import Trs

# three linear members of an image of two pixels
ROWS = (
    [[1.0, -1], [0, 2], [0.5, 0.5]],
    [[0.0, 1], [1, 0], [-1, 1]],
    [[2.0, 0], [1, 1], [0, -1]],
)


class Linear(nn.Module):
    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.rows.T


def loss_of(**changed: float) -> float:
    """The loss of the linear members on the image (.3, .7) of class 0, x_mix being the image."""
    method = method_of("trs", **{"eps_start": 0.0, "eps_end": 0.0, **changed})
    training = training_of("trs", method, 1)
    training.members = [Linear(rows) for rows in ROWS]
    training.optimisers = method.setup(training)
    image = torch.tensor([0.3, 0.7], dtype=torch.float64).view(1, 1, 1, 2)
    batch = Batch(image, torch.tensor([0]), Draws(0, torch.arange(1)))
    return float(method.step(training, batch))


def test_the_loss_of_linear_members_has_its_golden_values():
    plain = loss_of(coeff=0, lamda=0)
    assert plain == pytest.approx(2.252265 + 0.880099 + 1.016808, abs=2e-6)
    cosines = (0.910404 + 0.758589 + 0.421055) / 3
    squares = (11.720184 + 0.156289 + 1.474963) / 3
    assert loss_of(coeff=1, lamda=0) - plain == pytest.approx(cosines, abs=2e-6)
    assert loss_of(coeff=0, lamda=1) - plain == pytest.approx(squares, abs=2e-6)
    assert loss_of(coeff=20, lamda=2.5) == pytest.approx(29.209019, abs=2e-5)
    assert loss_of(coeff=10, lamda=10) == pytest.approx(55.620784, abs=2e-5)


def test_the_gradient_of_the_batch_mean_is_smaller_by_the_batch_size():
    found = []
    for kind in ("image", "batch_mean"):
        method = method_of("trs", gradient=kind)
        training, batch = training_of("trs", method, 2), batch_of()
        found.append(method._gradients(training, batch.images, batch.labels)[1])
    assert torch.allclose(found[0], 8 * found[1])


def test_without_both_terms_trs_is_standard_training_bit_for_bit():
    method = method_of("trs", coeff=0, lamda=0)
    ours, twin = training_of("trs", method, 2), training_of("trs", method, 2)
    for seed in range(2):
        batch = batch_of(seed=seed)
        method.step(ours, batch)
        for i, member in enumerate(twin.members):
            twin.update(i, cross_entropy(member(batch.images), batch.labels))
    assert_same(states(ours), states(twin))


def test_the_radius_grows_over_the_epochs():
    method = method_of("trs", eps_start=0.01, eps_end=0.03)
    training = training_of("trs", method, 1)
    epochs = training.recipe.epochs
    training.epoch = 1
    assert method.eps(training) == pytest.approx(0.01)
    training.epoch = epochs
    assert method.eps(training) == pytest.approx(0.03 - 0.02 / epochs)


def test_steepened_images_stay_close_and_leave_the_members_as_they_were():
    method = method_of("trs", eps_start=0.05, eps_end=0.05)
    training, batch = training_of("trs", method, 2), batch_of()
    before, steep = states(training), method.steepen(training, batch)
    assert not steep.requires_grad and all(m.training for m in training.members)
    assert (steep - batch.images).abs().max() <= 0.05 + 1e-6
    assert steep.min() >= 0 and steep.max() <= 1
    assert_same(states(training), before)
    assert all(p.grad is None for m in training.members for p in m.parameters())


def test_steepened_images_have_longer_gradients():
    """Of smooth members; those of untrained ReLU networks jump from kink to kink."""
    images = torch.rand(
        20, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    batch = Batch(images, torch.arange(20) % 3, Draws(0, torch.arange(20)))
    found = []
    for steps in (0, 3):
        method = method_of("trs", eps_start=0.05, eps_end=0.05, steps=steps)
        training = training_of("trs", method, 1)
        training.members = [Linear(rows) for rows in ROWS]
        gradients = method._gradients(training, method.steepen(training, batch), batch.labels)[1]
        found.append(gradients.detach().square().sum((0, 2)))
    assert float(found[1].mean()) > float(found[0].mean())


def test_a_single_binary_linear_member_is_steepened_as_pgd_climbs_cross_entropy():
    """|g| = (1 - p_y) |w| grows with the loss alone, so both have one sign."""
    method = method_of("trs", eps_start=0.1, eps_end=0.1, steps=1)
    training = training_of("trs", method, 1)
    training.members = [Linear([[1.0, -2], [0.5, 1]])]
    images = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64).view(2, 1, 1, 2)
    labels = torch.tensor([0, 1])
    batch = Batch(images, labels, Draws(0, torch.arange(2)))
    start = method_of("trs", eps_start=0.1, eps_end=0.1, steps=0).steepen(training, batch)
    found = method.steepen(training, batch)
    point = start.clone().requires_grad_()
    loss = F.cross_entropy(training.members[0](point), labels, reduction="sum")
    (uphill,) = torch.autograd.grad(loss, point)
    wanted = (start + method.stride * 0.1 * uphill.sign()).clamp(0, 1)
    assert torch.allclose(found, torch.minimum(torch.maximum(wanted, images - 0.1), images + 0.1))


CHANGES = [{"accumulate": False}, {"steps": 1}, {"stride": 0.1}]
CHANGES += [{"eps_end": 1.0}, {"coeff": 1.0}, {"lamda": 1000.0}]


@pytest.mark.parametrize("change", CHANGES)
def test_each_field_changes_the_step(change):
    found = []
    for changed in ({}, change):
        method = method_of("trs", **{"gradient": "image", "steps": 3, **changed})
        training = training_of("trs", method, 2)
        method.step(training, batch_of())
        found.append(states(training))
    assert any(not torch.equal(a[k], b[k]) for a, b in zip(*found, strict=True) for k in a)


def test_the_images_that_are_steepened_are_the_second_half_alone(monkeypatch):
    images = torch.rand(5, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.arange(5) % 3, Draws(0, torch.arange(5)))
    method = method_of("trs", eps_start=0.05, eps_end=0.05, steps=2)
    training = training_of("trs", method, 1)
    training.members = [Linear(rows) for rows in ROWS]
    whole, steepen, seen = method.steepen(training, batch), Trs.steepen, []

    def noted(self: Trs, training: Training, part: Batch) -> Tensor:
        seen.append(steepen(self, training, part))
        return seen[-1]

    monkeypatch.setattr(Trs, "steepen", noted)
    method.terms(training, batch)
    assert len(seen[0]) == 3 and torch.allclose(seen[0], whole[2:])
