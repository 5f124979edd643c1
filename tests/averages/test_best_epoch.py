"""The best of an average's epochs is what a plain loop over them finds, and resumes."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import trajectories
from torch import nn

from pipeline import average as command
from pipeline.average import make_average
from pipeline.core.ensemble import combine
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.loading import models
from pipeline.loading.images import load_split
from pipeline.plan import Plan
from pipeline.store.files import load_safetensors
from pipeline.store.scratch import read_scratch, write_scratch
from pipeline.training.averaging import Judge, best
from pipeline.training.validate import accuracies


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    """A workplace with a trajectory of epochs 2 to 4, entered."""
    trajectories.copied(tmp_path, monkeypatch)
    plan = Plan(trajectories.changed())
    tiny.one_run(plan, "meat_best")
    return plan


def judged(plan: Plan, folder: Path) -> tuple[float, float]:
    """Accuracies on validation images of weights on disk."""
    spec = tiny.one_run(plan, "pgd_at").spec
    split = load_split(plan.dataset("digits"), "validation", tiny.CPU)
    (net,) = models.build_members(spec, split, tiny.CPU)
    weights = weights_in(folder)
    net.load_state_dict({k.removeprefix("0."): v for k, v in weights.items()})
    attack = Judge(spec, tiny.one_run(plan, "pgd_at"), tiny.CPU).attack
    return accuracies(combine("single", [net]), split, attack, spec["seed"])


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_safetensors(folder / "weights.safetensors", "")[0]


def test_its_weights_are_those_of_the_average_that_stops_there_and_no_other_is_better(here):
    run = tiny.one_run(here, "meat_best")
    make_average(here, run, tiny.CPU)
    details = json.loads((run.folder / "run.json").read_text())
    assert sorted(details["epochs"]) == ["0002", "0003", "0004"]
    scores = {}
    for stop in (2, 3, 4):
        changed = trajectories.changed()
        changed["averages"][f"to{stop}"] = {"base": "meat", "stop": 30 * stop}  # of 120 epochs
        other = Plan(changed)
        ending = tiny.one_run(other, f"to{stop}")
        assert ending.spec["average"]["fields"]["stop"] == stop
        make_average(other, ending, tiny.CPU)
        scores[f"{stop:04d}"] = (judged(other, ending.folder), ending.folder)
    for epoch, ((clean, robust), _) in scores.items():
        assert details["epochs"][epoch]["clean"] == clean
        assert details["epochs"][epoch]["robust"] == robust
    top = max(robust for (_, robust), _ in scores.values())
    assert details["best"] == min(e for e, ((_, r), _) in scores.items() if r == top)
    mine, theirs = (weights_in(f) for f in (run.folder, scores[details["best"]][1]))
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    spent = sum(e["flops"] for e in details["epochs"].values())
    assert details["flops"] > spent > 0


def test_the_earliest_of_equal_epochs_is_best():
    found = {e: {"robust": r} for e, r in (("0004", 0.5), ("0002", 0.5), ("0003", 0.25))}
    assert best(found) == "0002"


def contents(run):
    """Bytes by file name; what only tells times is none of them."""
    return {p.name: p.read_bytes() for p in run.folder.iterdir() if p.name != "run.time.json"}


def test_killed_it_goes_on_with_the_next_epoch_to_the_same_bytes(here, tmp_path, monkeypatch):
    run = tiny.one_run(here, "meat_best")
    make_average(here, run, tiny.CPU)
    whole = contents(run)
    assert not (tmp_path / "copy/work/runs" / run.id).exists()
    for path in list(run.folder.iterdir()):
        path.unlink()
    asked = type("Asked", (Counting,), {"dies": True})
    monkeypatch.setattr(command, "Judge", asked)
    with pytest.raises(KeyboardInterrupt):
        make_average(here, run, tiny.CPU)
    make_average(here, run, tiny.CPU)
    assert asked.asked == 1 + 1 + 2  # one epoch kept, one killed, two left
    assert contents(run) == whole


class Counting(Judge):
    """Counts what it is asked, and may be killed at the second epoch."""

    asked, dies = 0, False

    def __call__(self, members: list[nn.Module]) -> tuple[float, float]:
        type(self).asked += 1
        if self.dies and self.asked == 2:
            raise KeyboardInterrupt
        return super().__call__(members)


@pytest.mark.parametrize("changed", ["snapshots", "code", "machine"])
def test_scores_of_other_snapshots_code_or_machines_choose_no_epoch(here, monkeypatch, changed):
    run, asked = tiny.one_run(here, "meat_best"), type("Asked", (Counting,), {"dies": True})
    monkeypatch.setattr(command, "Judge", asked)
    with pytest.raises(KeyboardInterrupt):
        make_average(here, run, tiny.CPU)
    if changed == "snapshots":
        path = tiny.one_run(here, "pgd_at").snapshots / "from2.json"
        path.write_text(path.read_text() + "\n")
    elif changed == "code":
        monkeypatch.setattr(command.shared, "code_of", lambda *_: {"core/losses.py:kl": "0"})
    else:
        other = {**device.describe(tiny.CPU), "torch": "0.1"}
        monkeypatch.setattr(device, "describe", lambda _: other)
    asked.asked, asked.dies = 0, False
    make_average(here, run, tiny.CPU)
    assert asked.asked == 3


def test_the_seconds_of_an_average_are_those_of_all_its_processes(here, monkeypatch):
    run, asked = tiny.one_run(here, "meat_best"), type("Asked", (Counting,), {"dies": True})
    monkeypatch.setattr(command, "Judge", asked)
    with pytest.raises(KeyboardInterrupt):
        make_average(here, run, tiny.CPU)
    (state,) = run.work.iterdir()
    kept = json.loads(read_scratch(state) or b"")
    kept["0002"]["seconds"] = 1000
    write_scratch(state, json.dumps(kept).encode())
    make_average(here, run, tiny.CPU)
    assert json.loads((run.folder / "run.time.json").read_text())["seconds"] > 1000
    assert "seconds" not in (run.folder / "run.json").read_text()


def test_a_recipe_that_validates_nothing_has_no_best_epoch(tmp_path, monkeypatch):
    changed = trajectories.changed()
    changed["recipes"]["unified"]["select"] = "lowest_train_loss"
    plan = tiny.place(tmp_path, monkeypatch, changed)
    with pytest.raises(UserError, match="validates no epoch"):
        tiny.one_run(plan, "meat_best")
