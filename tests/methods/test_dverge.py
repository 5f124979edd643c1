"""DVERGE: golden values, the ball around the source, whose gradients flow where."""

from dataclasses import replace

import pytest
import torch
from members import assert_same, batch_of, method_of, states, training_of
from torch import Tensor, nn

from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError

PUBLISHED = {"distance": 0.07, "step_size": 0.007}  # digits have wider balls


class Identity(nn.Module):
    """Its features are the image."""

    depths = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def features(self, images: Tensor, depth: int) -> Tensor:
        return images


def test_distilled_images_have_their_golden_value():
    """The third pixel passes its target and momentum carries it on; the fourth meets the box."""
    source, target = [0.5, 0.5, 0.5, 0.98], [0.9, 0.1, 0.52, 1.0]
    images = torch.tensor([source, target], dtype=torch.float64).view(2, 1, 1, 4)
    method = method_of("dverge", **PUBLISHED)
    training = training_of("dverge", method, 2)
    training.members = [Identity(), Identity()]
    batch = Batch(images, torch.tensor([0, 1]), Draws(0, torch.arange(2)))
    found = method.distil(training, 0, batch, 1)[0].flatten()
    assert found.tolist() == pytest.approx([0.57, 0.43, 0.514, 1.0], abs=1e-6)


class Told(nn.Module):
    """Answers by the number that an image's first pixel holds."""

    depths = 1

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = nn.Parameter(answers.clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.answers[int(images.flatten()[0])][None]


def losses_of(adversarial: bool, answers: Tensor) -> tuple[list[float], list[Told]]:
    """Every member's loss where x'_j is the image 'j', and j's adversarial image is 'j' too."""
    method = method_of("dverge_at", adversarial=adversarial)
    training = training_of("dverge_at", method, 2)
    training.members = [Told(a) for a in answers]
    training.optimisers = method.setup(training)
    losses = []
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    class Fixed(type(method)):
        def distil(self, training, index, batch, depth):
            return zero + index

    def craft(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        return zero + training.members.index(model)

    training.attack = craft
    update = training.update

    def watch(index: int, loss: Tensor, clip: float = 0) -> Tensor:
        losses.append(loss.item())
        return update(index, loss, clip)

    training.update = watch
    fixed = Fixed(**{f: getattr(method, f) for f in method.__dataclass_fields__})
    fixed.step(training, Batch(zero, torch.tensor([0]), Draws(0, torch.arange(1))))
    return losses, training.members


def test_losses_have_their_golden_values():
    answers = torch.tensor(
        [
            [[2, 0, 0], [1, 1, 0], [0, 0, 1]],
            [[0, 1, 0], [3, 0, 0], [1, 0, 0]],
            [[1, 0, 0], [0, 0, 0], [2, 1, 0]],
        ],
        dtype=torch.float64,
    )
    plain, _ = losses_of(False, answers)
    assert plain == pytest.approx([2.413440, 2.102889, 1.650057], abs=5e-7)
    hard, _ = losses_of(True, answers)
    assert hard == pytest.approx([2.652984, 2.197812, 2.057663], abs=5e-7)


def test_a_member_learns_from_all_points_but_its_own_and_sends_no_gradient_to_others():
    method = method_of("dverge")
    training, batch = training_of("dverge", method, 3), batch_of()
    seen = []
    update = training.update

    def watch(index: int, loss: Tensor, clip: float = 0) -> Tensor:
        for member in training.members:
            member.zero_grad(set_to_none=True)
        loss.mean().backward(retain_graph=True)
        seen.append([next(m.parameters()).grad is not None for m in training.members])
        return update(index, loss, clip)

    training.update = watch
    method.step(training, batch)
    assert seen == [[i == j for j in range(3)] for i in range(3)]


def test_within_no_distance_dverge_is_standard_training_times_the_others():
    method = method_of("dverge", distance=0.0)
    ours, twin = training_of("dverge", method, 2), training_of("dverge", method, 2)
    for seed in range(2):
        batch = batch_of(seed=seed)
        method.step(ours, batch)
        for i, member in enumerate(twin.members):
            twin.update(i, cross_entropy(member(batch.images), batch.labels))
    assert_same(states(ours), states(twin))


def test_distilled_images_stay_close_and_come_nearer_to_the_target():
    method = method_of("dverge", **PUBLISHED)
    training, batch = training_of("dverge", method, 2), batch_of()
    for depth in (1, 3, training.members[0].depths):
        found = method.distil(training, 0, batch, depth)
        assert (found - batch.images).abs().max() <= 0.07 + 1e-6
        assert found.min() >= 0 and found.max() <= 1
        net = training.members[0].eval()
        wanted = net.features(batch.images.roll(1, 0), depth)
        gap = [(net.features(x, depth) - wanted).square().mean() for x in (batch.images, found)]
        assert gap[1] < gap[0]
        net.train()


def test_the_layer_is_drawn_once_an_epoch_and_every_one_comes():
    method = method_of("dverge")
    training = training_of("dverge", method, 2)
    depths = training.members[0].depths
    found = []
    for epoch in range(1, 20 * depths):
        training.epoch = epoch
        found.append(method.draw_depth(training))
        assert method.draw_depth(training) == found[-1]
    assert set(found) == set(range(1, depths + 1))
    training.seed = 1
    assert method.draw_depth(training) in range(1, depths + 1)


def test_a_clipped_gradient_is_no_longer_than_asked():
    for clip, longest in ((0.0, None), (1e-3, 1e-3)):
        method = method_of("dverge", clip=clip)
        training = training_of("dverge", method, 2)
        method.step(training, batch_of())
        norms = torch.stack([p.grad.norm() for p in training.members[0].parameters()])
        assert (float(norms.norm()) <= longest * 1.001) if longest else float(norms.norm()) > 1e-3


def test_members_start_as_the_parents():
    method = method_of("dverge", start="standard")
    free = replace(method, start="none")
    parent, training = training_of("dverge", free, 2), training_of("dverge", free, 2)
    free.step(parent, batch_of())
    training.parents = {"start": combine("mean_prob", parent.members)}
    method.setup(training)
    assert_same(states(training), states(parent))


def test_a_parent_that_does_not_fit_is_refused_in_one_line():
    method = method_of("dverge", start="standard")
    free = replace(method, start="none")
    few, narrow = training_of("dverge", free, 3), training_of("dverge", free, 2)
    training = training_of("dverge", free, 2)
    for parent, text in ((few, "3 trained members cannot start 2"), (narrow, "another shape")):
        narrow.members[1].fc = torch.nn.Linear(3, 4)
        training.parents = {"start": combine("mean_prob", parent.members)}
        with pytest.raises(UserError, match=text) as raised:
            method.setup(training)
        assert "\n" not in str(raised.value)


def test_one_member_is_refused():
    with pytest.raises(UserError, match="take 2 or more"):
        training_of("dverge", method_of("dverge"), 1)
