"""Averages of a trajectory: medians, means, statistics of batch normalisation, and their files."""

import json

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from trajectories import copied, made, parameters, snapshots, weights_of

from pipeline.average import make_average
from pipeline.averages.last import Last
from pipeline.averages.meat import Meat
from pipeline.averages.wa import Wa
from pipeline.contracts.training import Training
from pipeline.core import batchnorm
from pipeline.core.ensemble import combine
from pipeline.loading import models, registry
from pipeline.loading.images import batches, cut, load_split
from pipeline.plan import Plan
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.schema import available
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.training.averaging import BatchNormPass, averaged

MEAT = Meat(start=1, stop=0, bn_data="clean", bn_statistic="cumulative")
WA = Wa(start=1, stop=0, bn_data="clean", bn_statistic="cumulative")
LAST = Last(bn_data="clean", bn_statistic="cumulative")

numbers = st.floats(-100, 100, width=32)
stacks = st.integers(1, 7).flatmap(
    lambda count: st.lists(
        st.lists(numbers, min_size=4, max_size=4), min_size=count, max_size=count
    )
)


# ---- the rules


def test_every_file_has_an_entry():
    entries = Entries(tiny.params()).params["averages"]
    assert {n for n, entry in entries.items() if "base" not in entry} == set(available("averages"))


def test_the_median_is_the_middle_value_or_the_mean_of_the_middle_two():
    assert MEAT.combine(torch.tensor([1.0, 9, 2])).item() == 2
    assert MEAT.combine(torch.tensor([10.0, 2, 1, 3])).item() == 2.5
    assert WA.combine(torch.tensor([1.0, 9, 2])).item() == 4
    assert LAST.combine(torch.tensor([1.0, 9, 2])).item() == 2


@given(stacks)
@settings(max_examples=60, deadline=None)
def test_median_and_mean_are_numpys(values):
    stack = torch.tensor(values)
    assert np.allclose(MEAT.combine(stack), np.median(stack.numpy(), axis=0), rtol=1e-6)
    assert np.allclose(WA.combine(stack), stack.double().mean(0), rtol=1e-6)


@given(stacks, st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_order_of_snapshots_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    for rule in (MEAT, WA):
        one, other = rule.combine(torch.tensor(values)), rule.combine(torch.tensor(shuffled))
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


@given(numbers, numbers, st.floats(-(2.0**100), 2.0**100, width=32))
def test_an_outlier_moves_the_median_no_further_than_the_spread_of_the_others(a, b, outlier):
    found = MEAT.combine(torch.tensor([a, outlier, b])).item()
    assert min(a, b) <= found <= max(a, b)


@pytest.mark.parametrize("rule", [MEAT, WA, LAST])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 61])
def test_constant_snapshots_stay_as_they_are_bit_for_bit(rule, count):
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rule.combine(weights.expand(count, -1)), weights)


def test_integer_buffers_keep_their_type_and_are_the_last_ones(tmp_path):
    paths = []
    for epoch in (1, 2, 9):
        paths.append(tmp_path / f"{epoch}.safetensors")
        values = {"0.w": torch.full((2,), float(epoch)), "0.count": torch.tensor(epoch)}
        checkpoint.save(paths[-1], values)
    found = averaged(paths, MEAT)
    assert found["0.count"].dtype == torch.int64 and found["0.count"].item() == 9
    assert found["0.w"].dtype == torch.float32 and found["0.w"].tolist() == [2, 2]


# ---- from trained snapshots to files


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    """A workplace with a trajectory, entered."""
    return copied(tmp_path, monkeypatch)


def test_a_trajectory_ends_in_the_final_weights(here):
    run = tiny.one_run(here, "pgd_at")
    last = run.snapshots / "0004.safetensors"
    assert sha256_of(last) == sha256_of(run.folder / "weights.safetensors")
    assert len(snapshots(here)) == 3


def training_set(plan: Plan) -> Tensor:
    """The images that training and the passes see; digits are not augmented."""
    run = tiny.one_run(plan, "pgd_at")
    split = load_split(run.dataset, "train", tiny.CPU)
    split = cut(split, run.spec["recipe"]["train_images"], run.dataset.fields["split_seed"])
    return split.floats()


def network_with(plan: Plan, weights: dict[str, Tensor]) -> nn.Module:
    split = load_split(plan.dataset("digits"), "train", tiny.CPU)
    (net,) = models.build_members(tiny.one_run(plan, "pgd_at").spec, split, tiny.CPU)
    net.load_state_dict({k.removeprefix("0."): v for k, v in weights.items()})
    return net.eval()


@pytest.mark.parametrize("name, rule", [("meat", MEAT), ("wa", WA), ("last_bn", LAST)])
def test_an_average_has_averaged_weights_and_the_statistics_of_a_clean_pass(here, name, rule):
    found, parts = made(here, name), snapshots(here)
    for key, value in parameters(found).items():
        assert torch.equal(value, rule.combine(torch.stack([p[key] for p in parts])))
    net = network_with(here, found)
    with torch.no_grad():
        seen = net.stem[0](net.normalise(training_set(here)))
    assert torch.allclose(net.stem[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(net.stem[1].running_var, seen.var((0, 2, 3)), rtol=0.05)
    run = tiny.one_run(here, name)
    details, trained = json.loads((run.folder / "run.json").read_text()), run.parents[0]
    assert details["inherited"] == {trained: inherited_of(here)} and details["flops"] > 0
    assert not list(run.folder.glob(".*"))


def inherited_of(plan: Plan) -> int:
    folder = tiny.one_run(plan, "pgd_at").folder
    flops: int = json.loads((folder / "run.json").read_text())["flops"]
    return flops


def test_the_control_row_is_the_last_weights_with_other_statistics(here):
    last, control = weights_of(tiny.one_run(here, "pgd_at")), made(here, "last_bn")
    assert all(torch.equal(v, control[n]) for n, v in parameters(last).items())
    statistics_of = [n for n in last if n.endswith("running_mean")]
    assert all(not torch.equal(last[n], control[n]) for n in statistics_of)


def test_kept_statistics_go_through_the_average(here):
    found, parts = made(here, "kept"), snapshots(here)
    for name in [n for n in found if n.endswith(("running_mean", "running_var"))]:
        assert torch.equal(found[name], MEAT.combine(torch.stack([p[name] for p in parts])))
    details = json.loads((tiny.one_run(here, "kept").folder / "run.json").read_text())
    assert details["flops"] == 0


def test_each_choice_of_statistics_gives_other_statistics_of_the_same_weights(here):
    found = [made(here, n) for n in ("meat", "kept", "meat_released_bn", "meat_adversarial_bn")]
    for one in found[1:]:
        assert all(torch.equal(v, one[n]) for n, v in parameters(found[0]).items())
    name = next(n for n in found[0] if n.endswith("running_mean"))
    assert len({tuple(one[name].tolist()) for one in found}) == 4


def test_adversarial_statistics_are_of_examples_crafted_before_any_statistic_moved(here):
    run = tiny.one_run(here, "meat_adversarial_bn")
    kept = made(here, "kept")
    net, split = network_with(here, kept), load_split(run.dataset, "train", tiny.CPU)
    spec = here.training(run).spec
    split = cut(split, spec["recipe"]["train_images"], run.dataset.fields["split_seed"])
    recipe, attack = models.recipe_of(spec), registry.build("attacks", spec["attack"])
    training = Training([net], combine("single", [net]), recipe, attack, 10)
    parts = batches(split, run.dataset, recipe.batch_size, spec["seed"], 0)
    crafted = [training.craft(b) for b in parts]
    batchnorm.reestimate(net, crafted, net)
    found = made(here, "meat_adversarial_bn")
    for name, value in net.state_dict().items():
        assert torch.allclose(value.float(), found[f"0.{name}"].float(), atol=1e-6)


def test_a_pass_holds_one_batch_at_a_time(here, monkeypatch):
    run, order = tiny.one_run(here, "meat_adversarial_bn"), []
    craft = Training.craft
    monkeypatch.setattr(Training, "craft", lambda *a: order.append("craft") or craft(*a))
    split = load_split(run.dataset, "train", tiny.CPU)
    spec = here.training(run).spec
    rule = registry.build("averages", run.spec["average"])
    members = models.build_members(spec, split, tiny.CPU)
    examples = BatchNormPass(spec, run, split, rule, 1)._examples(members)
    members[0].register_forward_pre_hook(lambda *_: order.append("forward"))
    assert not order
    for images in examples:
        members[0](images)
    assert order[:4] == ["craft", "forward", "craft", "forward"]


def test_members_of_a_joint_training_are_averaged_each(here):
    run = tiny.one_run(here, "joint_meat")
    (trained,) = tiny.trained(here, "pgd_at_joint", members=2, snapshots=2)
    assert run.parents == (trained.id,)
    make_average(here, run, tiny.CPU)
    parts = [load_safetensors(p, "")[0] for p in sorted(trained.snapshots.glob("*.safetensors"))]
    found = weights_of(run)
    assert {n.split(".")[0] for n in found} == {"0", "1"}
    for name, value in parameters(found).items():
        assert torch.equal(value, MEAT.combine(torch.stack([p[name] for p in parts])))
