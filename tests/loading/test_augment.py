"""Augmentation policies: what they do to an image, how often, and that batches do not matter."""

import math

import pytest
import torch

from pipeline.core.draws import Draws
from pipeline.loading.augment import (
    _operate,
    augment,
    autoaugment,
    color_shape,
    crop_shift,
    cutout,
    erase,
    policy_in,
)

POLICIES = ["dataset", "autoaugment", "idbh_weak", "idbh_strong"]


def draws(count: int, key: int = 0) -> Draws:
    return Draws(key, torch.arange(count))


def images(count: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size, channels, own", [(32, 3, "crop_flip"), (8, 1, "none")])
def test_an_image_looks_the_same_in_whatever_batch(policy, size, channels, own):
    shown = images(40, size, channels)
    whole = augment(policy, own, 4, shown, draws(40))
    assert whole.shape == shown.shape and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1
    torch.manual_seed(5)  # torch's own stream decides nothing
    rows = torch.tensor([31, 2, 17])
    part = augment(policy, own, 4, shown[rows], Draws(0, rows))
    assert torch.equal(part, whole[rows])
    other = augment(policy, own, 4, shown, draws(40, key=1))
    assert torch.equal(other, whole) == (policy == "dataset" and own == "none")


def test_a_policy_holds_after_its_epoch_and_the_data_sets_own_before():
    assert [policy_in(e, "autoaugment", 60) for e in (1, 60, 61)] == [
        "dataset",
        "dataset",
        "autoaugment",
    ]
    assert policy_in(1, "idbh_weak", 0) == "idbh_weak"


def test_crop_shift_moves_a_window_of_the_expected_area():
    count = 4000
    positions = torch.arange(1, 1025).view(1, 1, 32, 32).expand(count, 1, 32, 32)
    moved = crop_shift(positions, draws(count))[:, 0]
    area = (moved > 0).sum((1, 2)).double()
    assert area.min() >= 704 and area.max() == 1024
    assert area.mean().item() == pytest.approx(869, abs=6)
    whole = (moved == positions[:, 0]).all(-1).all(-1).double().mean().item()
    assert whole == pytest.approx(1 / 11, abs=4 * math.sqrt(0.09 / count))
    rows = (moved - 1) // 32 - torch.arange(32)[:, None]
    for shift, kept in zip(rows, moved > 0, strict=True):
        assert len(set(shift[kept].tolist())) == 1  # one window, whole rows apart


def test_a_small_image_keeps_most_of_itself():
    moved = crop_shift(torch.ones(500, 1, 8, 8), draws(500))
    assert moved.sum((1, 2, 3)).min() >= 6 * 8


def test_each_colour_operation_has_chance_one_in_eight():
    count = 4000
    found = torch.bincount(draws(count).integers(8, 1)[:, 0], minlength=8)
    assert ((found - count / 8).square() / (count / 8)).sum() < 24.3  # chi-square, 0.001
    shown = images(64)
    changed = (color_shape(shown, draws(64)) != shown).flatten(1).any(1)
    which = draws(64).integers(8, 1)[:, 0]
    assert changed[(which != 4) & (which != 5) & (which != 7)].all()  # noise has nothing to stretch


def test_cutout_hides_the_expected_area_and_at_least_a_quarter_of_it():
    hidden = (cutout(torch.ones(4000, 1, 32, 32), draws(4000)) == 0).sum((1, 2, 3)).double()
    assert hidden.min() >= 64 and hidden.max() == 256
    assert hidden.mean().item() == pytest.approx(196, abs=4)


@pytest.mark.parametrize("chance", [0, 0.5, 1])
def test_erasing_happens_with_its_chance_and_keeps_its_share(chance):
    hidden = (erase(torch.ones(4000, 1, 32, 32), draws(4000), chance) == 0).sum((1, 2, 3))
    happened = hidden > 0
    assert happened.double().mean().item() == pytest.approx(chance, abs=0.03)
    if chance:
        share = hidden[happened] / 1024
        assert share.min() > 0.01 and share.max() < 0.36


def test_autoaugment_changes_most_images():
    shown = images(60)
    changed = (autoaugment(shown, draws(60)) != shown).flatten(1).any(1)
    assert 0.6 < changed.double().mean() < 1


def test_its_operations_are_those_of_ccgs_code():
    flat = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    for name in ("Rotate", "ShearX", "TranslateY"):
        moved = _operate(name, flat, 1.0, 1.0)
        assert set(moved.unique().tolist()) <= {128, 200} or name == "ShearX"
        assert (moved == 128).any() and (moved == 200).any(), name
        assert torch.equal(_operate(name, flat, 0.0, 1.0), flat), name
    one_way = [_operate("Rotate", images(1)[0], 0.5, sign) for sign in (-1.0, 1.0)]
    assert torch.equal(*one_way)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(_operate("Solarize", ramp, 0.0, 1.0), ramp)
    assert torch.equal(_operate("Solarize", ramp, 1.0, 1.0), 255 - ramp)
    assert len(_operate("Posterize", ramp, 1.0, 1.0).unique()) == 16
    assert _operate("TranslateX", ramp, 1.0, 1.0)[0, 0, :7].tolist() == [128] * 7
    brighter, darker = (_operate("Brightness", ramp, 1.0, s).double().mean() for s in (1.0, -1.0))
    assert brighter > 1.2 * 127.5 and darker < 0.2 * 127.5
