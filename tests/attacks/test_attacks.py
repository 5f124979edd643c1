"""What every attack keeps to: ball, box, batches, the model as it was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from victims import (
    EPS,
    EVERY,
    NORMS,
    Exact,
    apgd,
    held_out,
    pgd,
    right,
    saturated,
    square,
    state,
    trained,
)

from pipeline.core.draws import Draws
from pipeline.core.norms import lengths
from pipeline.errors import UserError

every = pytest.mark.parametrize("name", EVERY)


def half_saturated(seed: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    ends = torch.rand(images.shape, generator=generator) < 0.5
    return torch.where(ends, images.round(), images), torch.arange(count) % 10


@every
@given(seed=st.integers(0, 999), eps=st.sampled_from([0.0, 8 / 255, 0.3, 1.0]))
@settings(max_examples=8, deadline=None)
def test_the_result_lies_in_ball_and_box_and_repeats(name: str, seed: int, eps: float) -> None:
    images, labels = half_saturated(seed)
    model, ids = Exact(seed=seed), torch.arange(4)
    first = EVERY[name](eps=eps)(model, images, labels, Draws(seed, ids))
    again = EVERY[name](eps=eps)(model, images, labels, Draws(seed, ids))
    assert torch.equal(first, again)
    assert first.shape == images.shape and first.dtype == images.dtype
    assert not first.requires_grad
    norm = NORMS.get(name, "linf")
    assert float(lengths(norm, first - images).max()) <= eps + 1e-6
    assert float(first.min()) >= 0 and float(first.max()) <= 1


@every
def test_a_sample_is_perturbed_the_same_in_batches_of_any_size_and_order(name: str) -> None:
    model = Exact()
    images, labels, draws = held_out(64)
    attack = EVERY[name]()
    whole = attack(model, images, labels, draws)
    parts = torch.cat(
        [
            attack(model, images[rows], labels[rows], Draws(1, rows))
            for rows in torch.arange(64).split(7)
        ]
    )
    assert torch.equal(whole, parts)
    order = torch.arange(63, -1, -1)
    turned = attack(model, images[order], labels[order], Draws(1, order))
    assert torch.equal(whole, turned[order])


@every
def test_the_model_and_the_generators_are_left_as_they_were(name: str) -> None:
    model = nn.Sequential(
        *[nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.0), nn.ReLU(inplace=True)],
        *[nn.Flatten(), nn.Linear(144, 10)],
    )
    model.train()
    model[1].eval()  # a frozen batch norm in a training model
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    images, labels, draws = held_out(8)
    kept, before = [images.clone(), labels.clone()], state(model)
    EVERY[name]()(model, images, labels, draws)
    assert state(model) == before
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


@every
def test_no_grad_around_the_attack_and_frozen_weights_change_nothing(name: str) -> None:
    model = Exact()
    images, labels, draws = held_out(6)
    usual = EVERY[name]()(model, images, labels, draws)
    model.requires_grad_(False)
    with torch.no_grad():
        quiet = EVERY[name]()(model, images, labels, held_out(6)[2])
    assert torch.equal(usual, quiet)


@every
def test_saturated_pixels_move_inward(name: str) -> None:
    """Pixels at 0 that should grow and at 1 that should shrink: clamping must not hold them."""
    model, images, labels = saturated(1)
    moved = EVERY[name]()(model, images, labels, Draws(0, torch.arange(6)))
    inward = (moved - images).abs()
    if name in {"square", "pgd_kl"}:  # a random search; half of a random start is clipped away
        assert float((inward > 0).float().mean()) > 0.4
    elif NORMS.get(name) == "l1" or name == "square_l2":  # sparse; a random search
        assert float(lengths(NORMS[name], inward).min()) > 0.4 * EPS
    else:
        assert float(inward.min()) > (EPS / 16 if name in NORMS else 0.99 * EPS)


@every
def test_eps_zero_returns_the_clean_images(name: str) -> None:
    images, labels, draws = held_out(12)
    assert torch.equal(EVERY[name](eps=0.0)(trained(0.0), images, labels, draws), images)


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "apgd_ce", "apgd_t", "autoattack"])
@pytest.mark.parametrize("training_eps", [0.0, EPS])
def test_the_whole_box_leaves_no_accuracy(name: str, training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(60)
    moved = EVERY[name](eps=1.0)(model, images, labels, draws)
    limit = 0.35 if name in {"fgsm", "bim", "mim"} else 0.05  # one step; no random start
    assert float(right(model, moved, labels).float().mean()) <= limit


class Killer(nn.Module):
    """No gradient reaches the images: rounded away, or cut off."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.model, self.how = trained(0.0), how

    def forward(self, images: Tensor) -> Tensor:
        flat = (images * 255).round() / 255 if self.how == "round" else images.detach()
        logits: Tensor = self.model(flat)
        return logits


@every
@pytest.mark.parametrize("how", ["round", "detach"])
def test_zero_gradients_give_no_nan(name: str, how: str) -> None:
    images, labels, draws = held_out(30)
    moved = EVERY[name]()(Killer(how), images, labels, draws)
    assert moved.isfinite().all()
    if name in {"fgsm", "bim", "mim"}:
        assert torch.equal(moved, images)


@pytest.mark.parametrize("how", ["round", "detach"])
def test_square_needs_no_gradients(how: str) -> None:
    images, labels, draws = held_out(30)
    moved = square(queries=1000)(Killer(how), images, labels, draws)
    assert int(right(Killer(how), moved, labels).sum()) < 20


def test_contradictory_settings_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="restarts 3 with start none repeats one run"):
        pgd(start="none", restarts=3)
    with pytest.raises(UserError, match="loss ce with targets 9"):
        apgd(targets=9)
    with pytest.raises(UserError, match="loss dlr_targeted with targets 0"):
        apgd(loss="dlr_targeted")
