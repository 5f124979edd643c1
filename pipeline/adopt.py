"""Take in weights that were trained elsewhere: `python -m pipeline.adopt RUN`.

Files of tensors, read without running code from them, become a run's folder.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import fitting, models
from pipeline.loading.images import load_split
from pipeline.plan import Plan, Run, load_part, shared
from pipeline.store import checkpoint
from pipeline.store.lease import hold
from pipeline.store.sums import write_together


def adopt(plan: Plan, run: Run) -> None:
    """Write the folder of one adopted run, weights last."""
    started = time.monotonic()
    split = load_split(run.dataset, "test", torch.device("cpu"))
    members = models.build_members(run.spec, split, torch.device("cpu"))

    fitting.adopt(members, run.spec, run.files)

    details = {"id": run.id, "spec": run.spec, "flops": 0, "inherited": {}}
    text = json.dumps(details, indent=1, sort_keys=True) + "\n"
    last = run.weights
    content = checkpoint.content(last, checkpoint.view(members))
    files = {run.folder / "run.json": text.encode(), last: content}
    times = device.times(time.monotonic() - started, torch.device("cpu"))
    write_together(files, {**times, "shared": shared.code_of(plan, run)})


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.adopt", description=__doc__)
    parser.add_argument("run", help="id of an adopted run, as python -m pipeline.plan lists them")
    given = Path(parser.parse_args(argv).run).name
    plan = load_part(given)
    run = plan.run(given)
    if run.stage != "adopt":
        raise UserError(f"{run.id} is trained here: use python -m pipeline.{run.stage} {run.id}")

    device.select("cpu", plan.entries.threads)
    with hold(f"runs/{run.id}"):
        if run.is_here():
            print(f"{run.id}: is up to date, nothing to do")
            return
        adopt(plan, run)


if __name__ == "__main__":
    report(main)
