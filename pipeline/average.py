"""Average one trajectory: `python -m pipeline.average RUN`.

Snapshots are read tensor by tensor, so memory is that of one tensor over all epochs.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.contracts.average import Average
from pipeline.contracts.training import Attack, Batch, Training
from pipeline.core import batchnorm
from pipeline.core.draws import derive
from pipeline.core.ensemble import combine
from pipeline.core.flops import FlopCount
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models, registry
from pipeline.loading.images import Split, batches, cut, load_split
from pipeline.plan import Plan, Run, frozen, load_plan
from pipeline.store import checkpoint, manifest
from pipeline.store.checkpoint import Weights
from pipeline.store.files import load_safetensors, sha256_of, write_atomic
from pipeline.store.lease import check_held, hold
from pipeline.training import best_epoch


def snapshot_paths(plan: Plan, run: Run, average: Average) -> list[Path]:
    """The snapshot files an average takes, verified."""
    source = plan.run(run.parents[0])
    first = getattr(average, "start", None)
    if first is None:
        last = source.folder / "weights.safetensors"
        manifest.verify(last)
        load_safetensors(last, f"pull it again (dvc pull {last}) or delete it and re-run")
        return [last]
    index = source.snapshots / f"from{first}.json"
    command = f"run python -m pipeline.train {source.id} --snapshots-from {first}"
    if not index.exists():
        raise UserError(f"{index}: is missing; {command}")
    try:
        sums = json.loads(index.read_text())
    except ValueError as error:
        raise UserError(f"{index}: is damaged; delete it and {command}") from error
    paths = []
    stop = getattr(average, "stop", 0) or source.spec["recipe"]["epochs"]
    if stop < first:
        raise UserError(f"params.yaml: averages: stop {stop} lies before start {first}")
    for name, expected in sorted(sums.items()):
        if int(Path(name).stem) > stop:
            continue
        path = source.snapshots / name
        if not path.exists() or sha256_of(path) != expected:
            raise UserError(f"{path}: missing or altered; delete it and {index}, {command}")
        paths.append(path)
    return paths


def averaged(paths: list[Path], average: Average) -> Weights:
    """The average of weight files; integer buffers are those of the last."""
    try:
        files: list[Any] = [safe_open(p, framework="pt") for p in paths]
        weights: Weights = {}
        for name in files[-1].keys():  # noqa: SIM118 - not a dict
            last = files[-1].get_tensor(name)
            if last.is_floating_point():
                stack = torch.stack([f.get_tensor(name) for f in files])
                weights[name] = average.combine(stack).contiguous()
            else:
                weights[name] = last
    except (SafetensorError, OSError) as error:
        raise UserError(f"{paths[0].parent}: a snapshot cannot be read ({error})") from error
    return weights


class BatchNormPass:
    """One pass over the augmented training images with the averaged weights."""

    def __init__(self, spec: dict[str, Any], run: Run, split: Split, average: Average) -> None:
        self.spec, self.run, self.split, self.average = spec, run, split, average

    def apply(self, members: list[nn.Module]) -> None:
        """Re-estimate running statistics of every member, jointly crafted where they train so."""
        if self.average.bn_data == "kept":
            return
        torch.manual_seed(derive(self.spec["seed"], "layers"))  # dropout's stream
        adversarial = self.average.bn_data == "adversarial"
        examples = self._examples(members) if adversarial else self._images()
        is_mean = self.average.bn_statistic == "cumulative"
        estimate = batchnorm.reestimate if is_mean else batchnorm.median_of_ema
        estimate(nn.ModuleList(members), examples, lambda images: [m(images) for m in members])

    def _batches(self) -> Iterator[Batch]:
        size, seed = self.spec["recipe"]["batch_size"], self.spec["seed"]
        return batches(self.split, self.run.dataset, size, seed, epoch=0)

    def _images(self) -> Iterator[Tensor]:
        return (batch.images for batch in self._batches())

    def _examples(self, members: list[nn.Module]) -> Iterator[Tensor]:
        """Examples crafted with the averaged weights and the statistics they came with."""
        if self.spec["attack"] is None:
            raise UserError(f"{self.run.id}: bn_data adversarial, but training has no attack")
        attack: Attack = registry.build("attacks", self.spec["attack"])
        frozen = copy.deepcopy(members)  # the pass changes the statistics of the originals
        ensemble = combine(self.spec["method"]["fields"]["combine"], frozen).eval()
        recipe, classes = models.recipe_of(self.spec), len(self.split.names)
        training = Training(frozen, ensemble, recipe, attack, classes)
        return (training.craft(batch) for batch in self._batches())


def make_average(plan: Plan, run: Run, where: torch.device) -> None:
    """Write the folder of one average, weights last."""
    started = time.monotonic()
    average: Average = registry.build("averages", run.spec["average"])
    spec = models.training_spec(plan, run)
    split = load_split(run.dataset, "train", where)
    split = cut(split, spec["recipe"]["train_images"], run.dataset.fields["split_seed"])
    source = plan.run(run.parents[0]).folder
    counter = FlopCount()

    def made(paths: list[Path]) -> list[nn.Module]:
        members = models.build_members(spec, split, where)
        checkpoint.distribute(averaged(paths, average), members, source)
        BatchNormPass(spec, run, split, average).apply(members)
        return members

    paths, work = snapshot_paths(plan, run, average), run.work
    details = {"id": run.id, "spec": run.spec, "inherited": models.inherited_flops([source])}
    if run.spec.get("best"):
        judge = best_epoch.Judge(spec, run, where)
        found = best_epoch.scores(paths, made, judge, work / "scores.json")
        chosen = best_epoch.best(found)
        paths = [path for path in paths if path.stem <= chosen]
        details |= {"best": chosen, "epochs": found}
        counter.total = sum(score["flops"] for score in found.values())
    with counter:
        members = made(paths)
    check_held()
    text = json.dumps({**details, "flops": counter.total}, indent=1, sort_keys=True) + "\n"
    write_atomic(run.folder / "run.json", text.encode())
    device.write_times(run.folder / "run.time.json", time.monotonic() - started, where)
    checkpoint.save(run.folder / "weights.safetensors", checkpoint.collect(members))
    frozen.discard(work)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.average", description=__doc__)
    parser.add_argument("run", help="id of an average, as python -m pipeline.plan lists them")
    run_id = Path(parser.parse_args(argv).run).name
    plan = load_plan()
    run = plan.run(run_id)
    if run.stage != "average":
        raise UserError(f"{run.id} is a training: use python -m pipeline.train {run.id}")
    where = device.select(plan.entries.device, plan.entries.threads)
    with hold(f"runs/{run.id}"):
        if all((run.folder / name).exists() for name in ("weights.safetensors", "run.json")):
            print(f"{run.id}: nothing to do")
            return
        make_average(plan, run, where)
    print(f"{run.id}: averaged")


if __name__ == "__main__":
    report(main)
