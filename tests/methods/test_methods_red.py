"""RED and PS-RED: golden values, limits, the hypernetwork."""

from dataclasses import replace

import pytest
import torch
from nets import MOBILE, RESNET18, TINY
from rig import batch_of, method_of, training_of, weights
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.ensemble import RandomEach, RandomOne, combine
from pipeline.core.flops import count_macs, count_parameters
from pipeline.evaluation.surrogates import surrogates
from pipeline.methods._gradients import loss_and_gradient, similarity, steepness
from pipeline.methods.ps_red import _Generated


class Linear(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.rows.T


def gradients_of(members: list[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([loss_and_gradient(m, images, labels)[1] for m in members])


def test_identical_members_have_similarity_one_and_two_as_printed() -> None:
    member = Linear(torch.randn(3, 8, dtype=torch.float64))
    images, labels = torch.rand(5, 2, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    gradients = gradients_of([member] * 3, images, labels)
    assert torch.allclose(similarity(gradients, 1e-8), torch.ones(5, dtype=torch.float64))
    method = method_of("red_printed")
    gradients = gradients.detach()
    assert float(method._similarity([gradients, gradients])) == pytest.approx(2)
    assert float(method_of("red")._similarity([gradients])) == pytest.approx(1)


def test_members_that_read_other_pixels_have_similarity_zero() -> None:
    rows = torch.randn(3, 4, dtype=torch.float64)
    nothing = torch.zeros(3, 4, dtype=torch.float64)
    members = [Linear(torch.cat(part, 1)) for part in ((rows, nothing), (nothing, rows))]
    images, labels = torch.rand(5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    assert float(similarity(gradients_of(members, images, labels), 1e-8).abs().max()) == 0


def test_vanished_gradients_have_similarity_zero_and_finite_derivatives() -> None:
    gradients = torch.zeros(2, 3, 4, requires_grad=True)
    values = similarity(gradients, 1e-8) + steepness(gradients, squared=False)
    assert float(values.detach().abs().max()) == 0
    (found,) = torch.autograd.grad(values.sum(), gradients)
    assert found.isfinite().all()


def test_gradient_and_length_are_those_of_a_linear_model_in_closed_form() -> None:
    member = Linear(torch.randn(3, 4, dtype=torch.float64))
    images, labels = torch.rand(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    losses, gradient = loss_and_gradient(member, images, labels)
    probs = member(images).softmax(1)
    expected = (probs - F.one_hot(labels, 3)) @ member.rows
    assert torch.allclose(gradient, expected)
    assert torch.allclose(losses, F.cross_entropy(member(images), labels, reduction="none"))
    released = method_of("red")
    both = [torch.stack([expected, expected])]
    assert torch.allclose(released._steepness(both), 2 * expected.square().sum(1).mean())
    printed = method_of("red_printed")
    assert torch.allclose(printed._steepness(both), expected.norm(dim=1).mean())


def test_the_gradient_of_the_batch_mean_is_smaller_by_the_batch_size() -> None:
    batch = batch_of(6)
    found = {}
    for kind in ("image", "batch_mean"):
        method = method_of("red_printed", gradient=kind)
        training = training_of(method)
        found[kind] = method._gradients(training, [batch.images] * 2, batch)[1]
    assert torch.allclose(found["image"], 6 * found["batch_mean"])


def test_double_backward_has_the_gradient_of_finite_differences() -> None:
    """R_sim + R_Lip of two networks, in one weight of the stem; float64."""
    method = method_of("red_printed")
    training, batch = training_of(method, double=True), batch_of(4, double=True)
    weight = next(training.members[0].parameters())

    def value() -> Tensor:
        both = [method._gradients(training, [batch.images] * 2, batch)[1]]
        return method._similarity(both) + method._steepness(both)

    (found,) = torch.autograd.grad(value(), weight)
    for at in ((0, 0, 1, 1), (1, 0, 2, 0)):
        values = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                weight[at] += step
            values.append(float(value().detach()))
        with torch.no_grad():
            weight[at] += 1e-6
        assert float(found[at]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("entry", ["red", "red_printed", "red_clean", "red_at", "ps_red"])
def test_a_step_reaches_every_parameter_of_every_member(entry: str) -> None:
    method = method_of(entry)
    training = training_of(method, 2)
    for member in training.members:
        next(iter(member.parameters())).grad = None
    loss = method.step(training, batch_of())
    assert loss.isfinite()
    assert all(p.grad is not None for m in training.members for p in m.parameters())
    assert all(float(next(m.parameters()).grad.abs().max()) > 0 for m in training.members)


def test_without_regularisers_red_is_standard_or_adversarial_training() -> None:
    free = dict(weight_lipschitz=0, weight_similarity=0, similarity_on="clean")
    free |= dict(lipschitz_on="clean", cross_entropy="sum")
    for adversarial in (False, True):
        method, batch = method_of("red_printed", **free, adversarial=adversarial), batch_of()
        ours, twin = training_of(method), training_of(method)
        noise = [replace(batch, draws=batch.draws.fork(i)) for i in range(2)]  # each member's own
        crafted = [
            ours.craft(own, m) if adversarial else batch.images
            for own, m in zip(noise, ours.members, strict=True)
        ]
        method.step(ours, batch)
        for i, (member, images) in enumerate(zip(twin.members, crafted, strict=True)):
            twin.update(i, F.cross_entropy(member(images), batch.labels, reduction="none"))
        for one, other in zip(weights(ours.members), weights(twin.members), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_each_switch_changes_the_step() -> None:
    """No field is read and ignored."""
    usual = method_of("red_printed")
    steps = {}
    variants = dict(usual={}, sim=dict(similarity_on="clean"), lip=dict(lipschitz_on="clean"))
    variants |= dict(halves=dict(lipschitz_on="halves"), pairs=dict(pairs="unordered"))
    variants |= dict(length=dict(length="twice_squared"), mean=dict(gradient="batch_mean"))
    variants |= dict(total=dict(cross_entropy="sum"), at=dict(adversarial=True))
    variants |= dict(least=dict(least=1e9), weak=dict(weight_lipschitz=0.1))
    variants |= dict(alike=dict(weight_similarity=0.1))
    for name, change in variants.items():
        method = method_of("red_printed", **change)
        training = training_of(method)
        method.step(training, batch_of())
        steps[name] = torch.cat([w.flatten() for w in weights(training.members)])
    assert usual.adversarial is False
    names = list(steps)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(steps[one], steps[other]), (one, other)


class Named(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 3), float(self.index))


@pytest.mark.parametrize("rule", ["random_one", "random_each"])
def test_every_member_is_drawn_equally_often_and_a_seed_repeats_the_draws(rule: str) -> None:
    victim = combine(rule, [Named(i) for i in range(4)])
    images = torch.zeros(5, 1)

    def draws() -> Tensor:
        victim.reseed(7)
        return torch.stack([victim(images)[:, 0] for _ in range(1200)])

    drawn = draws()
    assert torch.equal(drawn, draws())
    shares = torch.bincount(drawn.flatten().long(), minlength=4) / drawn.numel()
    assert float((shares - 0.25).abs().max()) < 0.05
    assert bool((drawn == drawn[:, :1]).all()) == (rule == "random_one")


def test_a_draw_for_every_image_answers_with_the_drawn_member_on_that_image() -> None:
    members = [Linear(torch.randn(3, 4)) for _ in range(3)]
    images = torch.rand(9, 4)
    victim = RandomEach(members)
    victim.reseed(3)
    drawn = torch.randint(3, (9,), generator=torch.Generator().manual_seed(3))
    expected = torch.stack(
        [members[int(m)](x[None])[0] for m, x in zip(drawn, images, strict=True)]
    )
    assert torch.allclose(victim(images), expected)


def test_a_random_victim_is_attacked_in_expectation_where_asked() -> None:
    members = [Linear(torch.randn(3, 4)) for _ in range(3)]
    images = torch.rand(2, 4)
    (averaged,) = surrogates(RandomOne(members), "averaged")
    assert torch.equal(averaged(images), combine("mean_prob", members)(images))
    steady = combine("mean_prob", members)
    assert surrogates(steady, "averaged") == [steady]


def ps_resnet18() -> _Generated:
    torch.manual_seed(0)
    net = RESNET18.build(classes=10, channels=3, size=32, mean=[0.0] * 3, std=[1.0] * 3)
    assert count_parameters(net) == 11_173_962
    return _Generated(net, embedding=128, unit=0, init="he")


def test_a_generated_resnet18_has_the_published_number_of_parameters_and_embeddings() -> None:
    member = ps_resnet18()
    assert count_parameters(member) == 1_191_050
    assert member.embeddings.shape == (340, 128)
    assert sum(p.numel() for p in member.hyper.parameters()) == 1_131_072
    shapes = {n: tuple(w.shape) for n, w in member.weights()}
    assert len(shapes) == 19 and (256, 128, 3, 3) in shapes.values()
    spread = {n: float(w.detach().std()) for n, w in member.weights() if w.shape[2] == 3}
    for name, value in spread.items():
        wanted = (2 / (9 * shapes[name][1])) ** 0.5
        assert value == pytest.approx(wanted, rel=0.35), name


def generated(init: str = "he") -> _Generated:
    torch.manual_seed(0)
    net = TINY.build(classes=4, channels=1, size=8, mean=[0.0], std=[1.0])
    return _Generated(net, embedding=5, unit=2, init=init)


def test_kernels_are_joined_along_inputs_then_outputs_and_shortcuts_are_means() -> None:
    member = generated()
    units = member.hyper(member.embeddings)
    start = 0
    seen = set()
    for _, weight in member.weights():
        outputs, inputs = weight.shape[0] // 2, weight.shape[1] // 2
        seen.add(tuple(weight.shape))
        for o in range(outputs):
            for i in range(inputs):
                unit = units[start + o * inputs + i]
                block = weight[2 * o : 2 * o + 2, 2 * i : 2 * i + 2]
                wanted = unit if weight.shape[2] == 3 else unit.mean((2, 3), keepdim=True)
                assert torch.allclose(block, wanted, atol=1e-6)
        start += outputs * inputs
    assert start == len(member.embeddings) and (8, 4, 1, 1) in seen and (4, 2, 3, 3) in seen


def test_frozen_weights_are_generated_once_and_again_after_loading_others() -> None:
    member, images = generated(), torch.rand(3, 1, 8, 8)
    member.eval()
    moving = member(images).detach()
    member.requires_grad_(False)
    assert torch.allclose(member(images), moving, atol=1e-6)
    other = generated("released").eval()
    member.load_state_dict(other.state_dict())
    assert torch.allclose(member(images), other(images), atol=1e-4)
    assert not torch.allclose(member(images), moving, atol=1e-3)
    plain = count_macs(TINY.build(classes=4, channels=1, size=8, mean=[0.0], std=[1.0]), 1, 8)
    assert count_macs(member, 1, 8) == plain


def test_released_initialisation_has_kernels_of_a_spread_in_the_tens() -> None:
    torch.manual_seed(0)
    net = RESNET18.build(classes=10, channels=3, size=32, mean=[0.0] * 3, std=[1.0] * 3)
    member = _Generated(net, embedding=128, unit=0, init="released")
    _, weight = next(member.weights())
    assert 10 < float(weight.detach().std()) < 200


def test_depthwise_convolutions_keep_their_own_weights() -> None:
    with torch.device("meta"):
        net = MOBILE.build(classes=10, channels=3, size=8, mean=[0.0] * 3, std=[1.0] * 3)
    member = _Generated(net.to_empty(device="cpu"), embedding=4, unit=8, init="he")
    assert all(".weight" in n and w.shape[1] > 1 for n, w in member.weights())
