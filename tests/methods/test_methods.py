"""Every method keeps its contract, and equals a simpler one where the answer is known."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from members import (
    BOTH,
    ENTRIES,
    LABELS,
    NAMES,
    A,
    Z,
    assert_same,
    batch_of,
    differ,
    method_of,
    one_a_method,
    states,
    train_steps,
    training_of,
)
from torch import Tensor, nn

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws
from pipeline.methods.pgd_at import PgdAt
from pipeline.methods.standard import Standard
from pipeline.methods.trades import Trades
from pipeline.plan import Plan
from pipeline.plan.params.schema import available
from pipeline.store import checkpoint

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


@pytest.mark.parametrize("entry", one_a_method())
def test_trained_members_are_saved_and_loaded(entry, tmp_path):
    method = method_of(entry)
    members = 3 if method.joint else 1
    training, other = (training_of(entry, method, members) for _ in range(2))
    method.step(training, batch_of())
    checkpoint.save(tmp_path / "w.safetensors", checkpoint.view(training.members))
    checkpoint.load(tmp_path / "w.safetensors", other.members)
    assert_same(states(training), states(other))


@pytest.mark.parametrize("entry", one_a_method())
def test_every_method_trains_with_statistics_of_any_mode(entry):
    method = method_of(entry)
    for mode in ("eval", "train_frozen", "train_update"):
        training = training_of(entry, method, 2 if method.joint else 1, attack_bn_mode=mode)
        assert method.step(training, batch_of()).isfinite()
        assert all(m.training for net in training.members for m in net.modules())


# ---- standard, PGD-AT, TRADES


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


def test_losses_have_their_golden_values():
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
            seen.append(model(images).detach())
            return images

    method = method_of("pgd_at_joint")
    training = training_of("pgd_at_joint", method, 3)
    training.attack = Watch()
    with attack_mode(training.ensemble, "eval"), torch.no_grad():
        expected = training.ensemble(batch_of().images)
    method.step(training, batch_of())
    assert len(seen) == 1 and torch.allclose(seen[0], expected, atol=1e-5)


def test_a_method_is_one_file_of_at_most_200_lines():
    files = sorted((tiny.ROOT / "pipeline" / "methods").glob("[a-z]*.py"))
    assert len(files) > 5
    for path in files:
        assert len(path.read_text().splitlines()) <= 200, path.name
