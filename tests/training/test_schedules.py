"""What a moment of training uses: rate and momentum, augmented batches."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

from pipeline.contracts.recipe import Recipe
from pipeline.core.draws import Draws
from pipeline.errors import UserError
from pipeline.loading.augment import augment, crop_flip
from pipeline.loading.images import Split, batches
from pipeline.plan import Dataset
from pipeline.plan.params.entries import Entries
from pipeline.training.schedules import learning_rate, momentum


def recipe(**changed: Any) -> Recipe:
    return Recipe(**{**Entries(tiny.params()).recipe("unified", {})[0], **changed})


def optimiser() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


# ---- rates


@pytest.mark.parametrize("milestones", [[80, 100], [1, 2], [60], []])
def test_multi_step_is_torchs_scheduler(milestones):
    rates = [0.1 * 0.1 ** (i + 1) for i in range(len(milestones))]
    ours = recipe(schedule="multi_step", milestones=milestones, lr_values=rates, lr=0.1)
    sgd = optimiser()
    theirs = lr_scheduler.MultiStepLR(sgd, milestones, gamma=0.1)
    for epoch in range(1, 121):
        for fraction in (0.0, 0.5, 0.999):
            expected = pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)
            assert learning_rate(ours, epoch, fraction) == expected
        assert momentum(ours, epoch, 0.5) == 0.9
        sgd.step()
        theirs.step()


def test_meats_rate_has_its_stated_values_in_paper_and_code():
    epochs = (1, 40, 60, 80, 100, 120)
    for end, values in ((0.001, [0.1, 0.1, 0.055, 0.01, 0.0055, 0.001]),
                        (0.005, [0.1, 0.1, 0.055, 0.01, 0.0075, 0.005])):  # fmt: skip
        meat = recipe(
            schedule="piecewise_linear",
            milestones=[0, 40, 80, 120],
            lr_values=[0.1, 0.1, 0.01, end],
        )
        assert [learning_rate(meat, e, 0.7) for e in epochs] == pytest.approx(values)


def test_meats_recipe_in_params_is_the_papers():
    published = Entries({**tiny.params(), "scale": "paper"}).recipe("meat", {})[0]
    meat = Recipe(**published)
    found = [learning_rate(meat, e, 0.0) for e in (40, 60, 80, 100, 120)]
    assert found == pytest.approx([0.1, 0.055, 0.01, 0.0055, 0.001])


def test_knots_that_a_scale_has_merged_divide_by_nothing():
    merged = recipe(
        schedule="piecewise_linear", milestones=[0, 1, 1, 2], lr_values=[0.1, 0.1, 0.01, 0.001]
    )
    assert [learning_rate(merged, e, 0.0) for e in (1, 2, 3)] == [0.01, 0.001, 0.001]


def one_cycle(epochs: int, warm: int) -> Recipe:
    return recipe(
        schedule="one_cycle",
        epochs=epochs,
        milestones=[warm],
        lr=0.21,
        lr_values=[0.0084, 0.00000084],
        momentum=0.95,
    )


def test_one_cycle_is_torchs_scheduler_up_to_one_step():
    epochs, steps, warm = 8, 50, 2
    ours, sgd = one_cycle(epochs, warm), optimiser()
    total = epochs * steps
    theirs = lr_scheduler.OneCycleLR(sgd, 0.21, total_steps=total, pct_start=warm / epochs)
    slope = 0.21 * torch.pi / 2 / (warm * steps)  # the steepest change in one step
    for step in range(total):
        epoch, fraction = 1 + step // steps, step % steps / steps
        group = sgd.param_groups[0]
        assert abs(learning_rate(ours, epoch, fraction) - group["lr"]) <= slope
        assert abs(momentum(ours, epoch, fraction) - group["momentum"]) <= slope * 0.1 / 0.21
        sgd.step()
        if step + 1 < total:
            theirs.step()


def test_one_cycle_meets_its_corners():
    cycle = one_cycle(8, 2)
    assert learning_rate(cycle, 1, 0.0) == pytest.approx(0.0084)
    assert learning_rate(cycle, 3, 0.0) == pytest.approx(0.21)
    assert learning_rate(cycle, 8, 0.999999) == pytest.approx(0.00000084, abs=1e-8)
    assert momentum(cycle, 1, 0.0) == pytest.approx(0.95)
    assert momentum(cycle, 3, 0.0) == pytest.approx(0.85)
    assert momentum(replace(cycle, momentum=0.05), 3, 0.0) == 0  # and never below


@pytest.mark.parametrize("warm", [0, 8])
def test_one_cycle_may_warm_up_never_or_always(warm):
    rates = [learning_rate(one_cycle(8, warm), e, f) for e in range(1, 9) for f in (0.0, 0.5)]
    assert rates == sorted(rates, reverse=warm == 0)
    assert all(0 < r <= 0.21 for r in rates)


# ---- augmentation


def numbered(count: int, channels: int = 3, size: int = 8) -> Tensor:
    """uint8 images in which no pixel is 0, so that padding shows."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator).to(torch.uint8)


def shifts_of(image: Tensor, found: Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """The crops (row, column, flipped) of an image that look like what was found."""
    padded, size = nn.functional.pad(image, (padding,) * 4), image.shape[-1]
    matches = []
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + size, column : column + size]
            matches += [(row, column, False)] if torch.equal(crop, found) else []
            matches += [(row, column, True)] if torch.equal(crop.flip(2), found) else []
    return matches


def test_every_augmented_image_is_a_crop_of_the_padded_one_perhaps_flipped():
    images = numbered(60)
    found = crop_flip(images, 2, Draws(0, torch.arange(60)))
    assert found.dtype == torch.uint8 and found.shape == images.shape
    for image, other in zip(images, found, strict=True):
        assert len(shifts_of(image, other, 2)) == 1


def test_crops_and_flips_are_equally_frequent():
    count, image = 2000, numbered(1)
    found = crop_flip(image.expand(count, -1, -1, -1), 1, Draws(0, torch.arange(count)))
    seen = [shifts_of(image[0], other, 1)[0] for other in found]
    flips = sum(flipped for *_, flipped in seen)
    assert abs(flips - count / 2) < 3.3 * (count / 4) ** 0.5
    tally = torch.tensor([seen.count(s) for s in set(seen)])
    assert len(tally) == 18
    expected = count / 18
    assert ((tally - expected) ** 2 / expected).sum() < 40.8  # 99.9 % with 17 degrees of freedom


def test_no_padding_leaves_only_flips_and_none_leaves_the_images():
    images = numbered(40)
    found = crop_flip(images, 0, Draws(0, torch.arange(40)))
    whole = [torch.equal(a, b) for a, b in zip(images, found, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, found, strict=True)]
    assert all(a != b for a, b in zip(whole, mirrored, strict=True)) and 5 < sum(whole) < 35
    found = augment("dataset", "none", 4, images, Draws(0, torch.arange(40)))
    assert torch.equal(found, images.float() / 255)


# ---- batches


def split_of(count: int) -> Split:
    labels = torch.arange(count)
    return Split(numbered(count), labels, ["a"], [0.0] * 3, [1.0] * 3)


def set_with(kind: str) -> Dataset:
    return Dataset("numbers", "numbers", {"augment": kind, "padding": 2}, "0")


def by_image(size: int, epoch: int = 1, first: int = 0, seed: int = 0) -> dict[int, list[Tensor]]:
    """What every image looks like in an epoch and what its stream draws, in order of appearance."""
    found = {}
    loader = batches(split_of(50), set_with("crop_flip"), size, seed, epoch, first)
    for batch in loader:
        assert batch.images.dtype == torch.float32 and batch.images.min() >= 0
        assert batch.images.max() <= 1
        numbers = batch.draws.fork("attack").uniform(2)
        for row, label in enumerate(batch.labels.tolist()):
            found[label] = [batch.images[row], numbers[row]]
    return found


def same(a: dict[int, list[Tensor]], b: dict[int, list[Tensor]]) -> bool:
    pairs = [(x, y) for k in a for x, y in zip(a[k], b[k], strict=True)]
    return list(a) == list(b) and all(torch.equal(x, y) for x, y in pairs)


@given(st.integers(2, 60), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_draws_do_not_depend_on_the_batch_size_or_on_torchs_own_generator(size, noise):
    whole = by_image(50)
    torch.manual_seed(noise)
    found = by_image(size)
    left = 50 % size == 1  # a last batch of one image is left out
    assert len(found) == 50 - left
    assert same(found, {k: whole[k] for k in list(whole)[: len(found)]})


def test_epochs_and_seeds_differ_and_a_resumed_epoch_goes_on():
    one = by_image(16)
    assert list(one) != list(by_image(16, epoch=2)) and list(one) != list(by_image(16, seed=1))
    assert set(one) == set(range(50))
    late = by_image(16, first=2)
    assert same(late, {k: one[k] for k in list(one)[32:]})


def test_a_batch_size_of_one_is_refused():
    with pytest.raises(UserError, match="batch_size 1: batch statistics need 2"):
        next(batches(split_of(4), set_with("none"), 1, 0, 1))
