"""What a training refuses, each in one line."""

import math
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from pipeline import train
from pipeline.contracts.training import Batch
from pipeline.errors import Interrupted, UserError
from pipeline.job import device
from pipeline.loading import models
from pipeline.loading.images import load_split
from pipeline.plan import Plan, Run, shared
from pipeline.share import writer
from pipeline.store import checkpoint
from pipeline.training.trainer import Trainer


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> tuple[Plan, Run, Path]:
    """A training interrupted in its first epoch, and its resume state."""
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=1))
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, None)
    trainer.method = tiny.StopAfter(trainer.method, 1)
    with pytest.raises(Interrupted):
        trainer.fit()
    return plan, run, Path("work/runs", run.id, "state.pt")


DAMAGE = {
    "cut": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "garbage": lambda c: b"garbage" * 100,
    "one bit": lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :],
    "longer": lambda c: c + b"x",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_resume_state_is_thrown_away(stopped, kind, capsys):
    plan, run, state = stopped
    state.write_bytes(DAMAGE[kind](state.read_bytes()))
    trainer = Trainer(plan, run, tiny.CPU, None)
    assert trainer.training.epoch == 1 and trainer.done == 0 and not state.exists()
    assert f"{state}: is damaged, so it is thrown away and made again" in capsys.readouterr().out


def test_a_resume_state_of_another_plan_is_thrown_away(stopped):
    plan, run, state = stopped
    other = tiny.one_run(plan, "pgd_at")
    target = Path("work/runs", other.id, "state.pt")
    target.parent.mkdir()
    target.write_bytes(state.read_bytes())
    trainer = Trainer(plan, other, tiny.CPU, None)
    assert trainer.training.epoch == 1 and trainer.done == 0 and not target.exists()


def test_truncated_missing_or_foreign_weights_are_refused(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=1))
    (run,) = tiny.trained(plan, "standard")
    split, path = load_split(run.dataset, "test", tiny.CPU), run.folder / "weights.safetensors"
    whole = path.read_bytes()
    path.with_name("run.time.json").unlink()  # its sum alone would refuse all that follows
    (wide,) = models.build_members(
        {**run.spec, "arch": {**run.spec["arch"], "fields": fields(width=8)}}, split, tiny.CPU
    )
    with pytest.raises(UserError, match="do not fit this arch") as raised:
        checkpoint.load(path, [wide])
    tiny.line(raised)
    for content in (whole[:-10], b"", whole[:4]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or corrupt") as raised:
            models.load_members(plan, run, "last", split, tiny.CPU)
        assert "dvc pull" in tiny.line(raised) and str(path) in tiny.line(raised)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        models.load_members(plan, run, "last", split, tiny.CPU)


def fields(**other: Any) -> dict[str, Any]:
    return {"blocks": 1, "width": 4, "shortcut": "conv", "leaky": 0.0, **other}


@pytest.mark.parametrize("row", ["standard", "aute"])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path, monkeypatch, row):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=2))
    monkeypatch.setattr("pipeline.training.trainer.learning_rate", lambda *_: 1e30)
    run = tiny.one_run(plan, row, 2 if row == "aute" else 1)
    with pytest.raises(UserError, match="the loss is (nan|-?inf) in epoch 1; lower lr") as raised:
        train.train(plan, run, tiny.CPU, None)
    assert run.id in tiny.line(raised) and not run.folder.exists()


def test_no_state_is_saved_after_a_loss_that_is_no_number(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=2))
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, None)

    def step(batch: Batch) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return torch.tensor(torch.nan)

    monkeypatch.setattr(trainer, "_step", step)
    with pytest.raises(UserError, match="the loss is nan in epoch 1; lower lr") as raised:
        trainer.fit()
    assert "mean and std" in tiny.line(raised) and not run.state.exists()


def test_no_step_waits_for_its_loss(tmp_path, monkeypatch):
    """A loss is read once an epoch: on a GPU every reading waits for all that was launched."""
    plan = tiny.place(tmp_path, monkeypatch, tiny.params(epochs=2, validate_every=0))
    trainer = Trainer(plan, tiny.one_run(plan, "pgd_at"), tiny.CPU, None)
    reads, plain = [], torch.Tensor.__float__

    def read(self: torch.Tensor) -> float:
        reads.append(trainer.done)
        return plain(self)

    monkeypatch.setattr(torch.Tensor, "__float__", read)
    monkeypatch.setattr("pipeline.store.checkpoint.check_finite", lambda *_: None)
    monkeypatch.setattr(trainer, "_save_state", lambda _: None)
    trainer.fit()
    assert len(reads) == 2 and min(reads) > 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(UserError, match="device is cuda but torch sees no GPU") as raised:
        device.select("cuda", 1)
    tiny.line(raised)


@contextmanager
def small_files(limit: int) -> Any:
    """No file may grow beyond `limit` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python would leave cut ones
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before


def test_a_full_disk_is_one_line_and_leaves_the_old_files(stopped):
    plan, run, state = stopped
    before = state.read_bytes()
    with small_files(20_000), pytest.raises(UserError, match="cannot be written") as raised:
        train.train(plan, run, tiny.CPU, None)
    assert str(state) in tiny.line(raised)
    assert state.read_bytes() == before
    assert sorted(path.name for path in state.parent.iterdir()) == [shared.ORIGIN, state.name]
    train.train(plan, run, tiny.CPU, None)
    assert math.isfinite(float(tiny.history(run)[0]["loss"]))


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_one_line(tmp_path, monkeypatch):
    asked = tiny.changed(epochs=1)
    plan = tiny.place(tmp_path, monkeypatch, asked)
    asked["tables"]["table1"]["rows"] = ["pgd_at_single"]
    writer.write(Path(), asked)
    run = tiny.one_run(plan, "pgd_at")
    with small_files(20_000):
        found = subprocess.run(
            tiny.command(run), capture_output=True, text=True, env=tiny.environment()
        )
    assert found.returncode == 1
    assert found.stderr.startswith("error: work/runs/") and found.stderr.count("\n") == 1
    assert not run.folder.exists() and not list(Path("work").rglob("*.tmp"))
