"""CCG: the paper's values, recomputed in float64, and where it equals simpler methods."""

from dataclasses import replace

import pytest
import torch
from members import LABELS, A, Z, batch_of, method_of, training_of
from torch import Tensor, nn

from pipeline.core.losses import cross_entropy, js_divergence


class Both(nn.Module):
    """Z on the first half of a batch, A on the second."""

    def __init__(self, *rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(row.clone()) for row in rows)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(list(self.rows))


def loss(member: nn.Module, **changed) -> Tensor:
    training = training_of("standard", method_of("standard"), 1)
    training.members = [member]
    images = torch.zeros(2, 1, 2, 2)
    return method_of("ccg", **changed).consistent(training, 0, LABELS, images, images)


def test_its_loss_has_the_golden_values():
    assert loss(Both(Z, A)).mean().item() == pytest.approx(0.709331, abs=6e-7)
    apart = js_divergence(Z, A, 0.5)
    assert apart.tolist() == pytest.approx([0.099843, 0.185886], abs=6e-7)
    assert loss(Both(A, Z)).tolist() == pytest.approx(loss(Both(Z, A)).tolist(), abs=1e-12)


def test_equal_answers_cost_cross_entropy_alone_and_gradient_reaches_both_views():
    assert torch.allclose(loss(Both(Z, Z)), cross_entropy(Z, LABELS), atol=1e-9)
    member = Both(Z, A)
    loss(member, weight_consistency=1.0).mean().backward()
    with_jsd = [row.grad.clone() for row in member.rows]
    plain = Both(Z, A)
    loss(plain, weight_consistency=0.0).mean().backward()
    assert all((a - b.grad).abs().max() > 0.01 for a, b in zip(with_jsd, plain.rows, strict=True))


def test_the_views_are_two_and_pass_as_one_batch():
    seen = []

    class Watch(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return self.net(images)

    method = method_of("ccg")
    training = training_of("ccg", method, 1)
    training.attack = None
    training.members = [Watch(training.members[0])]
    batch = batch_of()
    flipped = batch.images.flip(-1)
    method.step(training, replace(batch, augment=lambda draws: flipped))
    assert torch.equal(seen[0], torch.cat([batch.images, flipped]))
