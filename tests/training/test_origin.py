"""What a training rests on that its name does not say: kept, compared when it goes on, stated."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from pipeline import train
from pipeline.errors import Interrupted
from pipeline.job import device
from pipeline.plan import Plan, Run, shared
from pipeline.plan.params import references
from pipeline.store import checkpoint
from pipeline.store.scratch import write_scratch
from pipeline.training import resume
from pipeline.training.graphs import choose_graphs
from pipeline.training.trainer import Trainer


def interrupt(plan: Plan, run: Run, batches: int = 5) -> None:
    """Stop a training within its second epoch."""
    trainer = Trainer(plan, run, tiny.CPU, None)
    trainer.method = tiny.StopAfter(trainer.method, batches)
    with pytest.raises(Interrupted):
        trainer.fit()


@contextmanager
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Meanwhile cross_entropy is another definition than it is, as after an edit of its file."""
    today = references.shared() | {"core/losses.py:cross_entropy": "0" * 8}
    reach = references.reach
    shared._reach.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(references, "shared", lambda: today)
        patch.setattr(references, "reach", lambda starts: {n: today[n] for n in reach(starts)})
        yield
    shared._reach.cache_clear()


def stated(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "run.time.json").read_text())


def aside(run: Run) -> list[Path]:
    return list(run.work.glob(f"{run.state.name}.*"))


@pytest.fixture
def plain(tmp_path, monkeypatch) -> tuple[Plan, Run]:
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=2, validate_every=0))
    return plan, tiny.one_run(plan, "standard")


def test_a_training_does_not_go_on_under_other_shared_code(plain, monkeypatch, capsys):
    plan, run = plain
    with edited(monkeypatch):
        interrupt(plan, run)
    whole = run.state.read_bytes()
    trainer = Trainer(plan, run, tiny.CPU, None)
    assert (trainer.training.epoch, trainer.done) == (1, 0)
    (kept,) = aside(run)
    why = "was saved by other shared code (pipeline/core/losses.py), so this begins anew"
    assert f"{run.state}: {why}; it is kept as {kept}\n" in capsys.readouterr().out
    assert kept.read_bytes() == whole and not run.state.exists()
    trainer.fit()
    train.write(trainer)
    today = references.shared()
    assert stated(run)["shared"] == {name: today[name] for name in shared.code_of(plan, run)}


def test_a_state_that_was_set_aside_is_gone_on_from_where_the_edit_is_undone(
    plain, monkeypatch, capsys
):
    plan, run = plain
    interrupt(plan, run)
    whole = run.state.read_bytes()
    with edited(monkeypatch):
        assert Trainer(plan, run, tiny.CPU, None).training.epoch == 1
    assert len(aside(run)) == 1 and not run.state.exists()
    capsys.readouterr()
    assert Trainer(plan, run, tiny.CPU, None).training.epoch == 2
    assert aside(run) == [] and run.state.read_bytes() == whole
    assert "was set aside and fits again, so this goes on from it" in capsys.readouterr().out


def test_what_lies_aside_and_is_no_state_ends_no_training(plain):
    """Of an older torch, whose version is a class that no state may hold."""
    plan, run = plain
    interrupt(plan, run)
    run.state.unlink()
    other = run.state.with_name(f"{run.state.name}.0a1b2c3d")
    write_scratch(other, lambda file: torch.save({"torch": torch.__version__, "x": object}, file))
    assert Trainer(plan, run, tiny.CPU, None).training.epoch == 1 and other.exists()


def test_a_plan_says_which_interrupted_trainings_begin_anew(plain, monkeypatch, capsys):
    plan, run = plain
    with edited(monkeypatch):
        interrupt(plan, run)
    capsys.readouterr()
    shared.warn(plan)
    said = capsys.readouterr().err
    assert "since 1 interrupted trainings were saved (pipeline/core/losses.py)" in said
    assert f"such as {run.id}: they begin anew; undo the change and they go on" in said

    shutil.rmtree(run.work)
    run.work.write_text("a file in its place")  # its job says so; no trace before any
    shared.warn(plan)
    assert "interrupted" not in capsys.readouterr().err


def test_code_that_is_proven_equal_goes_on(plain, monkeypatch):
    plan, run = plain
    name, today = "core/losses.py:cross_entropy", shared.code_of(plan, run)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "code_of", lambda *_: today | {name: "0" * 8})
        interrupt(plan, run)
    monkeypatch.setattr(shared, "_read_equal", lambda *_: ({name: ["0" * 8, today[name]]}, ""))
    assert Trainer(plan, run, tiny.CPU, None).training.epoch == 2


def test_on_another_machine_it_goes_on_and_both_are_stated(plain, monkeypatch):
    plan, run = plain
    with monkeypatch.context() as patch:
        other = {**device.describe(tiny.CPU), "cpu": "AVX1"}
        patch.setattr(resume, "describe", lambda _: other)
        interrupt(plan, run)
    trainer = Trainer(plan, run, tiny.CPU, None)
    assert trainer.training.epoch == 2
    trainer.fit()
    train.write(trainer)
    here = device.describe(tiny.CPU)
    assert stated(run)["cpu"] == f"AVX1, then {here['cpu']}"
    assert stated(run)["device"] == here["device"] and stated(run)["fused"] is False


def test_a_state_of_other_keys_is_older_and_not_damaged(plain, capsys):
    plan, run = plain
    interrupt(plan, run)
    state = checkpoint.load_state(run.state, run.id)
    assert state is not None
    del state["origin"]
    checkpoint.save_state(run.state, state)
    capsys.readouterr()
    assert Trainer(plan, run, tiny.CPU, None).training.epoch == 1
    said = capsys.readouterr().out
    assert "was saved by another version of this code" in said and "damaged" not in said
    assert len(aside(run)) == 1


# ---- parents


@pytest.fixture
def taught(tmp_path, monkeypatch) -> tuple[Plan, Run, Run]:
    """A student that is not trained, and its teacher that is."""
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=2, validate_every=0))
    student = tiny.one_run(plan, "hat")
    (teacher,) = map(plan.run, student.parents)
    train.train(plan, teacher, tiny.CPU, None)
    return plan, student, teacher


def test_a_student_does_not_go_on_beside_another_teacher(taught, capsys):
    plan, student, teacher = taught
    interrupt(plan, student)
    assert Trainer(plan, student, tiny.CPU, None).training.epoch == 2
    summed = tiny.replaced(teacher)
    train.train(plan, student, tiny.CPU, None)
    said = f"was saved beside other weights of {teacher.folder}, so this begins anew"
    assert said in capsys.readouterr().out
    assert stated(student)["rests_on"] == {str(teacher.folder): summed}
    resumed = tiny.sums(student)

    for path in student.folder.iterdir():
        path.unlink()
    train.train(plan, student, tiny.CPU, None)
    assert tiny.sums(student) == resumed


# ---- derived again


def test_a_finished_run_is_made_again_with_the_optimisers_step_that_it_had(plain):
    plan, run = plain
    tiny.trained(plan, "standard")
    path, gpu = run.folder / "run.time.json", torch.device("cuda")
    steps = tiny.changed(epochs=2, validate_every=0)
    steps["resources"]["train"]["graphs"] = "steps"
    for fused, usual, asked in ((True, "steps", "steps"), (False, "crafting", "crafting")):
        path.write_text(json.dumps({"fused": fused}))
        assert choose_graphs(plan, run, gpu) == usual
        assert choose_graphs(Plan(steps), run, gpu) == asked
        assert choose_graphs(plan, run, tiny.CPU) == "none"
    path.write_text("{}")
    assert choose_graphs(Plan(steps), run, gpu) == "steps"
