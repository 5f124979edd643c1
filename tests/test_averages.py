"""Averages of a trajectory: medians, means, statistics of batch normalisation, and their files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import average, batchnorm, checkpoint, models, registry, train
from pipeline.average import BatchNormPass, averaged, make_average
from pipeline.averages.last import Last
from pipeline.averages.meat import Meat
from pipeline.averages.wa import Wa
from pipeline.ensemble import combine
from pipeline.errors import Interrupted, UserError
from pipeline.files import load_safetensors, sha256_of
from pipeline.images import batches, cut, load_split
from pipeline.plan import Plan, Run
from pipeline.plan.entries import Entries
from pipeline.plan.schema import available
from pipeline.trainer import Trainer
from pipeline.training import Training

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


# ---- statistics of batch normalisation


def network() -> nn.Module:
    torch.manual_seed(0)
    first = nn.BatchNorm2d(2, momentum=0.3)
    return nn.Sequential(first, nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.ReLU())


def shown(count: int = 50) -> Tensor:
    return torch.rand(count, 2, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 - 1


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}


def test_cumulative_statistics_are_those_of_the_data_with_a_short_last_batch():
    model, images = network(), shown()
    batchnorm.reestimate(model, images.split(16), model)  # 16, 16, 16 and 2 images
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-6)
    within = [16 * b.var((0, 2, 3)) for b in images[:48].split(16)] + [
        2 * images[48:].var((0, 2, 3))
    ]
    assert torch.allclose(model[0].running_var, torch.stack(within).sum(0) / 50, atol=1e-6)
    assert not any(m.training for m in model.modules())
    assert model[0].momentum == 0.3


def test_cumulative_statistics_do_not_depend_on_the_order_of_batches():
    one, other = network(), network()
    parts = list(shown().split(16))
    batchnorm.reestimate(one, parts, one)
    batchnorm.reestimate(other, parts[::-1], other)
    for name, value in statistics(one).items():
        assert torch.allclose(value, statistics(other)[name], atol=1e-6)


def test_statistics_before_the_pass_and_gradients_play_no_part():
    one, other = network(), network()
    with torch.no_grad():
        other[0].running_mean.fill_(5)
        other[2].running_var.fill_(9)
    for model in (one, other):
        batchnorm.reestimate(model, shown().split(16), model)
    assert all(torch.equal(v, statistics(other)[n]) for n, v in statistics(one).items())
    assert all(p.grad is None for p in one.parameters())


def test_median_of_ema_is_the_median_of_a_trace_from_0_and_1():
    model, images = network(), shown(64)
    batchnorm.median_of_ema(model, images.split(16), model)
    mean, variance, means, variances = torch.zeros(2), torch.ones(2), [], []
    for part in images.split(16):
        mean = 0.7 * mean + 0.3 * part.mean((0, 2, 3))
        variance = 0.7 * variance + 0.3 * part.var((0, 2, 3))
        means.append(mean.numpy())
        variances.append(variance.numpy())
    assert np.allclose(model[0].running_mean, np.median(means, axis=0), atol=1e-6)
    assert np.allclose(model[0].running_var, np.median(variances, axis=0), atol=1e-6)
    assert not any(m.training for m in model.modules())


# ---- from trained snapshots to files


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory) -> Path:
    """A folder with one training of four epochs, snapshots 2 to 4 kept."""
    folder = tmp_path_factory.mktemp("trajectory")
    with pytest.MonkeyPatch.context() as patch:
        plan = tiny.place(folder, patch, changed())
        runs_of_all(plan)
        tiny.trained(plan, "pgd_at", snapshots=2)
    return folder


def changed() -> dict[str, Any]:
    found = tiny.params(epochs=4, train_images=101, validate_every=0)
    of = {"of": "pgd_at", "bn_data": "clean", "bn_statistic": "cumulative"}
    found["averages"]["kept"] = {"base": "meat", "bn_data": "kept"}
    found["averages"]["joint_meat"] = {**of, "base": "meat", "of": "pgd_at_joint", "members": 2}
    return found


def runs_of_all(plan: Plan) -> dict[str, Run]:
    names = ["meat", "wa", "last_bn", "kept", "meat_released_bn", "meat_adversarial_bn"]
    return {name: tiny.one_run(plan, name) for name in names}


@pytest.fixture
def here(trajectory, tmp_path, monkeypatch) -> Plan:
    """A copy of the trained workplace, entered; averages are known to the plan."""
    shutil.copytree(trajectory, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    plan = Plan(changed())
    runs_of_all(plan)
    return plan


def weights_of(run: Run) -> dict[str, Tensor]:
    return load_safetensors(run.folder / "weights.safetensors", "")[0]


def made(plan: Plan, name: str) -> dict[str, Tensor]:
    run = tiny.one_run(plan, name)
    make_average(plan, run, tiny.CPU)
    return weights_of(run)


def snapshots(plan: Plan) -> list[dict[str, Tensor]]:
    folder = tiny.one_run(plan, "pgd_at").snapshots
    return [load_safetensors(p, "")[0] for p in sorted(folder.glob("*.safetensors"))]


def parameters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    return {n: v for n, v in weights.items() if not n.endswith(tracked)}


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
    spec = models.training_spec(here, run)
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
    spec = models.training_spec(here, run)
    rule = registry.build("averages", run.spec["average"])
    members = models.build_members(spec, split, tiny.CPU)
    examples = BatchNormPass(spec, run, split, rule)._examples(members)
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


# ---- refusals


def index_of(plan: Plan) -> Path:
    return tiny.one_run(plan, "pgd_at").snapshots / "from2.json"


def refusal(plan: Plan, name: str = "meat") -> str:
    with pytest.raises(UserError) as raised:
        made(plan, name)
    assert not tiny.one_run(plan, name).folder.exists()
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_an_altered_or_missing_snapshot_is_refused(here):
    snapshot = tiny.one_run(here, "pgd_at").snapshots / "0003.safetensors"
    content = bytearray(snapshot.read_bytes())
    content[-1] ^= 1
    snapshot.write_bytes(content)
    text = refusal(here)
    assert "0003.safetensors: missing or altered" in text and "--snapshots-from 2" in text
    snapshot.unlink()
    assert "0003.safetensors: missing or altered" in refusal(here)


def test_a_missing_or_damaged_index_is_refused(here):
    index_of(here).write_text("{")
    assert "from2.json: is damaged" in refusal(here)
    index_of(here).unlink()
    assert "from2.json: is missing; run python -m pipeline.train" in refusal(here)


def test_altered_last_weights_are_refused(here):
    path = tiny.one_run(here, "pgd_at").folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "weights.safetensors: truncated or corrupt" in refusal(here, "last_bn")
    path.unlink()
    assert "weights.safetensors: is missing" in refusal(here, "last_bn")


def test_adversarial_statistics_of_a_training_without_attack_are_refused(here):
    asked = changed()
    asked["averages"]["odd"] = {"base": "meat_adversarial_bn", "of": "standard"}
    plan = Plan(asked)
    tiny.trained(plan, "standard", snapshots=2)
    assert "training has no attack" in refusal(plan, "odd")


def test_the_command_refuses_a_training_and_a_finished_average_is_left_alone(here, capsys):
    trained, meat = tiny.one_run(here, "pgd_at"), tiny.one_run(here, "meat")
    asked = changed()
    asked["tables"]["table1"]["rows"] = ["meat"]
    Path("params.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    with pytest.raises(UserError, match="is a training: use python -m pipeline.train"):
        average.main([trained.id])
    average.main([meat.id])
    before = (meat.folder / "weights.safetensors").stat()
    average.main([str(meat.folder)])
    assert "nothing to do" in capsys.readouterr().out
    assert (meat.folder / "weights.safetensors").stat() == before


# ---- trajectories derived again


def rederive(plan: Plan, first: int = 2) -> None:
    train.train(plan, tiny.one_run(plan, "pgd_at"), tiny.CPU, first)


def sums(folder: Path) -> dict[str, str]:
    return {p.name: sha256_of(p) for p in folder.iterdir()}


@pytest.mark.slow
def test_deleted_and_altered_snapshots_are_derived_again_with_the_same_bytes(here):
    run = tiny.one_run(here, "pgd_at")
    before, runs_before = sums(run.snapshots), sums(run.folder)
    shutil.rmtree(run.snapshots)
    rederive(here)
    assert sums(run.snapshots) == before and sums(run.folder) == runs_before
    (run.snapshots / "0003.safetensors").write_bytes(b"nothing")
    rederive(here)
    assert sums(run.snapshots) == before
    rederive(here, 3)
    assert set(sums(run.snapshots)) == {*before, "from3.json"}
    assert not Path("work/runs", run.id).exists()


@pytest.mark.slow
def test_a_training_that_comes_out_otherwise_gives_no_trajectory_ever(here):
    run = tiny.one_run(here, "pgd_at")
    weights = {n: v + 1 for n, v in weights_of(run).items()}
    checkpoint.save(run.folder / "weights.safetensors", weights)
    shutil.rmtree(run.snapshots)
    for _ in range(2):
        with pytest.raises(UserError, match="gave other weights than the recorded"):
            rederive(here)
        assert not run.snapshots.exists()


@pytest.mark.slow
def test_an_interrupted_trajectory_with_lost_snapshots_starts_again(here):
    run = tiny.one_run(here, "pgd_at")
    before = sums(run.snapshots)
    shutil.rmtree(run.snapshots)
    shutil.rmtree(run.folder)
    trainer = Trainer(here, run, tiny.CPU, 2)
    trainer.method = tiny.StopAfter(trainer.method, 10)  # in epoch 3
    with pytest.raises(Interrupted):
        trainer.fit()
    (run.snapshots / "0002.safetensors").unlink()
    rederive(here)
    assert sums(run.snapshots) == before


@pytest.mark.parametrize("epoch", ["0", "5"])
def test_epochs_that_a_run_has_not_are_refused(here, epoch):
    with pytest.raises(UserError, match="has the epochs 1 to 4"):
        train.main([tiny.one_run(here, "pgd_at").id, "--snapshots-from", epoch])


def test_snapshots_of_another_net_are_refused(here):
    run = tiny.one_run(here, "pgd_at")
    for path in run.snapshots.glob("*.safetensors"):
        weights = load_safetensors(path, "")[0]
        checkpoint.save(path, {n: v for n, v in weights.items() if not n.endswith("bias")})
    index_of(here).write_text(
        json.dumps({p.name: sha256_of(p) for p in run.snapshots.glob("*.s*")})
    )
    assert "do not fit this arch" in refusal(here)
