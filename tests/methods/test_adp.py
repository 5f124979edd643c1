"""ADP: golden values in float64, and what it is without its regularisers."""

from dataclasses import replace

import pytest
import torch
from members import LABELS, A, Given, Z, assert_same, batch_of, method_of, states, training_of
from torch import Tensor, nn

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError

T = torch.tensor([[3.0, -1, 0], [-0.5, 2, 0.5]], dtype=torch.float64)
T_ADVERSARIAL = torch.tensor([[1.5, 1, 0], [0.2, 0.8, 0.9]], dtype=torch.float64)


class ByPixel(nn.Module):
    """One answer to black images, another to white ones."""

    def __init__(self, clean: Tensor, adversarial: Tensor) -> None:
        super().__init__()
        self.clean, self.adversarial = (
            nn.Parameter(clean.clone()),
            nn.Parameter(adversarial.clone()),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.adversarial if images.sum() else self.clean


def loss_of(entry: str, members: list[nn.Module], adversarial: float = 0, **changed) -> float:
    """The loss of one step of members with given answers."""
    method = method_of(entry, optimiser="sgd", **changed)
    training = training_of("adp", method, 1)
    training.members, training.classes = members, 3
    training.attack = lambda model, images, labels, draws: images + adversarial
    training.optimisers = method.setup(training)
    images = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    return float(method.step(training, Batch(images, LABELS, Draws(0, torch.arange(2)))))


def test_the_loss_has_its_golden_values():
    given = lambda: [Given(Z.clone()), Given(A.clone())]  # noqa: E731
    assert loss_of("adp", given()) == pytest.approx(0.299225, abs=5e-7)
    assert loss_of("adp_red", given()) == pytest.approx(0.029923, abs=5e-7)


def test_adversarial_images_add_cross_entropies_or_the_whole_objective():
    both = lambda: [ByPixel(Z, T), ByPixel(A, T_ADVERSARIAL)]  # noqa: E731
    crossed = 0.299225 + sum(float(cross_entropy(z, LABELS).mean()) for z in (T, T_ADVERSARIAL))
    assert crossed == pytest.approx(1.255447, abs=5e-7)
    assert loss_of("adp_at", both(), 1) == pytest.approx(1.255447, abs=5e-7)
    whole = loss_of("adp", [Given(Z.clone()), Given(A.clone())]) + loss_of(
        "adp", [Given(T.clone()), Given(T_ADVERSARIAL.clone())]
    )
    assert loss_of("adp_at_objective", both(), 1) == pytest.approx(whole)


def test_without_regularisers_adp_is_standard_training_bit_for_bit():
    """A member's gradient is that of its own cross-entropy, so one common step is one each."""
    method = method_of("adp", alpha=0, beta=0, optimiser="sgd")
    ours = training_of("adp", method, 3)
    twin = training_of("adp", method, 3)
    for seed in range(3):
        batch = batch_of(seed=seed)
        method.step(ours, batch)
        for i, member in enumerate(twin.members):
            twin.update(i, cross_entropy(member(batch.images), batch.labels))
    assert_same(states(ours), states(twin))


@pytest.mark.parametrize("part", ["alpha", "beta", "scale"])
def test_each_weight_changes_the_step(part):
    found = []
    for value in (0.5, 1.0):
        method = method_of("adp", **{part: value}, optimiser="sgd")
        training = training_of("adp", method, 3)
        method.step(training, batch_of())
        found.append(states(training))
    assert any(not torch.equal(a[k], b[k]) for a, b in zip(*found, strict=True) for k in a)


def test_adam_descends_at_the_recipes_rate_and_decay():
    method = method_of("adp")
    training = training_of("adp", method, 2)
    (group,) = training.optimisers[1].param_groups
    assert isinstance(training.optimisers[1], torch.optim.Adam)
    assert (group["lr"], group["weight_decay"], group["eps"]) == (0.001, 0.0001, 1e-7)


def test_more_members_than_wrong_classes_are_refused_where_the_volume_counts():
    with pytest.raises(UserError, match="take at most 2 members, or weight 0"):
        loss_of("adp", [Given(Z.clone()), Given(A.clone()), Given(T.clone())])
    assert (
        loss_of("adp", [Given(Z.clone()), Given(A.clone()), Given(T.clone())], alpha=0, beta=0) > 0
    )


def test_entropy_alone_has_its_golden_value():
    whole = loss_of("adp", [Given(Z.clone()), Given(A.clone())], alpha=0, beta=0)
    entropy = loss_of("adp", [Given(Z.clone()), Given(A.clone())], beta=0)
    volume = loss_of("adp", [Given(Z.clone()), Given(A.clone())], alpha=0)
    assert whole - entropy == pytest.approx(2 * (0.841098 + 1.019907) / 2, abs=2e-6)
    assert whole - volume == pytest.approx(0.5 * (-3.305639 - 0.803551) / 2, abs=2e-6)
    assert replace(method_of("adp"), alpha=0).alpha == 0


def test_too_many_members_are_refused_before_the_first_step():
    with pytest.raises(UserError, match="take at most 9 members"):
        training_of("adp", method_of("adp"), 10)
    training_of("adp", method_of("adp", beta=0), 10)
