"""The attack on a gate: ball and box, whom it leads to, and what it refuses."""

import torch
from torch import Tensor, nn

from pipeline.attacks.gate_pgd import GatePGD
from pipeline.attacks.pgd import PGD
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.evaluation.surrogates import surrogates

ATTACK = GatePGD(eps=0.2, step_size=0.05, steps=8, restarts=1, weight=1.0)


class Strong(nn.Module):
    """Always class 0; its gate hears it alone until the second pixel is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(60.0))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([5.0, 0.0]).expand(len(images), 2) + 0 * images.flatten(1)[:, :1]

    def weigh(self, images: Tensor) -> Tensor:
        tilt = self.slope * (images.flatten(1)[:, 1] - 0.5)
        return torch.stack([-tilt, tilt], 1)


class Weak(nn.Module):
    """Class 0 while the first pixel is below 0.58."""

    def forward(self, images: Tensor) -> Tensor:
        tilt = 40 * (images.flatten(1)[:, 0] - 0.58)
        return torch.stack([-tilt, tilt], 1)


def mixture() -> tuple[nn.Module, Tensor, Tensor, Draws]:
    images = torch.full((6, 1, 1, 2), 0.4)
    return (
        combine("gated", [Strong(), Weak()]),
        images,
        torch.zeros(6).long(),
        Draws(0, torch.arange(6)),
    )


def test_it_leads_the_gate_to_the_expert_that_fails():
    model, images, labels, draws = mixture()
    assert (model(images).argmax(1) == labels).all()
    found = ATTACK(*surrogates(model, "answers"), images, labels, draws)
    assert (model(found).argmax(1) != labels).all()
    assert (found - images).abs().max() <= 0.2 + 1e-6 and not found.requires_grad


def test_a_gate_that_is_certain_makes_no_image_that_is_no_number():
    """Its weight of the weak expert is 0 in float32: a logarithm without end, and no gradient."""
    model, images, labels, draws = mixture()
    model.members[0].slope.data.fill_(6000.0)
    assert (model.weights(images)[:, 1] == 0).all()
    found = ATTACK(*surrogates(model, "answers"), images, labels, draws)
    assert found.isfinite().all() and (found - images).abs().max() <= 0.2 + 1e-6


def test_a_plain_attack_on_the_mixture_finds_less():
    """The weak expert is the surer one at first, so cross-entropy leads the gate away from it."""
    model, images, labels, draws = mixture()
    plain = PGD(norm="linf", eps=0.2, step_size=0.05, steps=8, restarts=1, start="none",
                loss="ce", any_iterate=False)  # fmt: skip
    assert (model(plain(model, images, labels, draws)).argmax(1) == labels).all()


def test_a_sample_is_perturbed_the_same_in_batches_of_any_size():
    model, images, labels, draws = mixture()
    whole = ATTACK(*surrogates(model, "answers"), images, labels, draws)
    parts = [
        ATTACK(*surrogates(model, "answers"), images[r], labels[r], draws.select(r))
        for r in torch.arange(6).split(2)
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert model.members[0].slope.grad is None
