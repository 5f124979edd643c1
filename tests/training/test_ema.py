"""Weights averaged at every step, and training in half precision."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor, nn

from pipeline import train
from pipeline.core.ensemble import combine
from pipeline.loading import models
from pipeline.loading.images import batches, load_split
from pipeline.plan import Plan, Run
from pipeline.plan.params.entries import Entries
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors
from pipeline.training.ema import Ema
from pipeline.training.trainer import Trainer
from pipeline.training.validate import accuracies


def kept(plan: Plan, run: Run) -> list[dict[str, Tensor]]:
    train.train(plan, run, tiny.CPU, 1)
    return [load_safetensors(p, "")[0] for p in sorted(run.snapshots.glob("*.safetensors"))]


def validated(plan: Plan, run: Run, weights: dict[str, Tensor], split: str) -> tuple[float, float]:
    data = load_split(run.dataset, split, tiny.CPU)
    members = models.build_members(run.spec, data, tiny.CPU)
    checkpoint.distribute(weights, members, run.folder)
    attack = Trainer._attack(run.spec["validation_attack"])
    return accuracies(combine("mean_prob", members), data, attack, run.spec["seed"])


# ---- averages per step


def test_from_the_initial_weights_and_with_a_warm_up_it_has_the_golden_values():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    recipe = models.recipe_of({"recipe": Entries(tiny.params()).method("seat", tiny.SETTING)[1]})
    ema, found = Ema([net], recipe), []
    nn.init.ones_(net.weight)
    for _ in range(3):
        ema.update([net], 1)
        found.append(ema.weights([net])["0.weight"].item())
    assert found == pytest.approx([0.9, 0.981818, 0.995455], abs=6e-7)
    again = Ema([net], recipe)
    again.restore(copy.deepcopy(ema.state()))
    nn.init.zeros_(net.weight)
    for average in (ema, again):
        average.update([net], 1)
        assert average.weights([net])["0.weight"].item() == pytest.approx(
            0.995455 * 4 / 13, abs=6e-7
        )
    ema.updates = 8990
    before = ema.weights([net])["0.weight"].item()
    ema.update([net], 1)
    assert ema.weights([net])["0.weight"].item() == pytest.approx(0.999 * before, abs=1e-7)


def test_an_average_of_constant_weights_is_those_weights():
    net = nn.Linear(3, 2)
    recipe = models.recipe_of({"recipe": Entries(tiny.params()).method("seat", tiny.SETTING)[1]})
    ema = Ema([net], recipe)
    for _ in range(5):
        ema.update([net], 1)
    assert torch.allclose(ema.weights([net])["0.weight"], net.weight, atol=1e-7)


def test_the_average_per_step_has_its_closed_form():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    recipe = models.recipe_of({"recipe": Entries(tiny.params()).recipe("unified", {})[0]})
    for buffers in ("copied", "averaged"):
        recipe = replace(recipe, ema_decay=0.75, ema_start=2, ema_buffers=buffers)
        ema, values = Ema([net], recipe), []
        for epoch in (1, 1, 2, 2, 3):
            with torch.no_grad():
                for tensor in (*net.parameters(), net[1].running_mean):
                    tensor.uniform_()
                net[1].num_batches_tracked += 1
            ema.update([net], epoch)
            values.append({n: v.clone().double() for n, v in net.state_dict().items()})
        found = ema.weights([net])
        for name, last in values[4].items():
            expected = 0.75**2 * values[2][name] + 0.75 * 0.25 * values[3][name] + 0.25 * last
            is_parameter = name in dict(net.named_parameters())
            is_mean = name.endswith("running_mean") and buffers == "averaged"
            expected = expected if is_parameter or is_mean else last
            assert torch.allclose(found[f"0.{name}"].double(), expected)
        again = Ema([net], recipe)
        again.restore(ema.state())
        assert all(torch.equal(v, again.weights([net])[n]) for n, v in found.items())


def test_an_average_per_step_is_what_is_validated_and_written(tmp_path, monkeypatch):
    recipe = {"ema_decay": 0.9, "ema_start": 2}
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=2, **recipe))
    run, plain = tiny.one_run(plan, "pgd_at"), tiny.changed(epochs=2)
    snapshots = kept(plan, run)
    found = validated(plan, run, snapshots[1], "validation")
    row = tiny.history(run)[1]
    assert found == (float(row["val_clean"]), float(row["val_robust"]))
    other = tiny.place(tmp_path / "plain", monkeypatch, plain)
    bare = kept(other, tiny.one_run(other, "pgd_at"))
    assert all(torch.equal(v, snapshots[0][n]) for n, v in bare[0].items())
    assert any(not torch.equal(v, snapshots[1][n]) for n, v in bare[1].items())


# ---- half precision


def test_in_half_precision_a_member_still_sees_its_peers_latest_weights(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(precision="bf16", lr=0.5))
    run = tiny.one_run(plan, "aute", 3)
    one, other = (Trainer(plan, run, tiny.CPU, None) for _ in range(2))
    batch = next(batches(one.split, run.dataset, 32, 0, 1))
    for trainer in (one, other):
        trainer._set_rate(0.0)
        for member in trainer.training.members:
            member.train()
    one._step(batch)
    training, half = other.training, {"device_type": "cpu", "dtype": torch.bfloat16}
    with torch.autocast(**half):
        adversarial = training.craft(batch)
    for index in range(3):
        with torch.autocast(**half):
            losses = other.method.loss(training, index, batch, adversarial)
            assert losses.dtype == torch.float32
        training.update(index, losses)
    for a, b in zip(one.training.members, training.members, strict=True):
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
