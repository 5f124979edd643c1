"""FAT: the paper's values, and where it equals simpler methods."""

from dataclasses import fields

import pytest
import torch
from members import assert_same, batch_of, method_of, train_steps, training_of
from torch import Tensor, nn

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.errors import UserError
from pipeline.methods.fat import Fat


class Border(nn.Module):
    """Class 0 above 0.45."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)[:, :1]
        return torch.cat([x - 0.45, torch.zeros_like(x)], 1)


class Still(Fat):
    """Starts at the image."""

    def first(self, batch: Batch) -> Tensor:
        return batch.images


class Beside(Fat):
    """Starts on the right side of the image."""

    def first(self, batch: Batch) -> Tensor:
        return batch.images + 0.02


@pytest.mark.parametrize("tau, expected", [(0, 0.44), (1, 0.42), (2, 0.40), (10, 0.40)])
def test_an_image_goes_tau_steps_beyond_the_border(tau, expected):
    plain = method_of("fat", eps=0.1, step_size=0.02, steps=10, noise=0.0)
    method = Still(**{f.name: getattr(plain, f.name) for f in fields(plain)})
    images = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    batch = Batch(images, torch.tensor([0]), Draws(0, torch.arange(1)))
    assert method.climb(Border(), batch, tau).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("epoch, expected", [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2)])
def test_tau_rises_after_its_epochs(epoch, expected, monkeypatch):
    seen = []
    method = method_of("fat", rises=[4, 8])
    training = training_of("fat", method, 1)
    training.epoch = epoch
    monkeypatch.setattr(
        Fat, "climb", lambda self, model, batch, tau: seen.append(tau) or batch.images
    )
    method.step(training, batch_of())
    assert seen == [expected]


def test_with_tau_of_all_steps_it_is_pgd_at_bit_for_bit():
    pgd_at = method_of("pgd_at")
    steps = training_of("pgd_at", pgd_at, 1).attack.steps
    fat = method_of("fat", steps=steps, tau=[steps], rises=[], noise=0.0)
    plain = train_steps(pgd_at, training_of("pgd_at", pgd_at, 1))
    assert_same(plain, train_steps(fat, training_of("fat", fat, 1)))


def test_noise_stays_in_the_ball_and_follows_the_image():
    method = method_of("fat", noise=0.05)
    training = training_of("fat", method, 1)
    training.members[0].eval()
    batch = batch_of(6)
    moved = method.climb(training.ensemble, batch, 10)
    assert (moved - batch.images).abs().max() <= method.eps + 1e-6
    rows = torch.tensor([4, 1])
    part = Batch(batch.images[rows], batch.labels[rows], Draws(0, rows))
    assert torch.allclose(method.climb(training.ensemble, part, 10), moved[rows], atol=1e-6)


def test_epochs_that_do_not_fit_tau_are_refused():
    with pytest.raises(UserError, match="tau needs one value more than rises"):
        method_of("fat", tau=[0, 1], rises=[1, 2])
    with pytest.raises(UserError, match="rises .90, 50.: must not fall"):
        method_of("fat", tau=[0, 1, 2], rises=[90, 50])


@pytest.mark.parametrize("objective, expected", [("ce", 0.44), ("mart", 0.44), ("trades", 0.60)])
def test_trades_examples_leave_the_clean_answer_and_others_the_label(objective, expected):
    """From 0.52 the answer to 0.5 is left upwards, to the ball's end, and the label downwards."""
    plain = method_of("fat", objective=objective, eps=0.1, step_size=0.02, steps=10, noise=0.0)
    method = Beside(**{f.name: getattr(plain, f.name) for f in fields(plain)})
    images = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    batch, border, asked = Batch(images, torch.tensor([0]), Draws(0, torch.arange(1))), Border(), []
    border.register_forward_hook(lambda *_: asked.append(1))
    assert method.climb(border, batch, 0).item() == pytest.approx(expected, abs=1e-9)
    assert len(asked) == (11 if objective == "trades" else 10)  # the clean answer once
