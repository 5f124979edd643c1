"""GAL: golden values in float64, the bounds of its coherence, and its noise."""

import math

import pytest
import torch
from members import assert_same, batch_of, method_of, states, training_of
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.methods.gal import coherence

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


def loss_of(**changed) -> float:
    """The loss of the linear members on the image (.3, .7) of class 0."""
    method = method_of("gal", optimiser="sgd", noise=0, **changed)
    training = training_of("gal", method, 1)
    training.members = [Linear(rows) for rows in ROWS]
    training.optimisers = method.setup(training)
    image = torch.tensor([0.3, 0.7], dtype=torch.float64).view(1, 1, 1, 2)
    batch = Batch(image, torch.tensor([0]), Draws(0, torch.arange(1)))
    return float(method.step(training, batch))


def test_the_loss_of_linear_members_has_its_golden_values():
    assert loss_of() == pytest.approx(1.963691, abs=5e-7)
    assert loss_of(cross_entropy="sum") == pytest.approx(4.729805, abs=5e-7)
    assert loss_of() - loss_of(weight=0) == pytest.approx(0.5 * 1.161267, abs=5e-7)


def test_coherence_is_between_that_of_three_directions_and_one():
    gradients = normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64), dim=1)
    assert coherence(gradients[:, None]).item() == pytest.approx(1.620621, abs=5e-7)
    same = torch.ones(3, 1, 4, dtype=torch.float64)
    assert coherence(same).item() == pytest.approx(math.log(3 * math.e))
    assert coherence(torch.eye(3, dtype=torch.float64)[:, None]).item() == pytest.approx(
        math.log(3)
    )
    turns = torch.tensor([0.0, 1, 2], dtype=torch.float64) * 2 * math.pi / 3
    star = torch.stack([turns.cos(), turns.sin()], 1)
    assert coherence(star[:, None]).item() == pytest.approx(math.log(3) - 0.5)
    assert coherence(same[:1]).tolist() == [0]


def test_vanished_gradients_have_a_finite_coherence_and_derivative():
    gradients = torch.zeros(2, 3, 4, requires_grad=True)
    value = coherence(gradients)
    (found,) = torch.autograd.grad(value.sum(), gradients)
    assert value.isfinite().all() and found.isfinite().all()


def test_without_coherence_gal_is_standard_training_of_the_mean():
    method = method_of("gal", weight=0, noise=0, optimiser="sgd")
    ours, twin = training_of("gal", method, 2), training_of("gal", method, 2)
    batch = batch_of()
    method.step(ours, batch)
    for i, member in enumerate(twin.members):
        twin.update(i, cross_entropy(member(batch.images), batch.labels) / 2)
    for one, other in zip(states(ours), states(twin), strict=True):
        assert all(torch.allclose(one[k], other[k], atol=1e-7) for k in one)


def test_the_coherence_reaches_every_members_weights():
    found = []
    for weight in (0, 0.5):
        method = method_of("gal", weight=weight)
        training = training_of("gal", method, 2)
        method.step(training, batch_of())
        found.append(states(training))
    for one, other in zip(*found, strict=True):
        assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])


def noisy(images: Tensor, **changed) -> Tensor:
    """What the members see of images."""
    seen = []

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return self.scale * x.flatten(1)[:, :10]

    method = method_of("gal", optimiser="sgd", **changed)
    training = training_of("gal", method, 1)
    training.members = [Watch()]
    training.optimisers = method.setup(training)
    labels = torch.zeros(len(images), dtype=torch.int64)
    method.step(training, Batch(images, labels, Draws(0, torch.arange(len(images)))))
    return seen[0]


def test_noise_has_its_deviation_on_half_of_the_images_and_is_not_clipped():
    images = torch.ones(2000, 1, 8, 8)
    moved = noisy(images) - images
    touched = (moved != 0).flatten(1).any(1)
    assert float(touched.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(moved[touched].std()) == pytest.approx(0.045, rel=0.02)
    assert float(moved.max()) > 0
    assert torch.equal(noisy(images[:9]), noisy(images)[:9])
    assert torch.equal(noisy(images, noise=0), images)
    assert ((noisy(images[:20], noisy_share=1) != images[:20]).flatten(1).any(1)).all()


def test_a_resumed_step_draws_the_same_noise():
    method = method_of("gal")
    one, other = training_of("gal", method, 2), training_of("gal", method, 2)
    for training in (one, other):
        method.step(training, batch_of())
    assert_same(states(one), states(other))
