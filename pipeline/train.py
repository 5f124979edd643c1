"""Train one run: `python -m pipeline.train RUN [--snapshots-from EPOCH | --alone]`.

Killed at any moment, the same command resumes to the same weights. SIGTERM and SIGUSR1 save the
state after the current batch and exit with code 75.
"""

import argparse
import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster import pack
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models
from pipeline.plan import Plan, Run, frozen, load_part
from pipeline.store import checkpoint
from pipeline.store.files import Content, sha256_of
from pipeline.store.lease import check_held, hold
from pipeline.store.snapshots import Trajectory
from pipeline.store.sums import beside, read_mapping, write_together
from pipeline.training.trainer import Trainer

FIELDS = ("epoch", "lr", "loss", "val_clean", "val_robust")
SHOWN = (*device.MACHINE, "fused")  # of what a run's bytes follow from; the rest is many sums


def _csv(history: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _describe_making(trainer: Trainer) -> dict[str, Any]:
    """What a training's bytes follow from that its name does not say."""
    origin = trainer.origin
    machines = {key: ", then ".join(origin[key]) for key in device.MACHINE}
    return {**origin, **machines, "fused": trainer.updates.is_fused}


def write(trainer: Trainer) -> None:
    """Write the run's folder, weights last: they say that it is complete."""
    run, folder, last = trainer.run, trainer.run.folder, trainer.last()
    check_held()
    inherited = models.inherited_flops([Path("results/runs") / parent for parent in run.parents])
    details = {"id": run.id, "spec": run.spec, "flops": trainer.flops, "inherited": inherited}

    files: dict[Path, Content] = {
        folder / "history.csv": _csv(trainer.history).encode(),
        folder / "run.json": _json(details),
    }

    best = trainer.best[1] if trainer.best else last
    for name, weights in (("best", best), ("weights", last)):
        path = folder / f"{name}.safetensors"
        files[path] = checkpoint.content(path, weights)

    times = device.times(trainer.seconds, trainer.device)
    write_together(files, {**times, **_describe_making(trainer)})


def train(plan: Plan, run: Run, where: torch.device, snapshots: int | None) -> None:
    """Train a run to its folder, or only re-derive its snapshots."""
    if snapshots is not None and run.is_here():
        _rederive(plan, run, where, snapshots)
    else:
        run.weights.unlink(missing_ok=True)  # of a folder with a hole
        trainer = Trainer(plan, run, where, snapshots)
        trainer.fit()
        write(trainer)

    if snapshots is not None:
        _trajectory(run, snapshots).write_index()
    if not pack.members():  # else Snakemake takes the outputs when its turn comes
        frozen.discard(run.work)


def _rederive(plan: Plan, run: Run, where: torch.device, first: int) -> None:
    """Make the missing snapshots of a finished run; its weights must come out again."""
    if any(_is_whole(_trajectory(run, earlier)) for earlier in range(1, first + 1)):
        return
    trainer = Trainer(plan, run, where, first)
    trainer.fit()

    trial = run.work / "last.safetensors"
    checkpoint.save(trial, trainer.last())
    same = sha256_of(trial) == sha256_of(run.weights)
    trial.unlink()
    if not same:
        shutil.rmtree(run.work)  # of another trajectory: nobody may take it for this one's
        raise UserError(
            f"{run.folder}: training again on this machine gave other weights than the recorded "
            f"ones, so their trajectory cannot be re-derived here{_compare_making(trainer)}: "
            "derive it as they were trained, or delete the run to replace it"
        )

    if trainer.kept != run.snapshots:
        for path in _trajectory(run, first).paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(trainer.kept / path.name, path)  # a rename, where both lie on one disk
        shutil.rmtree(trainer.kept)


def _compare_making(trainer: Trainer) -> str:
    """What differs from what a finished run states of its making, in brackets; empty if nothing."""
    path = beside(trainer.run.weights)
    stated, here = read_mapping(path), _describe_making(trainer)
    other = [key for key in here if key in stated and stated[key] != here[key]]
    shown = [f"{key} {stated[key]}, here {here[key]}" for key in other if key in SHOWN]
    shown += [key for key in other if key not in SHOWN]
    return f" (other than in {path}: {'; '.join(shown)})" if shown else ""


def _trajectory(run: Run, first: int) -> Trajectory:
    last = run.spec["recipe"]["epochs"]
    return Trajectory(run.snapshots, first, last, run.weights)


def _is_whole(trajectory: Trajectory) -> bool:
    """Whether an earlier index vouches for every snapshot: they led to the weights here."""
    try:
        trajectory.check()
    except UserError:
        return False
    return True


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description=__doc__)
    parser.add_argument("run", help="id of a run, as `python -m pipeline.plan TARGET` lists them")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--snapshots-from", type=int, metavar="EPOCH", help="keep epochs from here")
    other.add_argument("--alone", action="store_true", help="not those that share its job")
    args = parser.parse_args(argv)

    plan = load_part(args.run, *pack.members())
    run = plan.run(Path(args.run).name)
    if run.stage != "train":
        raise UserError(f"{run.id} is an average: use python -m pipeline.average {run.id}")

    snapshots, epochs = args.snapshots_from, run.spec["recipe"]["epochs"]
    if snapshots is not None and not 1 <= snapshots <= epochs:
        raise UserError(f"--snapshots-from {snapshots}: {run.id} has the epochs 1 to {epochs}")

    where = device.select(plan.entries.device, plan.entries.threads)
    if snapshots is None and not args.alone:
        pack.train(plan, run)
    with hold(f"runs/{run.id}"):
        _train_once(plan, run, where, snapshots)


def _train_once(plan: Plan, run: Run, where: torch.device, snapshots: int | None) -> None:
    if snapshots is None:
        if run.is_here():
            print(f"{run.id}: is up to date, nothing to do")
            return
        snapshots = plan.snapshots_from(run.id)
    train(plan, run, where, snapshots)


if __name__ == "__main__":
    report(main)
