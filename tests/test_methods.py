"""Every method keeps its contract, and equals a simpler one where the answer is known."""

import math
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from nets import TINY
from torch import Tensor, nn

from pipeline import checkpoint, registry
from pipeline.diversity import log_volume, mean_entropy
from pipeline.draws import Draws
from pipeline.ensemble import combine
from pipeline.layers import Net
from pipeline.losses import cross_entropy
from pipeline.maker import Maker
from pipeline.method import Method
from pipeline.methods.aute import Aute
from pipeline.methods.pgd_at import PgdAt
from pipeline.methods.standard import Standard
from pipeline.methods.trades import Trades
from pipeline.plan import Plan
from pipeline.plan.entries import Entries
from pipeline.plan.schema import available
from pipeline.recipe import Recipe
from pipeline.training import Batch, Training

ENTRIES = Entries(tiny.params())
NAMES = list(ENTRIES.params["methods"])
BOTH = {"combine": "mean_prob"}


def method_of(entry: str, **changed: Any) -> Any:
    method = registry.build("methods", ENTRIES.method(entry, tiny.SETTING)[0].spec)
    return replace(method, **changed)


def recipe_of(entry: str, **changed: Any) -> Recipe:
    return Recipe(**{**ENTRIES.method(entry, tiny.SETTING)[1], **changed})


def attack_of(entry: str) -> Any:
    name = ENTRIES.method(entry, tiny.SETTING)[1]["attack"]
    found = ENTRIES.attack(name, ENTRIES.stand_in("cifar10")[1])
    return registry.build("attacks", found.spec) if found else None


def training_of(entry: str, method: Any, members: int, **recipe: Any) -> Training:
    """Fresh thin nets in training mode, with the entry's recipe and attack."""

    def network() -> Net:
        return TINY.build(classes=10, channels=1, size=8, mean=[0.4], std=[0.25])

    make = Maker(0, network, {"teacher_arch": network})
    nets, assistants = method.build(make, members), method.assist(make)
    for net in [*nets, *assistants]:
        net.train()
    training = Training(
        members=nets,
        ensemble=combine(method.combine, nets),
        recipe=recipe_of(entry, **recipe),
        attack=attack_of(entry),
        classes=10,
        assistants=assistants,
        epoch=3,
    )
    training.optimisers = method.setup(training)
    return training


def batch_of(count: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return Batch(images, labels, Draws(seed, torch.arange(count)))


def train_steps(method: Any, training: Training, steps: int = 3) -> list[dict[str, Tensor]]:
    """Weights and buffers of the members after some batches."""
    for step in range(steps):
        method.step(training, batch_of(seed=step))
    return states(training)


def states(training: Training) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in m.state_dict().items()} for m in training.members]


def assert_same(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> None:
    for one, other in zip(a, b, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


# ---- contract


def test_every_file_has_an_entry():
    roots = {ENTRIES.method(name, tiny.SETTING)[0].component for name in NAMES}
    assert roots == set(available("methods"))


@pytest.mark.parametrize("entry", NAMES)
def test_a_method_gives_finite_losses_and_changes_every_member(entry):
    method = method_of(entry)
    training = training_of(entry, method, 3 if method.joint else 1)
    batch, before = batch_of(), states(training)
    adversarial = training.craft(batch)
    assert adversarial.shape == batch.images.shape
    writes_loss = type(method).loss is not Method.loss
    assert writes_loss or type(method).step is not Method.step
    for index in range(len(training.members) if writes_loss else 0):
        losses = method.loss(training, index, batch, adversarial)
        assert losses.shape == (8,) and losses.isfinite().all()
    mean = method.step(training, batch)
    assert mean.shape == () and mean.isfinite() and not mean.requires_grad
    for one, other in zip(before, states(training), strict=True):
        assert differ(one, other)


@pytest.mark.parametrize("entry", NAMES)
def test_trained_members_are_saved_and_loaded(entry, tmp_path):
    method = method_of(entry)
    members = 3 if method.joint else 1
    training, other = (training_of(entry, method, members) for _ in range(2))
    method.step(training, batch_of())
    checkpoint.save(tmp_path / "w.safetensors", checkpoint.collect(training.members))
    checkpoint.load(tmp_path / "w.safetensors", other.members)
    assert_same(states(training), states(other))


@pytest.mark.parametrize("entry", NAMES)
def test_every_method_trains_with_statistics_of_any_mode(entry):
    method = method_of(entry)
    for mode in ("eval", "train_frozen", "train_update"):
        training = training_of(entry, method, 2 if method.joint else 1, attack_bn_mode=mode)
        assert method.step(training, batch_of()).isfinite()
        assert all(m.training for net in training.members for m in net.modules())


# ---- standard, PGD-AT, TRADES

Z = torch.tensor([[2.0, 0, -1], [0.5, 1.5, 0]], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, 0], [0, 1, 1.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


class Shift(nn.Module):
    """Logits Z on black images, A on white ones."""

    def forward(self, images: Tensor) -> Tensor:
        share = images.flatten(1).mean(1, keepdim=True)
        return Z * (1 - share) + A * share


def loss_of(method: Any, adversarial: float) -> float:
    """The mean loss of Shift with black clean images."""
    clean = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    training = training_of("standard", method, 1)
    training.members = [Shift()]
    batch = Batch(clean, LABELS, Draws(0, torch.arange(2)))
    return method.loss(training, 0, batch, clean + adversarial).mean().item()


def test_losses_have_the_cards_golden_values():
    assert loss_of(Standard(joint=False, **BOTH), 1) == pytest.approx(0.317107, abs=5e-7)
    assert loss_of(PgdAt(joint=False, **BOTH), 1) == pytest.approx(0.815825, abs=5e-7)
    assert loss_of(Trades(joint=False, beta=6, **BOTH), 1) == pytest.approx(1.828229, abs=5e-7)


def test_trades_on_unperturbed_images_is_clean_training():
    trades = loss_of(Trades(joint=False, beta=6, **BOTH), 0)
    assert trades == pytest.approx(0.317107, abs=5e-7)


def test_trades_beta_zero_is_clean_training():
    standard, trades = method_of("standard"), method_of("trades", beta=0.0)
    clean = train_steps(standard, training_of("standard", standard, 1))
    assert_same(clean, train_steps(trades, training_of("trades", trades, 1)))


def test_pgd_at_within_no_radius_is_clean_training():
    standard, pgd_at = method_of("standard"), method_of("pgd_at")
    training = training_of("pgd_at", pgd_at, 1)
    training.attack = replace(training.attack, eps=0.0)
    clean = train_steps(standard, training_of("standard", standard, 1))
    assert_same(clean, train_steps(pgd_at, training))


def test_trades_passes_gradient_through_the_clean_prediction():
    clean = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)

    class Leaf(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return clean if images.sum() == 0 else clean.detach() + 1 * A[:1]

    def loss(method: Trades) -> Tensor:
        training = training_of("standard", method, 1)
        training.members = [Leaf()]
        zeros = torch.zeros(1, 1, 2, 2)
        batch = Batch(zeros, torch.tensor([0]), Draws(0, torch.arange(1)))
        return method.loss(training, 0, batch, zeros + 1).sum()

    gradients = [
        torch.autograd.grad(loss(Trades(joint=False, beta=beta, **BOTH)), clean)[0]
        for beta in (0, 6)
    ]
    assert (gradients[0] - gradients[1]).abs().max() > 0.1


# ---- joint and independent members


def test_one_joint_member_is_the_single_model_method_bit_for_bit():
    for single, joint in (("pgd_at", "pgd_at_joint"), ("trades", "trades_joint")):
        one, other = method_of(single), method_of(joint)
        alone = train_steps(one, training_of(single, one, 1))
        assert_same(alone, train_steps(other, training_of(joint, other, 1)))


def test_one_joint_member_is_the_same_run_as_an_independent_one():
    plan = Plan(tiny.params())
    joint, alone = tiny.one_run(plan, "pgd_at_joint"), tiny.one_run(plan, "pgd_at")
    assert joint.spec == alone.spec


def test_an_independent_member_does_not_depend_on_how_many_there_are():
    plan = Plan(tiny.params())
    three, five = tiny.runs(plan, "pgd_at", 3), tiny.runs(plan, "pgd_at", 5)
    assert [r.id for r in three] == [r.id for r in five][:3]
    assert len({r.id for r in five}) == 5


def test_a_joint_batch_is_crafted_once_on_the_whole_ensemble():
    seen = []

    class Watch:
        def __call__(self, model: Any, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
            seen.append(model)
            return images

    method = method_of("pgd_at_joint")
    training = training_of("pgd_at_joint", method, 3)
    training.attack = Watch()
    method.step(training, batch_of())
    assert seen == [training.ensemble]


# ---- AUTE

PAPER = method_of("aute")
RELEASED = replace(method_of("aute_released"), ramp_start=40, ramp_end=80)


class Given(nn.Module):
    """Logits that are its own parameter, float64."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.to(torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def aute_losses(
    method: Aute, members: list[Tensor], labels: Tensor, index: int = 0, epoch: int = 120
) -> tuple[Tensor, list[Given]]:
    """Losses of member `index` when the members' logits are given."""
    nets = [Given(logits) for logits in members]
    training = training_of("aute", method, 1)
    training.members, training.epoch = list(nets), epoch
    images = torch.zeros(len(labels), 1, 2, 2)
    batch = Batch(images, labels, Draws(0, torch.arange(len(labels))))
    return method.loss(training, index, batch, images), nets


def weight_of(method: Aute, probs: list[float], label: int, index: int = 0) -> float:
    """The weight on cross-entropy of one example predicted with these probabilities."""
    logits, labels = torch.tensor([probs], dtype=torch.float64).log(), torch.tensor([label])
    method = replace(method, beta=0.0, base_loss="ce")
    losses, _ = aute_losses(method, [logits] * 3, labels, index)
    return (losses / cross_entropy(logits, labels)).item()


def test_the_unlearning_weight_has_the_cards_golden_values():
    learn = replace(PAPER, margin=0.25, gamma=0.5)
    for method in (learn, replace(RELEASED, margin=0.25, gamma=0.5)):
        assert weight_of(method, [0.5, 0.375, 0.125], 0) == pytest.approx(0.875)
    scaled = replace(learn, index_scaled=True)
    found = [weight_of(scaled, [0.6875, 0.1875, 0.125], 0, i) for i in range(3)]
    assert found == pytest.approx([0, -0.25, -0.5])
    assert weight_of(learn, [0.6875, 0.1875, 0.125], 0) == pytest.approx(-0.25)
    wrong = [0.625, 0.125, 0.25]
    assert weight_of(learn, wrong, 1) == pytest.approx(1.5)  # 1 + |D|
    assert weight_of(replace(learn, wrong_margin="zero"), wrong, 1) == pytest.approx(1)
    assert weight_of(PAPER, [0.9, 0.05, 0.05], 0) == pytest.approx(-0.0085)
    assert weight_of(RELEASED, [0.5, 0.495, 0.005], 0) == pytest.approx(0.995)


def test_at_the_margin_the_paper_forgets_and_the_code_learns():
    for at_margin, weight in (("forget", 0), ("learn", 1)):
        method = replace(PAPER, margin=0.0, at_margin=at_margin)
        assert weight_of(method, [0.25] * 4, 0) == weight


def test_the_released_loss_is_weight_times_the_boosted_base():
    labels = torch.tensor([0, 0])
    logits = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.495, 0.005]], dtype=torch.float64).log()
    losses, _ = aute_losses(replace(RELEASED, beta=0.0), [logits] * 2, labels, index=1)
    assert losses.tolist() == pytest.approx([-0.0085 * 0.1565, 0.995 * 1.3761], rel=1e-3)
    losses, _ = aute_losses(replace(RELEASED, beta=0.0), [logits] * 2, labels, index=0)
    assert losses.tolist() == pytest.approx([0, 0.995 * 1.3761], rel=1e-3)


def test_alignment_is_ramped_as_the_code_does():
    def aligned(method: Aute, epoch: int) -> float:
        found, _ = aute_losses(method, [Z, A, Z + A], LABELS, epoch=epoch)
        return found.sum().item()

    plain = aligned(replace(RELEASED, beta=0.0), 120)
    full = aligned(RELEASED, 120) - plain
    assert full > 0.01
    for epoch, share in ((1, 0), (40, 0), (60, 0.5), (80, 1), (120, 1)):
        assert aligned(RELEASED, epoch) - plain == pytest.approx(share * full)
    assert aligned(PAPER, 1) == aligned(PAPER, 120)


def test_a_scale_keeps_the_ramps_shape():
    fields = (
        Entries({**tiny.params(epochs=12), "scale": "demo"})
        .method("aute_released", tiny.SETTING)[0]
        .fields
    )
    assert (fields["ramp_start"], fields["ramp_end"]) == (4, 8)


@pytest.mark.parametrize("order", ["member_peers", "peers_member"])
@pytest.mark.parametrize("align", ["weighted", "unweighted"])
def test_alignment_with_equal_peers_is_nothing(order, align):
    method = replace(PAPER, learn="plain", kl_order=order, align=align)
    losses, nets = aute_losses(method, [Z, Z, Z], LABELS)
    assert torch.allclose(losses, cross_entropy(Z, LABELS), atol=1e-14)
    losses.sum().backward()
    expected = (Z.softmax(1) - nn.functional.one_hot(LABELS, 3)).abs().sum()
    assert nets[0].logits.grad.abs().sum().item() == pytest.approx(expected.item())


def test_peers_receive_no_gradient():
    for name in [n for n in NAMES if n.startswith("aute")]:
        losses, nets = aute_losses(method_of(name), [Z, A, Z + A], LABELS, index=1)
        losses.sum().backward()
        assert nets[1].logits.grad is not None
        assert nets[0].logits.grad is None and nets[2].logits.grad is None


def reference(method: Aute, z: Tensor, held: Tensor, peers: list[Tensor]) -> Tensor:
    """AUTE's sum of losses from the card's formulas; weights are taken at logits `held`."""
    total = z.new_zeros(())
    for row, label in enumerate(LABELS.tolist()):
        p, q = z[row].softmax(0), held[row].softmax(0)
        wrong = [k for k in range(3) if k != label]
        d = q[label] - max(q[k] for k in wrong)
        if method.wrong_margin == "zero" and d < 0:
            d = d * 0
        w = 1 - d if d < method.margin else -method.gamma * d
        base = -p[label].log()
        if method.base_loss == "boosted":
            base = base - (1.0001 - max(p[k] for k in wrong) + 1e-12).log()
        mean = torch.stack([peer[row].softmax(0) for peer in peers]).mean(0)
        pair = (p, mean) if method.kl_order == "member_peers" else (mean, p)
        divergence = (pair[0] * (pair[0].log() - pair[1].log())).sum()
        total = total + w * base + method.beta * (1 - q[label]) * divergence
    return total


def numeric_gradient(function: Any, z: Tensor, step: float = 1e-6) -> Tensor:
    gradient = torch.zeros_like(z)
    for i in range(z.numel()):
        moved = torch.zeros_like(z).flatten()
        moved[i] = step
        up, down = function(z + moved.view_as(z)), function(z - moved.view_as(z))
        gradient.view(-1)[i] = (up - down) / (2 * step)
    return gradient


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("own, peer", [(Z, A), (A, Z)], ids=["knows", "doubts"])
@pytest.mark.parametrize("start", [PAPER, RELEASED], ids=["paper", "released"])
def test_gradients_are_those_of_the_printed_loss(start, own, peer, detached):
    # at margin 0.5 the rows are: one unlearned, one learned; one learned, one wrong
    method = replace(start, detach_weights=detached, index_scaled=False, gamma=0.5, margin=0.5)
    peers = [peer, Z + A]
    losses, nets = aute_losses(method, [own, *peers], LABELS)
    assert losses.sum().item() == pytest.approx(reference(method, own, own, peers).item())
    losses.sum().backward()

    def loss(z: Tensor) -> Tensor:
        return reference(method, z, own if detached else z, peers)

    assert torch.allclose(nets[0].logits.grad, numeric_gradient(loss, own), atol=1e-8)


def test_aute_without_both_parts_is_joint_adversarial_training_bit_for_bit():
    joint = method_of("pgd_at_joint")
    reduced = method_of("aute", learn="plain", beta=0.0)
    trained = train_steps(joint, training_of("pgd_at_joint", joint, 3))
    other = training_of("aute", reduced, 3)
    assert other.attack == attack_of("pgd_at_joint")
    assert_same(trained, train_steps(reduced, other))


def test_a_member_sees_the_peers_before_it_updated_and_those_after_it_not_yet():
    method = method_of("aute")
    whole, parts = (training_of("aute", method, 3) for _ in range(2))
    batch = batch_of()
    adversarial = parts.craft(batch)
    method.step(whole, batch)
    late = training_of("aute", method, 3)
    late.update(1, method.loss(late, 1, batch, adversarial))  # before member 0's update
    assert differ(states(late)[1], states(whole)[1])
    for index in range(3):
        parts.update(index, method.loss(parts, index, batch, adversarial))
        assert not differ(states(parts)[index], states(whole)[index])


def test_member_0_is_unaffected_by_what_the_others_learn():
    method = method_of("aute")
    one, two = (training_of("aute", method, 3) for _ in range(2))
    for group in two.optimisers[2].param_groups + two.optimisers[1].param_groups:
        group["lr"] = 0.5
    for training in (one, two):
        method.step(training, batch_of())
    assert not differ(states(one)[0], states(two)[0])
    assert differ(states(one)[1], states(two)[1])


def test_released_peers_move_their_statistics_and_ours_do_not():
    method, batch = method_of("aute"), batch_of()
    for mode, moves in (("eval", False), ("train_frozen", False), ("train_update", True)):
        training = training_of("aute", method, 2, attack_bn_mode=mode)
        before = states(training)[1]
        method.loss(training, 0, batch, batch.images)
        assert differ(before, states(training)[1]) == moves
        assert all(m.training for m in training.members[1].modules())


@pytest.mark.parametrize("smoothing", [0.1, 0.3, 0.5])
def test_label_smoothing_shares_the_coefficient_among_the_wrong_classes(smoothing):
    method = replace(PAPER, learn="smooth", smoothing=smoothing, beta=0.0)
    losses, _ = aute_losses(method, [Z, A], LABELS)
    target = torch.full((2, 3), smoothing / 2, dtype=torch.float64)
    target[torch.arange(2), LABELS] = 1 - smoothing
    assert torch.allclose(losses, -(target * Z.log_softmax(1)).sum(1))


def test_every_row_of_the_ablation_is_another_loss():
    rows = [n for n in NAMES if n.startswith("aute")]
    sums = [aute_losses(method_of(n), [Z, A, Z + A], LABELS, 1)[0].sum().item() for n in rows]
    assert len({round(s, 9) for s in sums}) == len(rows) > 7


# ---- ADP's regularisers


def test_the_volume_of_identical_members_has_the_cards_golden_value():
    probs_KBC = Z.softmax(1).expand(3, 2, 3)
    wide = torch.cat([probs_KBC / 2, probs_KBC / 2], dim=2)  # 6 classes: room for 3 members
    for probs in (wide, wide.float()):
        found = log_volume(probs, LABELS)
        assert found.tolist() == pytest.approx([-26.5324] * 2, abs=0.02)
    exact = 2 * math.log(1e-6) + math.log(3 + 1e-6)
    assert log_volume(wide, LABELS).tolist() == pytest.approx([exact] * 2, abs=1e-3)


def test_the_volume_of_orthogonal_members_is_almost_0():
    probs_KBC = torch.eye(4, dtype=torch.float64)[1:, None] * 0.5
    probs_KBC[:, :, 0] = 0.5
    assert log_volume(probs_KBC, torch.tensor([0])).item() == pytest.approx(3e-6, rel=1e-3)


def test_the_volume_does_not_see_the_true_class_or_the_order():
    probs_KBC = torch.stack([Z, A]).softmax(-1)
    volume = log_volume(probs_KBC, LABELS)
    assert torch.allclose(volume, log_volume(probs_KBC.flip(0), LABELS))
    raised = probs_KBC.clone()
    raised[:, torch.arange(2), LABELS] += 0.3
    assert torch.allclose(volume, log_volume(raised, LABELS))


def test_a_certain_member_has_a_finite_volume():
    probs_KBC = torch.tensor([[[1.0, 0, 0, 0]], [[0.4, 0.3, 0.2, 0.1]]], requires_grad=True)
    volume = log_volume(probs_KBC, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(volume.sum(), probs_KBC)
    assert volume.isfinite().all() and gradient.isfinite().all()


def test_the_entropy_of_the_mean_prediction_is_at_most_that_of_chance():
    uniform = torch.full((2, 1, 10), 0.1, dtype=torch.float64)
    assert mean_entropy(uniform).item() == pytest.approx(math.log(10))
    assert mean_entropy(torch.stack([Z, A]).softmax(-1)).max() < math.log(3)
    sure = torch.eye(2, dtype=torch.float64)[:, None]
    assert mean_entropy(sure).item() == pytest.approx(math.log(2))
    assert mean_entropy(sure[:1]).item() == pytest.approx(0, abs=1e-15)


def test_the_adp_row_regularises_in_place_of_alignment():
    method = method_of("aute_with_adp")
    plain, _ = aute_losses(replace(method, beta=0.0), [Z, A], LABELS)
    found, _ = aute_losses(method, [Z, A], LABELS)
    probs_KBC = torch.stack([Z, A]).softmax(-1)
    expected = plain - 2 * mean_entropy(probs_KBC) - 0.5 * log_volume(probs_KBC, LABELS)
    assert torch.allclose(found, expected)
    nothing = replace(method, adp_entropy=0.0, adp_volume=0.0)
    assert torch.equal(aute_losses(nothing, [Z, A], LABELS)[0], plain)
