"""Trajectories that are missing, altered or derived again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from trajectories import changed, copied, made, weights_of

from pipeline import average, train
from pipeline.errors import Interrupted, UserError
from pipeline.plan import Plan, frozen, shared
from pipeline.share import writer
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.training.trainer import Trainer


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    """A workplace with a trajectory, entered."""
    return copied(tmp_path, monkeypatch)


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


def restate(plan: Plan, **changed: Any) -> None:
    """The index of the snapshots that lie there now, as one who knows how it is written."""
    run = tiny.one_run(plan, "pgd_at")
    sums = {p.name: sha256_of(p) for p in run.snapshots.glob("*.safetensors")}
    said = {"weights": sha256_of(run.folder / "weights.safetensors"), "snapshots": sums}
    index_of(plan).write_text(json.dumps(said | changed))


def test_an_index_of_other_epochs_or_names_is_refused(here):
    restate(here)
    sums = json.loads(index_of(here).read_text())["snapshots"]
    fewer = {name: sums[name] for name in list(sums)[1:]}
    damaged = [fewer, {}, [], 5, sums | {"../x.safetensors": "0" * 64}, sums | {"abc": "0" * 64}]
    for snapshots in [*damaged, dict.fromkeys(sums, 1)]:
        restate(here, snapshots=snapshots)
        assert "from2.json: is damaged" in refusal(here)
    for whole in ("{}", "[]", '"abc"', "[" * 100_000):
        index_of(here).write_text(whole)
        assert "from2.json: is damaged" in refusal(here)


def test_snapshots_that_led_to_other_weights_than_those_that_count_make_no_average(here):
    """A run that gave way in a merge leaves its epochs; the winner's weights come by a pull."""
    run = tiny.one_run(here, "pgd_at")
    path = run.folder / "weights.safetensors"
    won = {name: value + 1 for name, value in weights_of(run).items()}
    path.with_name("run.time.json").unlink()
    checkpoint.save(path, won)
    assert "from2.json: its snapshots led to other weights than" in refusal(here)


def test_altered_last_weights_are_refused(here):
    path = tiny.one_run(here, "pgd_at").folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "weights.safetensors: is not what its job wrote" in refusal(here, "last_bn")
    path.with_name("run.time.json").unlink()
    assert "weights.safetensors: truncated or corrupt" in refusal(here, "last_bn")
    path.unlink()
    assert "weights.safetensors: is missing" in refusal(here, "last_bn")


def test_the_command_refuses_a_training_and_a_finished_average_is_left_alone(here, capsys):
    trained, meat = tiny.one_run(here, "pgd_at"), tiny.one_run(here, "meat")
    asked = changed()
    asked["tables"]["table1"]["rows"] = ["meat"]
    writer.write(Path(), asked)
    with pytest.raises(UserError, match="is a training: use python -m pipeline.train"):
        average.main([trained.id])
    average.main([meat.id])
    before = (meat.folder / "weights.safetensors").stat()
    average.main([str(meat.folder)])
    assert "nothing to do" in capsys.readouterr().out
    assert (meat.folder / "weights.safetensors").stat() == before


# ---- derived again


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
def test_what_an_index_vouches_for_outlives_a_derivation_that_fails(here):
    """An average with an earlier start is added, and the node is of another kind."""
    run = tiny.one_run(here, "pgd_at")
    (run.snapshots / "0002.safetensors").unlink()
    index_of(here).unlink()
    train._trajectory(run, 3).write_index()
    weights = weights_of(run)
    path = run.folder / "run.time.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "0.1"}))
    before = sums(run.snapshots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "last", lambda _: {n: v + 1 for n, v in weights.items()})
        with pytest.raises(UserError, match=r"other than in .*: torch 0\.1, here \d") as raised:
            rederive(here)
    assert str(path) in tiny.line(raised)
    assert sums(run.snapshots) == before and not run.work.exists()
    rederive(here)
    assert sums(run.snapshots).items() >= before.items()
    assert index_of(here).exists() and (run.snapshots / "0002.safetensors").exists()


@pytest.mark.slow
def test_a_derivation_goes_on_where_it_was_stopped_and_when_its_index_is_gone(here, monkeypatch):
    run = tiny.one_run(here, "pgd_at")
    before = sums(run.snapshots)
    shutil.rmtree(run.snapshots)
    trainer = Trainer(here, run, tiny.CPU, 2)
    trainer.method = tiny.StopAfter(trainer.method, 10)  # in epoch 3
    with pytest.raises(Interrupted):
        trainer.fit()
    assert Trainer(here, run, tiny.CPU, 2).training.epoch == 3 and not run.snapshots.exists()

    monkeypatch.setattr(frozen, "discard", lambda work: None)  # as in a workflow
    rederive(here)
    assert sums(run.snapshots) == before
    assert {path.name for path in run.work.iterdir()} == {shared.ORIGIN, run.state.name}
    index_of(here).unlink()  # by Snakemake, as an output of the job that it is about to start
    monkeypatch.setattr(Trainer, "_epoch", None)
    rederive(here)
    assert sums(run.snapshots) == before


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
    restate(here)
    assert "do not fit this arch" in refusal(here)
