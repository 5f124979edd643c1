"""What a method may ask of a training: views, draws of an epoch, its own attacks, bounded steps."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from members import batch_of, method_of, training_of

from pipeline.attacks.pgd import PGD
from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.errors import UserError
from pipeline.loading.augment import crop_flip


def cropped(batch: Batch) -> Batch:
    return replace(batch, augment=partial(crop_flip, batch.images, 2))


def test_views_differ_from_each_other_and_repeat_whatever_the_batch():
    batch = cropped(batch_of(8))
    assert torch.equal(batch.view(1), batch.view(1))
    assert not torch.equal(batch.view(1), batch.view(2))
    assert not torch.equal(batch.view(1), batch.augment(batch.draws.fork("augment")))
    rows = torch.tensor([5, 2])
    part = Batch(batch.images[rows], batch.labels[rows], Draws(0, rows))
    assert torch.equal(cropped(part).view(1), batch.view(1)[rows])


def test_without_augmentation_every_view_is_the_images_themselves():
    batch = batch_of(4)
    assert batch.view(1) is batch.images


def test_a_draw_of_an_epoch_is_one_for_all_its_batches():
    training = training_of("standard", method_of("standard"), 1)

    def draw(purpose: str) -> int:
        return int(training.draws(purpose).integers(1 << 30))

    assert draw("layer") == draw("layer") != draw("other")
    seen = []
    for training.epoch in range(1, 9):
        seen.append(draw("layer"))
    assert len(set(seen)) == 8
    training.seed = 1
    assert draw("layer") != seen[-1]


def test_an_attack_of_the_methods_own_crafts_in_place_of_the_recipes():
    training = training_of("pgd_at", method_of("pgd_at"), 1)
    wide = PGD(norm="linf", eps=0.5, step_size=0.25, steps=2, restarts=1, start="none", loss="ce",
               any_iterate=False)  # fmt: skip
    batch = batch_of()
    near, far = training.craft(batch), training.craft(batch, attack=wide)
    assert (near - batch.images).abs().max() <= 0.2 + 1e-6
    assert (far - batch.images).abs().max() > 0.3
    training.attack = None
    assert training.craft(batch) is batch.images
    assert torch.equal(training.craft(batch, attack=wide), far)


@pytest.mark.parametrize("clip, expected", [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_a_step_with_a_bound_is_no_longer_than_it(clip, expected):
    training = training_of("standard", method_of("standard"), 2, momentum=0.0, weight_decay=0.0)
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    training.optimisers = [torch.optim.SGD([w], lr=1.0) for w in weights]
    slope = torch.tensor([3.0, 4.0])
    training.update(1, (weights[1] @ slope)[None], clip=clip)
    assert weights[1].norm().item() == pytest.approx(expected, abs=1e-5)
    assert weights[0].norm() == 0
    training.update_members(weights[0] @ slope + weights[1] @ slope, clip=clip)
    assert weights[0].norm().item() == pytest.approx(expected, abs=1e-5)


def test_losses_of_other_shapes_are_refused():
    """Of [B, C] the mean is a C-th of what the method meant, which nobody sees."""
    training = training_of("standard", method_of("standard"), 2)
    images = batch_of(4).images
    for shape, update in (("4, 3", partial(training.update, 0)), ("4,", training.update_members)):
        losses = training.members[0](images).reshape(4, -1)[:, :3]
        with pytest.raises(UserError, match=rf"loss\w* (is|are) \({shape}\), not one"):
            update(losses if "3" in shape else losses.sum(1))
    losses = training.members[0](images).sum(1)
    assert training.update(0, losses) == losses.detach().mean()
    training.update(0, training.members[0](images).mean())
