"""Who answers with what is no number decides nothing: asked wherever argmax makes a verdict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from torch import Tensor, nn
from victims import Exact

from pipeline import adopt, transfer
from pipeline.core.ensemble import RULES, combine
from pipeline.errors import UserError
from pipeline.evaluation.verdicts import Evaluation
from pipeline.flags.evidence import read
from pipeline.loading.images import Split
from pipeline.plan import Plan
from pipeline.plan.params.entries import Setting
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.store.records import pack, read_arrays
from pipeline.tools.transferability import matrix
from pipeline.training.trainer import Trainer
from pipeline.training.validate import accuracies

SETTING = Setting("cifar10", "resnet20", "unified", 1, 0)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    return tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=1))


def theirs(here: Plan) -> dict[str, Tensor]:
    """Weights of a trained run as a file of one network names them."""
    (run,) = tiny.trained(here, "standard")
    weights, _ = load_safetensors(run.folder / "weights.safetensors", "")
    return {name.removeprefix("0."): value for name, value in weights.items()}


def take_in(weights: dict[str, Tensor], **changed: Any) -> None:
    """Adopt these weights as a victim of a file."""
    torch.save(weights, "weights.pt")
    params = yaml.safe_load(Path("params.yaml").read_text())
    entry = {"of": "file", "file": "weights.pt", "sha256": sha256_of(Path("weights.pt"))}
    entry |= {"method": "standard", "members": 1, "mean": [0.3], "std": [0.4], "keys": []}
    entry["dataset"] = "digits"
    params["victims"]["mine"] = entry | changed
    plan = Plan(params)
    adopt.adopt(plan, plan.run(plan.name_victim("mine", SETTING).elements[0].run))


def with_value(weights: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    changed = {**weights, name: weights[name].clone()}
    changed[name].view(-1)[0] = value
    return changed


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("head.bias", float("nan"), r"weights\.pt: tensor head\.bias is not finite"),
        ("head.weight", float("inf"), r"weights\.pt: tensor head\.weight is not finite"),
        ("stem.1.running_var", -1.0, r"tensor stem\.1\.running_var is a variance and below 0"),
    ],
)
def test_a_file_with_a_tensor_that_is_no_number_is_refused_by_its_name(here, name, value, text):
    weights = theirs(here)
    take_in(weights)
    with pytest.raises(UserError, match=text) as raised:
        take_in(with_value(weights, name, value))
    tiny.line(raised)


@pytest.mark.parametrize("changed", [{"std": [0]}, {"mean": [33.3]}, {"std": ["-0.2"]}])
def test_statistics_of_no_pixels_are_refused_in_the_plan(here, changed):
    ((key, _),) = changed.items()
    with pytest.raises(UserError, match=f"victims.mine.{key}: .* must be .* at most 1") as raised:
        take_in(theirs(here), **changed)
    tiny.line(raised)


def test_weights_that_are_no_numbers_are_neither_written_nor_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, path = nn.Linear(2, 2), Path("weights.safetensors")
    checkpoint.save(path, checkpoint.view([net]))
    whole = path.read_bytes()
    net.bias.data[1] = torch.nan
    with pytest.raises(UserError, match=r"tensor 0\.bias is not finite; lower lr"):
        checkpoint.save(path, checkpoint.view([net]))
    assert path.read_bytes() == whole
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)
    checkpoint.save(path, checkpoint.view([net]))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"weights\.safetensors: tensor 0\.bias is not finite"):
        checkpoint.load(path, [nn.Linear(2, 2)])


class OverflowsLast:
    """A method whose last update overflows, after a loss that was finite."""

    def __init__(self, method: Any, batches: int) -> None:
        self.method, self.left = method, batches

    def step(self, training: Any, batch: Any) -> Any:
        loss = self.method.step(training, batch)
        self.left -= 1
        if self.left == 0:
            next(training.members[0].parameters()).data.fill_(torch.inf)
        return loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_last_update_that_overflows_ends_the_training(tmp_path, monkeypatch, precision):
    asked = tiny.changed(epochs=1, validate_every=0, precision=precision)
    plan = tiny.place(tmp_path, monkeypatch, asked)
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, None)
    trainer.method = OverflowsLast(trainer.method, 4)  # of 120 images in batches of 32
    with pytest.raises(UserError, match=r"after epoch 1: tensor .* is not finite; lower lr"):
        trainer.fit()
    assert not run.folder.exists()


# ---- scores


class Overflowing(nn.Module):
    """Right by its first pixel, and without an answer where its second one is above 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        first, second = images.flatten(1)[:, :2].T
        scores = torch.stack([first, 1 - first, 0 * first], 1)
        return torch.where(second[:, None] > 0.5, torch.nan, scores)


def split_of(second: int) -> Split:
    images = torch.zeros(12, 1, 8, 8, dtype=torch.uint8)
    images[:6, 0, 0, 0] = 255
    images[:, 0, 0, 1] = second
    labels = torch.tensor([0] * 6 + [1] * 6)
    return Split(images, labels, list("abc"), [0.5], [0.5])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gated"])  # has no gate here
def test_an_evaluation_of_scores_that_are_no_numbers_fails(rule):
    members = [Overflowing(), Exact(classes=3), Exact(classes=3, seed=1)]
    victim = combine(rule, members[:1] if rule == "single" else members).eval()
    Evaluation(victim, split_of(0), list(range(12)))
    victim.name = "mine"
    with pytest.raises(UserError, match="mine: its scores on 12 of 12 images are no finite"):
        Evaluation(victim, split_of(255), list(range(12)))


def test_one_that_an_attack_drives_there_fails_too():
    victim = combine("single", [Overflowing()]).eval()
    attack = {"component": "noise", "fields": {"norm": "linf", "eps": 0.2, "tries": 3}}
    found = Evaluation(victim, split_of(120), list(range(12)))
    with pytest.raises(UserError, match=r"the victim: its scores on \d+ of \d+ images"):
        found.attack("noise", {**attack, "surrogate": "self"})


def test_neither_validation_nor_transferability_count_them():
    nets = [Exact(classes=3), Overflowing()]
    with pytest.raises(UserError, match="validation: its scores on 12 of 12"):
        accuracies(combine("mean_prob", nets), split_of(255), None, 0)
    with pytest.raises(UserError, match="member 1: its scores on 12 of 12"):
        matrix(nets, split_of(255), torch.arange(12), {})


def test_a_transfer_set_is_not_crafted_on_them(here, monkeypatch):
    asked = tiny.changed(epochs=1)
    asked["victims"]["other"] = {"of": "standard", "members": 1, "seed": 90}
    asked["suites"]["black"] = {"attacks": ["mpgd"], "surrogates": ["other"]}
    plan = Plan(asked)
    record = plan.name_record(plan.name_victim("standard", SETTING), "black", SETTING, 30)
    made = plan.set(record.sets[0])
    tiny.train.train(plan, plan.run(made.surrogate.elements[0].run), tiny.CPU, None)
    whole = transfer.models.load_victim

    def scaled(*given: Any) -> nn.Module:
        victim = whole(*given)
        victim.members[0].head.weight.data.fill_(3e38)  # finite, but sums are not
        return victim

    monkeypatch.setattr(transfer.models, "load_victim", scaled)
    with pytest.raises(UserError, match=f"{made.surrogate.id}: its scores on .* no finite"):
        transfer.craft(plan, made, tiny.CPU)
    assert not made.path.exists()


def test_a_record_of_such_scores_is_read_by_nobody(here):
    tiny.made(here, ["standard"])
    record = here.table("table1").cells[0].records["unified"]
    arrays = read_arrays(record.path)
    arrays["pgd10/margin"] = np.full_like(arrays["pgd10/margin"], np.nan)
    tiny.replace(record.path, pack(arrays))
    with pytest.raises(UserError, match="scores under pgd10 are no finite numbers"):
        read(record)
    assert json.loads(str(arrays["meta"]))["suite"] == "unified"
