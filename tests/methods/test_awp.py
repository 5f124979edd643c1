"""AWP: the paper's values, and where it equals simpler methods."""

from dataclasses import dataclass

import pytest
import tiny
import torch
from members import assert_same, batch_of, method_of, train_steps, training_of
from torch import nn

from pipeline.contracts.training import Training
from pipeline.methods.awp import Awp, shifted
from pipeline.plan.params.entries import Entries


@dataclass(frozen=True, kw_only=True)
class Bowl(Awp):
    """The loss is half the squared length of the weights."""

    def loss(self, training, index, batch, adversarial):
        return 0.5 * training.members[index].weight.square().sum()[None]


def after_a_step(decay: float) -> list[float]:
    method = Bowl(joint=False, combine="single", objective="ce", beta=0, gamma=0.01, warm_up=0)
    training = training_of("awp", method_of("awp"), 1)
    member = nn.Linear(2, 1, bias=False).double()
    member.weight.data = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    training.members, training.attack = [member], None
    training.optimisers = [torch.optim.SGD(member.parameters(), lr=0.1, weight_decay=decay)]
    method.step(training, batch_of())
    return member.weight.flatten().tolist()


def test_a_step_has_the_golden_values_and_decay_acts_on_shifted_weights():
    assert after_a_step(0.0) == pytest.approx([2.697, 3.596], abs=1e-9)
    assert after_a_step(0.1) == pytest.approx([2.66670, 3.55560], abs=5e-5)


def shifts(method: Awp, training: Training) -> tuple[list[nn.Parameter], list[torch.Tensor]]:
    batch = batch_of()
    kernels = [p for p in training.members[0].parameters() if p.ndim > 1]
    return kernels, method.find_shifts(training, 0, batch, training.craft(batch), kernels)


@pytest.mark.parametrize("entry", ["awp", "awp_trades", "awp_mart"])
def test_every_kernel_moves_by_gamma_of_its_length_uphill(entry):
    method = method_of(entry, gamma=0.01, warm_up=0)
    training = training_of(entry, method, 1)
    kernels, found = shifts(method, training)
    ratios = [(s.norm() / k.norm()).item() for k, s in zip(kernels, found, strict=True)]
    assert ratios == pytest.approx([0.01] * len(kernels), rel=1e-5)
    with torch.no_grad():
        batch = batch_of()
        examples = training.craft(batch)
        flat = method.loss(training, 0, batch, examples).mean()
        with shifted(kernels, found):
            assert method.loss(training, 0, batch, examples).mean() > flat


def test_shifts_are_taken_back_whatever_happens():
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError), shifted([weight], [torch.full((2, 2), 0.5)]):
        raise RuntimeError
    assert torch.equal(weight, torch.ones(2, 2, dtype=torch.float64))


def test_statistics_move_by_the_update_alone():
    method = method_of("awp")
    training = training_of("awp", method, 1)
    method.step(training, batch_of())
    counts = {int(v) for k, v in training.members[0].state_dict().items() if "tracked" in k}
    assert counts == {1}


@pytest.mark.parametrize("base, entry", [
    ("pgd_at", "awp"), ("trades", "awp_trades"), ("mart", "awp_mart"),
])  # fmt: skip
def test_gamma_zero_is_the_base_method_bit_for_bit(base, entry):
    one = method_of(base)
    other = method_of(entry, gamma=0.0, warm_up=0)
    plain = train_steps(one, training_of(base, one, 1))
    assert_same(plain, train_steps(other, training_of(entry, other, 1)))
    warm = method_of(entry, warm_up=3)  # the rig is in epoch 3
    assert_same(plain, train_steps(warm, training_of(entry, warm, 1)))


@pytest.mark.parametrize("entry, first", [("awp", 1), ("awp_trades", 10), ("awp_mart", 10)])
def test_the_first_perturbed_epoch_is_that_of_the_authors_code(entry, first):
    whole = Entries({**tiny.params(), "scale": "paper"})
    fields = whole.method(entry, tiny.SETTING)[0].fields
    method = method_of(entry, warm_up=fields["warm_up"])
    training, perturbed = training_of(entry, method, 1), []
    for training.epoch in range(1, 12):
        if shifts(method, training)[1]:
            perturbed.append(training.epoch)
    assert perturbed[0] == first


def test_its_own_recipe_crafts_in_training_mode_as_the_authors_code():
    counted = {}
    for entry in ("awp", "awp_own"):
        method = method_of(entry)
        training = training_of(entry, method, 1)
        method.step(training, batch_of())
        kept = training.members[0].state_dict()
        (counted[entry],) = {int(v) for k, v in kept.items() if "tracked" in k}
    assert counted == {"awp": 1, "awp_own": 1 + training.attack.steps}
