"""Trainings that are interrupted end in the bytes of those that are not."""

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from projects import ROOT

from pipeline import train
from pipeline.contracts.method import Method
from pipeline.core.losses import cross_entropy
from pipeline.errors import Interrupted
from pipeline.job.signals import StopRequest
from pipeline.loading import models
from pipeline.plan import Plan, Run
from pipeline.store import checkpoint
from pipeline.training.trainer import Trainer

DRAWN = {"helper": "drawn", "joint": True, "combine": "random_one"}
EMA = {"ema_decay": 0.9, "ema_start": 1}


def fit(plan: Plan, run: Run, *stops: int) -> None:
    """Train, interrupted by SIGTERM after these numbers of batches."""
    for stop in stops:
        trainer = Trainer(plan, run, tiny.CPU, None)
        trainer.method = tiny.StopAfter(trainer.method, stop)
        with pytest.raises(Interrupted, match=run.id):
            trainer.fit()
        assert not run.folder.exists()
    train.train(plan, run, tiny.CPU, None)


@pytest.mark.slow
@pytest.mark.parametrize("row, members, recipe", [
    ("pgd_at", 1, {}),
    ("pgd_at", 1, EMA),
    ("pgd_at", 1, {**EMA, "ema_buffers": "averaged", "select": "lowest_train_loss"}),
    ("aute", 3, {}),
    ("drawn", 3, {}),
    ("seat", 1, {}),
    ("idbh", 1, {}),
])  # fmt: skip
def test_an_interrupted_training_ends_in_the_same_bytes(
    tmp_path, monkeypatch, row, members, recipe
):
    found = []
    for name, stops in (("whole", ()), ("parts", (1, 2, 4))):  # in epochs 1, 1 and 2
        params = tiny.changed(**recipe)
        # A member drawn for every pass of crafting, and one of a random parent
        params["methods"]["drawn"] = {"base": "hat", **DRAWN}
        params["parents"]["drawn"] = {"method": "pgd_at_joint", "members": 2}
        params["methods"]["pgd_at_joint"]["combine"] = "random_one"
        plan = tiny.place(tmp_path / name, monkeypatch, params)
        run = tiny.one_run(plan, row, members)
        for parent in map(plan.run, run.parents):
            train.train(plan, parent, tiny.CPU, None)
        fit(plan, run, *stops)
        found.append(tiny.sums(run))
        assert not Path("work/runs", run.id).exists()
    assert found[0] == found[1]


@dataclass(frozen=True, kw_only=True)
class Counting(Method):
    """Losses weigh by how often an image was seen; another optimiser than the recipe's."""

    optimiser: type[torch.optim.Optimizer] = torch.optim.AdamW

    def setup(self, training):
        return [self.optimiser(net.parameters()) for net in training.networks]

    def loss(self, training, index, batch, adversarial):
        seen = training.memory("seen", 2)
        seen[batch.ids] += 1
        weights = seen[batch.ids].sum(1)
        return weights * cross_entropy(training.members[index](batch.images), batch.labels)


# Adafactor keeps sums of rows and columns, which have no weight's shape.
@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.Adafactor])
def test_what_a_method_keeps_of_every_image_is_saved_and_resumed(
    tmp_path, monkeypatch, capsys, optimiser
):
    method = Counting(joint=False, combine="mean_prob", optimiser=optimiser)
    monkeypatch.setattr(models, "method_of", lambda spec: method)
    found = []
    for name, stops in (("whole", ()), ("parts", (1, 2, 4))):
        plan = tiny.place(tmp_path / name, monkeypatch, tiny.changed())
        run = tiny.one_run(plan, "standard")
        fit(plan, run, *stops)
        found.append(tiny.sums(run))
    assert found[0] == found[1] and "thrown away" not in capsys.readouterr().out

    trainer = Trainer(plan, run, tiny.CPU, None)
    trainer.fit()
    assert torch.equal(trainer.training.memory("seen", 2), torch.full((120, 2), 3.0))


def test_dropout_repeats_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    found = []
    for name, stops in (("whole", ()), ("again", ()), ("parts", (1, 2))):
        asked = tiny.changed(epochs=2)
        asked["scales"]["demo"]["archs"] = {"resnet20": "small_cnn"}
        plan = tiny.place(tmp_path / name, monkeypatch, asked)
        torch.manual_seed(len(found))  # whatever the process drew before
        run = tiny.one_run(plan, "standard")
        fit(plan, run, *stops)
        found.append(tiny.sums(run))
    assert found[0] == found[1] == found[2]


@dataclass(frozen=True, kw_only=True)
class Mixing(Method):
    """Draws from the generators of Python and numpy, as mixup's public code does."""

    def build(self, make, members):
        def shift(net):
            with torch.no_grad():
                next(net.parameters()).add_(np.random.rand() + random.random())
            return net

        return [make.adapted(i, shift) for i in range(members)]

    def loss(self, training, index, batch, adversarial):
        share, turned = np.random.beta(1, 1), random.randrange(1, len(batch.labels))
        mixed = share * batch.images + (1 - share) * batch.images.roll(turned, 0)
        return cross_entropy(training.members[index](mixed), batch.labels)


def test_what_is_drawn_from_numpy_and_python_repeats_and_goes_on_where_it_stopped(
    tmp_path, monkeypatch
):
    """It gave other weights under one name each time."""
    method = Mixing(joint=False, combine="mean_prob")
    monkeypatch.setattr(models, "method_of", lambda spec: method)
    found = []
    for name, stops in (("whole", ()), ("again", ()), ("parts", (1, 2, 5))):
        plan = tiny.place(tmp_path / name, monkeypatch, tiny.changed(epochs=2))
        np.random.seed(len(found))  # whatever the process drew before
        random.seed(len(found))
        run = tiny.one_run(plan, "standard")
        fit(plan, run, *stops)
        found.append(tiny.sums(run))
    assert found[0] == found[1] == found[2]


def start(run: Run) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(tiny.command(run), **pipes, env=tiny.environment())


@pytest.mark.parametrize(("minutes", "saves"), [(0, 3), (10, 1)])
def test_a_state_is_saved_as_often_as_asked_and_behind_the_last_epoch(
    tmp_path, monkeypatch, minutes, saves
):
    asked = tiny.changed(epochs=3, validate_every=0)
    asked["resources"]["train"]["save_minutes"] = minutes
    plan = tiny.place(tmp_path, monkeypatch, asked)
    trainer = Trainer(plan, tiny.one_run(plan, "standard"), tiny.CPU, None)
    found, save = [], checkpoint.save_state
    monkeypatch.setattr(
        checkpoint, "save_state", lambda *s: (found.append(s[1]["epoch"]), save(*s))
    )
    trainer.fit()
    assert len(found) == saves and found[-1] == 4


def test_a_long_epoch_is_saved_within(tmp_path, monkeypatch):
    """A node that dies in an epoch of hours costs `save_minutes`, not hours."""
    found = []
    for name, killed in (("whole", False), ("parts", True)):
        plan = tiny.place(tmp_path / name, monkeypatch, tiny.changed(epochs=2))
        run = tiny.one_run(plan, "standard")
        with monkeypatch.context() as patch, suppress(MemoryError):
            trainer, states = Trainer(plan, run, tiny.CPU, None), []
            trainer.pause = 1e-9

            def save(path, state, states=states, whole=checkpoint.save_state):
                whole(path, state)
                states.append((state["epoch"], state["done"]))
                if len(states) == 2:
                    raise MemoryError

            patch.setattr(checkpoint, "save_state", save)
            if killed:
                trainer.fit()
        if killed:
            assert states == [(1, 1), (1, 2)]
            again = Trainer(plan, run, tiny.CPU, None)
            assert (again.training.epoch, again.done) == (1, 2)
        train.train(plan, run, tiny.CPU, None)
        found.append(tiny.sums(run))
    assert found[0] == found[1]


def test_a_state_is_written_and_read_piece_by_piece():
    done = subprocess.run(
        [sys.executable, "-m", "bench.state", "160"], cwd=ROOT, capture_output=True, text=True
    )
    (_, saving, _), (_, loading, _) = map(str.split, done.stdout.splitlines())
    assert float(saving) < 0.3 and float(loading) < 1.4, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    # of the second, the last kill comes between two saves
    "minutes",
    [0, pytest.param(10, marks=pytest.mark.thorough)],
)
def test_kills_at_random_moments_change_no_byte_and_sigterm_exits_with_75(
    tmp_path, monkeypatch, minutes
):
    asked, draws = tiny.changed(epochs=24, **EMA), random.Random(minutes)
    asked["resources"]["train"]["save_minutes"] = minutes
    asked["tables"]["table1"]["rows"] = ["pgd_at_single"]
    plan = tiny.place(tmp_path / "whole", monkeypatch, asked)
    run = tiny.one_run(plan, "pgd_at")
    fit(plan, run)
    expected = tiny.sums(run)

    tiny.place(tmp_path / "parts", monkeypatch, asked)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(run)
        assert process.stdout is not None and process.stdout.readline()  # an epoch has ended
        begun = time.monotonic()
        assert process.stdout.readline()
        time.sleep(draws.uniform(0, 1) * (time.monotonic() - begun))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (75 if number == signal.SIGTERM else -number)
        if number == signal.SIGTERM:
            assert errors.startswith(f"stopped: {run.id}: saved in epoch")
        assert not run.folder.exists()
    last = start(run)
    last.communicate(timeout=60)
    assert last.returncode == 0 and tiny.sums(run) == expected


def test_other_work_before_it_does_not_change_a_training(tmp_path, monkeypatch):
    found = []
    for name, before in (("alone", ()), ("late", ("standard", "trades"))):
        plan = tiny.place(tmp_path / name, monkeypatch, tiny.changed(epochs=1))
        for row in before:
            tiny.trained(plan, row)
        torch.manual_seed(len(before))
        (run,) = tiny.trained(plan, "pgd_at")
        found.append(tiny.sums(run))
    assert found[0] == found[1]


def test_a_second_sigterm_waits_for_the_saving_a_second_ctrl_c_does_not():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # as SLURM does when it preempts
        assert stop.requested
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_state_without_its_snapshots_says_what_is_made_again(tmp_path, monkeypatch, capsys):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(validate_every=0))
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, 1)
    trainer.method = tiny.StopAfter(trainer.method, 10)  # in epoch 3
    with pytest.raises(Interrupted):
        trainer.fit()
    (run.snapshots / "0001.safetensors").unlink()
    capsys.readouterr()
    assert Trainer(plan, run, tiny.CPU, 1).training.epoch == 1
    made = "are needed and some are missing, so epochs 1 to 2 are made again"
    assert capsys.readouterr().out == f"{run.id}: snapshots from epoch 1 on {made}\n"
