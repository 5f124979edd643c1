"""Average one trajectory: `python -m pipeline.average RUN`."""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from pipeline.contracts.average import Average
from pipeline.core.flops import FlopCount
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models, registry
from pipeline.loading.images import load_training
from pipeline.plan import Plan, Run, frozen, load_part, shared
from pipeline.plan.params.words import digest
from pipeline.store import checkpoint
from pipeline.store.files import sha256_of
from pipeline.store.lease import check_held, hold
from pipeline.store.sums import sum_of, write_together
from pipeline.training.averaging import BatchNormPass, Judge, averaged, best, scores, snapshot_paths


def make_average(plan: Plan, run: Run, where: torch.device) -> None:
    """Write the folder of one average, weights last."""
    started, code = time.monotonic(), shared.code_of(plan, run)
    average: Average = registry.build("averages", run.spec["average"])
    spec = plan.training(run).spec
    recipe = models.recipe_of(spec)
    split = load_training(run.dataset, recipe.train_images, recipe.held_out, where)

    source = plan.run(run.parents[0]).folder
    counter = FlopCount()

    def made(paths: list[Path]) -> list[nn.Module]:
        members = models.build_members(spec, split, where)
        checkpoint.distribute(averaged(paths, average), members, source)
        name = paths[-1].stem  # of a snapshot its epoch
        last = int(name) if name.isdecimal() else recipe.epochs
        BatchNormPass(spec, run, split, average, last).apply(members)
        return members

    paths, work = snapshot_paths(plan, run, average), run.work
    rests_on = {source.as_posix(): sum_of(plan.run(run.parents[0]).weights)}
    details = {"id": run.id, "spec": run.spec, "inherited": models.inherited_flops([source])}
    if run.spec.get("best"):
        judge = Judge(spec, run, where)
        # Scores of other snapshots, code or machines are none of this average's.
        index = paths[0].with_name(f"from{int(paths[0].stem)}.json")
        made_by = {key: device.describe(where)[key] for key in device.MACHINE}
        made_by |= {"index": sha256_of(index), **code}
        scored, before = scores(paths, made, judge, work / f"scores-{digest(made_by)}.json")
        started -= before
        chosen = best(scored)
        paths = [path for path in paths if path.stem <= chosen]
        details |= {"best": chosen, "epochs": scored}
        counter.total = sum(score["flops"] for score in scored.values())

    with counter:
        members = made(paths)

    check_held()
    text = json.dumps({**details, "flops": counter.total}, indent=1, sort_keys=True) + "\n"
    last = run.weights
    content = checkpoint.content(last, checkpoint.view(members))
    files = {run.folder / "run.json": text.encode(), last: content}
    times = device.times(time.monotonic() - started, where)
    write_together(files, {**times, "shared": code, "rests_on": rests_on})
    frozen.discard(work)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.average", description=__doc__)
    parser.add_argument("run", help="id of an average, as python -m pipeline.plan lists them")
    run_id = Path(parser.parse_args(argv).run).name
    plan = load_part(run_id)
    run = plan.run(run_id)
    if run.stage != "average":
        raise UserError(f"{run.id} is a training: use python -m pipeline.train {run.id}")

    where = device.select(plan.entries.device, plan.entries.threads)
    with hold(f"runs/{run.id}"):
        if run.is_here():
            print(f"{run.id}: is up to date, nothing to do")
            return
        make_average(plan, run, where)
    print(f"{run.id}: averaged")


if __name__ == "__main__":
    report(main)
