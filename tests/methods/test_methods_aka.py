"""AT-AKA and CAT-AKA: golden values, limits, who learns from what."""

import pytest
import torch
from nets import TINY
from rig import batch_of, changed, method_of, training_of, weights
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.draws import Draws
from pipeline.core.particles import Particles, median_width, stein
from pipeline.methods._fusion import find_closest, fuse, weigh

LOSSES = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)


def particles(**changes: object) -> Particles:
    usual = dict(eps=0.1, step_size=0.02, steps=4, kernel="median", width=0.001, gamma=1.0)
    usual |= dict(gradients="own", is_balanced=True, is_signed=True, divided="both")
    return Particles(**{**usual, **changes})  # type: ignore[arg-type]


def models(count: int = 3) -> list[nn.Module]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(TINY.build(classes=4, channels=1, size=8, mean=[0.4], std=[0.3]).eval())
    return found


def test_particles_without_a_loss_repel_by_the_golden_amount() -> None:
    points = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]
    still = torch.zeros(2, 2, 1, 1, dtype=torch.float64)
    pull, push = stein(points, still, torch.ones(1, dtype=torch.float64))
    assert float(pull.abs().max()) == 0
    assert push.flatten().tolist() == pytest.approx([-0.30327, 0.30327], abs=5e-6)


def test_a_wide_kernel_moves_all_particles_by_the_mean_gradient() -> None:
    points = torch.rand(3, 2, 5, dtype=torch.float64)
    rises = torch.randn(3, 2, 5, dtype=torch.float64).expand(3, 3, 2, 5)
    pull, push = stein(points, rises, torch.full((2,), 1e9, dtype=torch.float64))
    for one in pull:
        assert torch.allclose(one, rises[0].mean(0), atol=1e-8)
    assert float(push.abs().max()) < 1e-8


def test_a_narrow_kernel_moves_each_particle_by_a_share_of_its_own_gradient() -> None:
    """The printed width 0.001 is narrow: the kernel between uniform starts is exactly 0."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(3, 2, 3072, generator=generator, dtype=torch.float64) * 2 - 1) * 8 / 255
    rises = torch.randn(3, 2, 3072, dtype=torch.float64).expand(3, 3, 2, 3072)
    pull, push = stein(points, rises, torch.full((2,), 1e-6, dtype=torch.float64))
    assert torch.equal(pull, rises[0] / 3) and float(push.abs().max()) == 0
    pairs = (points[0] - points[1]).square().sum(-1)
    assert pairs.tolist() == pytest.approx([2.02, 2.02], rel=0.05)


def test_one_particle_is_pgd_for_any_kernel() -> None:
    batch, one = batch_of(), models(1)
    climbed = [
        particles(kernel=kernel, width=width).climb(one, batch.images, batch.labels, batch.draws)
        for kernel, width in (("none", 1.0), ("median", 1.0), ("fixed", 0.001), ("fixed", 9.0))
    ]
    for other in climbed[1:]:
        assert torch.equal(climbed[0], other)
    before, after = (
        F.cross_entropy(one[0](x), batch.labels) for x in (batch.images, climbed[0][0])
    )
    assert after > before


@pytest.mark.parametrize("kernel", ["none", "median", "fixed"])
@pytest.mark.parametrize("gradients", ["own", "every"])
@pytest.mark.parametrize("signed", [True, False])
def test_particles_stay_in_ball_and_box_and_do_not_depend_on_the_batch(
    kernel: str, gradients: str, signed: bool
) -> None:
    batch, three = batch_of(), models()
    found = particles(kernel=kernel, width=0.5, gradients=gradients, is_signed=signed)
    points = found.climb(three, batch.images, batch.labels, batch.draws)
    assert points.shape == (3, 6, 1, 8, 8) and not points.requires_grad
    assert float((points - batch.images).abs().max()) <= 0.1 + 1e-6
    assert float(points.min()) >= 0 and float(points.max()) <= 1
    half = torch.arange(3)
    draws = Draws(0, half)
    alone = found.climb(three, batch.images[half], batch.labels[half], draws)
    assert torch.allclose(alone, points[:, half], atol=1e-5)


def test_repulsion_spreads_the_particles_of_equal_models() -> None:
    """The ordering of the paper's Table 1; its distances are impossible inside the ball."""
    batch, equal = batch_of(32), models(1) * 4

    def spread(kernel: str, gamma: float) -> float:
        found = particles(kernel=kernel, gamma=gamma, steps=20)
        points = found.climb(equal, batch.images, batch.labels, batch.draws).flatten(2)
        return float(torch.stack([(points - x).square().sum(-1) for x in points]).mean())

    assert spread("median", 1.0) > 1.2 * spread("none", 1.0)
    assert spread("median", 4.0) > spread("median", 1.0) > spread("median", 0.0)


def test_median_width_is_that_of_the_pairs() -> None:
    points = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)[:, None, None]
    assert float(median_width(points)) == pytest.approx(4 / (2 * torch.log(torch.tensor(4.0))))
    assert float(median_width(points[:1])) == 1
    assert float(median_width(points[:1].expand(3, 1, 1))) > 0


def test_each_models_gradient_is_taken_where_the_pairing_says() -> None:
    batch, three = batch_of(), models()
    images = 0.4 + 0.2 * batch.images  # far from the box
    free = dict(kernel="fixed", width=1e6, steps=1, is_signed=False, is_balanced=False)
    free |= dict(step_size=1e-3)
    moves = {}
    for gradients in ("own", "every"):
        found = particles(gradients=gradients, **free)
        start = particles(gradients=gradients, **{**free, "step_size": 0.0})
        points, first = (p.climb(three, images, batch.labels, batch.draws) for p in (found, start))
        moves[gradients] = (points - first)[:, :, 0, 2:6, 2:6]
    assert float(moves["own"].abs().max()) > 1e-5
    assert torch.allclose(moves["own"][0], moves["own"][1], atol=1e-6)
    assert not torch.allclose(moves["every"][0], moves["every"][1], atol=1e-6)


def test_amalgamation_weights_have_their_golden_values() -> None:
    linear = weigh("linear", LOSSES, 1.0).flatten().tolist()
    assert linear == pytest.approx([0.125, 0.25, 0.625])
    soft = weigh("soft", LOSSES, 1.0).flatten().tolist()
    assert soft == pytest.approx([0.0171, 0.0466, 0.9362], abs=5e-5)
    assert weigh("naive", LOSSES, 1.0).flatten().tolist() == [0, 0, 1]
    assert torch.allclose(weigh("soft", LOSSES, 0.0), torch.full((3, 1), 1 / 3).double())
    sharp = weigh("soft", LOSSES, 1e4)
    assert torch.equal(sharp, weigh("naive", LOSSES, 1.0))
    nothing = weigh("linear", torch.zeros(3, 1), 1.0)
    assert torch.allclose(nothing, torch.full((3, 1), 1 / 3))


def simplex(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(2).softmax(-1)


def test_a_corner_and_an_inner_point_are_found_exactly() -> None:
    corners = simplex(3, 7, 5, seed=0)
    for k in range(3):
        found = find_closest(corners[k], corners)
        assert torch.allclose(found, F.one_hot(torch.tensor(k), 3).double()[:, None].expand(3, 7))
    inside = simplex(7, 3, seed=1).T
    point = fuse(inside, corners)
    residual = fuse(find_closest(point, corners), corners) - point
    assert float(residual.abs().max()) < 1e-9


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_other_point_of_the_hull_is_closer(count: int) -> None:
    corners, point = simplex(count, 40, 6, seed=2), simplex(40, 6, seed=3)
    found = find_closest(point, corners)
    assert torch.allclose(found.sum(0), torch.ones(40).double()) and float(found.min()) >= 0
    best = (fuse(found, corners) - point).square().sum(1)
    for seed in range(300):
        other = simplex(40, count, seed=seed).T
        assert bool(((fuse(other, corners) - point).square().sum(1) >= best - 1e-12).all())


def test_equal_teachers_leave_any_weights_but_a_valid_point() -> None:
    corners = simplex(1, 4, 5, seed=4).expand(3, 4, 5)
    found = find_closest(simplex(4, 5, seed=5), corners)
    assert torch.allclose(fuse(found, corners), corners[0])


def test_students_without_alpha_learn_clean_images_plainly() -> None:
    method, batch = method_of("at_aka", alpha=0.0, steps=1), batch_of()
    training, twin = training_of(method, members=1), training_of(method, members=1)
    method.step(training, batch)
    logits = twin.members[0](batch.images)
    twin.update(0, F.cross_entropy(logits, batch.labels, reduction="none"))
    for one, other in zip(weights(training.members), weights(twin.members), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rule", ["naive", "linear", "soft", "pareto"])
def test_no_teacher_and_no_weight_learns_from_the_students_loss(rule: str) -> None:
    method = method_of("at_aka", amalgamation=rule, alpha=0.7)
    taught = torch.randn(3, 5, 4, requires_grad=True)
    student = torch.randn(5, 4, requires_grad=True)
    losses = method.mixed(student, taught, torch.tensor([0, 1, 2, 3, 0]))
    assert losses.shape == (5,)
    gradients = torch.autograd.grad(losses.sum(), [student, taught], allow_unused=True)
    assert gradients[1] is None and float(gradients[0].abs().max()) > 0


@pytest.mark.parametrize("rule", ["naive", "linear", "soft"])
def test_the_students_loss_has_the_gradient_of_finite_differences(rule: str) -> None:
    method = method_of("at_aka", amalgamation=rule, alpha=0.3)
    taught = torch.randn(3, 5, 4, dtype=torch.float64)
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda z: method.mixed(z, taught, labels), student)


def test_pareto_orders_of_kl_differ_and_vanish_on_a_teachers_answer() -> None:
    taught = torch.randn(3, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    values = []
    for order in ("teacher_student", "student_teacher"):
        method = method_of("at_aka", amalgamation="pareto", kl_order=order)
        assert float(method.distance(taught[1], taught, labels).abs().max()) < 1e-5
        values.append(method.distance(torch.randn(5, 4), taught, labels))
    assert not torch.allclose(*values)


def test_a_batch_moves_student_and_teachers_and_only_the_student_answers() -> None:
    method = method_of("at_aka", steps=2, teachers=2)
    training = training_of(method, members=1)
    assert len(training.assistants) == 2 and len(training.optimisers) == 3
    before = weights(training.networks)
    assert method.step(training, batch_of()).isfinite()
    assert all(changed(before, weights(training.networks)))
    assert len(training.ensemble.members) == 1


def test_what_the_student_sees_is_its_field() -> None:
    seen = {}
    for given in ("clean", "own", "mean_particle"):
        method = method_of("at_aka", student_input=given, steps=2)
        training, batch = training_of(method, members=1), batch_of()
        particles_KBCHW = method.craft(training, training.assistants, batch)
        seen[given] = method._input(training, training.members[0], batch, particles_KBCHW)
    assert torch.equal(seen["clean"], batch_of().images)
    assert not torch.equal(seen["own"], seen["mean_particle"])
    assert float((seen["own"] - seen["clean"]).abs().max()) > 0


def test_crafting_leaves_modes_and_statistics_as_they_were() -> None:
    method = method_of("cat_aka", steps=2)
    training = training_of(method, 2)
    before = [b.clone() for m in training.members for b in m.buffers()]
    method.craft(training, training.members, batch_of())
    after = [b for m in training.members for b in m.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(m.training for m in training.members)
    assert all(p.grad is None for m in training.members for p in m.parameters())


def test_one_peer_is_its_own_target() -> None:
    """z is its own logits, so the distance is 0 and CE counts 1 - alpha."""
    method, batch = method_of("cat_aka", steps=1, alpha=0.4), batch_of()
    training, twin = training_of(method, members=1), training_of(method, members=1)
    images = method.craft(twin, twin.members, batch)[0]
    loss = method.step(training, batch)
    plain = F.cross_entropy(twin.members[0](images), batch.labels)
    assert float(loss) == pytest.approx(0.6 * float(plain.detach()), rel=1e-5)


def test_peers_are_alike_to_the_loss_in_any_order() -> None:
    method, batch = method_of("cat_aka"), batch_of(5, double=True)
    taught = torch.randn(3, 5, 4, dtype=torch.float64)
    total = sum(method.mixed(z, taught, batch.labels).sum() for z in taught)
    turned = taught[[2, 0, 1]]
    again = sum(method.mixed(z, turned, batch.labels).sum() for z in turned)
    assert torch.allclose(torch.as_tensor(total), torch.as_tensor(again))


def test_as_printed_only_the_repulsion_is_divided_by_the_number_of_particles() -> None:
    """Eq. 2 has 1/n in front of the second sum: one raw step is n times the pull plus the push."""
    batch, three = batch_of(double=True), [m.double() for m in models()]
    images = 0.4 + 0.2 * batch.images
    free = dict(kernel="fixed", width=1e6, steps=1, is_signed=False, is_balanced=False)
    free |= dict(step_size=1e-3, gamma=0.0)
    start = particles(**{**free, "step_size": 0.0}).climb(three, images, batch.labels, batch.draws)
    moves = [
        particles(**free, divided=d).climb(three, images, batch.labels, batch.draws) - start
        for d in ("both", "repulsion")
    ]
    inside = [m[..., 2:6, 2:6] for m in moves]
    assert torch.allclose(3 * inside[0], inside[1], rtol=1e-6, atol=1e-12)
    assert float(inside[0].abs().max()) > 1e-6
