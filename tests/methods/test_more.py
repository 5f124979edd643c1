"""MoRE: golden values of the mixture, its limits, and who learns."""

import math

import pytest
import torch
from members import LABELS, A, Given, Z, assert_same, batch_of, method_of, states, training_of
from torch import Tensor, nn

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.ensemble import Gated, combine
from pipeline.core.folding import folded
from pipeline.core.losses import cross_entropy


class Keeper(Given):
    """A member with given logits and a given gate."""

    def __init__(self, logits: Tensor, gate: Tensor) -> None:
        super().__init__(logits.clone())
        self.gate = nn.Parameter(gate.to(torch.float64))

    def weigh(self, images: Tensor) -> Tensor:
        return self.gate


GATE = torch.tensor([[0, math.log(2)], [math.log(3), 0]])


def test_the_mixture_and_its_loss_have_their_golden_values():
    images = torch.zeros(2, 1, 2, 2)
    members = [Keeper(Z, GATE), Given(A.clone())]
    mixture = combine("gated", members)
    expected = [[4 / 3, 1 / 3, -1 / 3], [0.375, 1.375, 0.3]]
    assert torch.allclose(mixture(images), torch.tensor(expected, dtype=torch.float64))
    losses = cross_entropy(mixture(images), LABELS)
    assert losses.tolist() == pytest.approx([0.442604, 0.536012], abs=5e-7)

    method = method_of("more")
    training = training_of("more", method, 2)
    training.members, training.ensemble, training.attack = members, mixture, None
    training.optimisers = method.setup(training)
    batch = Batch(images, LABELS, Draws(0, torch.arange(2)))
    loss = float(method.step(training, batch))
    assert loss == pytest.approx(0.442604 + 0.536012, abs=1e-6)  # clean and crafted are the same


def test_the_gate_and_every_expert_learn():
    method = method_of("more")
    training = training_of("more", method, 3)
    assert isinstance(training.ensemble, Gated)
    method.step(training, batch_of())
    for member in training.members:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in member.parameters())
    gate = training.members[0].gate
    assert gate.head.out_features == 3
    assert float(gate.stem[0].weight.grad.abs().max()) > 0


def test_a_gate_that_chooses_one_expert_is_that_expert_and_an_even_one_the_mean_logit():
    method = method_of("more")
    training = training_of("more", method, 3)
    mixture, images = training.ensemble.eval(), batch_of().images
    head = training.members[0].gate.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        even = combine("mean_logit", training.members)(images)
        assert torch.allclose(mixture(images), even, atol=1e-6)
        head.bias.copy_(torch.tensor([0.0, 200.0, 0.0]))
        assert torch.equal(mixture(images), training.members[1](images))


def test_the_folded_mixture_that_attacks_climb_is_the_same_function():
    method = method_of("more")
    training = training_of("more", method, 2)
    method.step(training, batch_of())
    mixture, images = training.ensemble.eval(), batch_of().images
    faster = folded(mixture)
    assert faster is not mixture
    assert torch.allclose(faster(images), mixture(images), atol=1e-5)


def test_examples_are_crafted_on_the_whole_mixture():
    method = method_of("more")
    training = training_of("more", method, 2)
    seen = []

    def watch(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        torch.testing.assert_close(model(images), training.ensemble(images))  # folded, the same
        seen.append(model)
        return images

    training.attack = watch
    method.step(training, batch_of())
    assert len(seen) == 1


def test_one_expert_without_a_clean_term_is_adversarial_training():
    more, plain = method_of("more", weight_clean=0), method_of("pgd_at")
    alone, twin = training_of("pgd_at", more, 1), training_of("pgd_at", plain, 1)
    alone.ensemble = combine("single", alone.members)
    more.step(alone, batch_of())
    plain.step(twin, batch_of())
    assert_same(states(alone), states(twin))
