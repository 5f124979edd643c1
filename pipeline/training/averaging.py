"""The average of a trajectory's snapshots, its batch statistics, and the epoch at which it is best.

Snapshots are read tensor by tensor, so memory is that of one tensor over all epochs. At epoch e the
average is that of the snapshots from its start to e; the most robust one on held-out images is the
best, the earliest of equals. Killed, the same command goes on with the next epoch.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.contracts.average import Average
from pipeline.contracts.training import Batch, Training
from pipeline.core import batchnorm
from pipeline.core.draws import derive, seed_generators
from pipeline.core.ensemble import combine
from pipeline.core.flops import FlopCount
from pipeline.errors import UserError
from pipeline.loading import models, registry
from pipeline.loading.augment import policy_in
from pipeline.loading.images import Split, batches, load_split
from pipeline.plan import Plan, Run
from pipeline.plan.params.values import Entry
from pipeline.store import manifest
from pipeline.store.checkpoint import Weights
from pipeline.store.files import load_safetensors
from pipeline.store.scratch import read_scratch, throw_away, write_scratch
from pipeline.store.snapshots import Trajectory
from pipeline.training.validate import accuracies


def snapshot_paths(plan: Plan, run: Run, average: Average) -> list[Path]:
    """The snapshot files an average takes, verified."""
    source = plan.run(run.parents[0])
    first = getattr(average, "start", None)

    # An average without a start takes the final weights alone.
    if first is None:
        last = source.weights
        manifest.verify(last)
        load_safetensors(last, f"pull it again (dvc pull {last}) or delete it and re-run")
        return [last]

    epochs = source.spec["recipe"]["epochs"]
    stop = getattr(average, "stop", 0) or epochs
    if stop < first:
        raise UserError(f"params.yaml: averages: stop {stop} lies before start {first}")

    last = source.weights
    manifest.verify(last)
    trajectory = Trajectory(source.snapshots, first, epochs, last)
    trajectory.check()
    return [path for path in trajectory.paths if int(path.stem) <= stop]


def averaged(paths: list[Path], average: Average) -> Weights:
    """The average of weight files; integer buffers are those of the last."""
    try:
        # Opened, not loaded: one tensor over all epochs is in memory at a time.
        files: list[Any] = [safe_open(p, framework="pt") for p in paths]
        weights: Weights = {}
        for name in files[-1].keys():  # noqa: SIM118 - not a dict
            last = files[-1].get_tensor(name)
            if last.is_floating_point():
                stack = torch.stack([f.get_tensor(name) for f in files])
                weights[name] = average.combine(stack).contiguous()
            else:
                weights[name] = last
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{paths[0].parent}: a snapshot cannot be read ({error})") from error
    return weights


class BatchNormPass:
    """One pass over the training images, augmented as in the last epoch that is averaged, with the
    averaged weights."""

    def __init__(
        self, spec: dict[str, Any], run: Run, split: Split, average: Average, last: int
    ) -> None:
        self.spec, self.run, self.split, self.average = spec, run, split, average
        self.last = last  # epoch that is averaged

    def apply(self, members: list[nn.Module]) -> None:
        """Re-estimate running statistics of every member, jointly crafted where they train so."""
        if self.average.bn_data == "kept":
            return

        seed_generators(derive(self.spec["seed"], "layers"))  # dropout's stream

        adversarial = self.average.bn_data == "adversarial"
        examples = self._examples(members) if adversarial else self._images()

        is_mean = self.average.bn_statistic == "cumulative"
        estimate = batchnorm.reestimate if is_mean else batchnorm.median_of_ema
        estimate(nn.ModuleList(members), examples, lambda images: [m(images) for m in members])

    def _batches(self) -> Iterator[Batch]:
        recipe, seed = self.spec["recipe"], self.spec["seed"]
        policy = policy_in(self.last, recipe["augment"], recipe["augment_after"])
        # Trainings count epochs from 1, so the pass of epoch 0 has draws of its own.
        size = recipe["batch_size"]
        return batches(self.split, self.run.dataset, size, seed, epoch=0, policy=policy)

    def _images(self) -> Iterator[Tensor]:
        return (batch.images for batch in self._batches())

    def _examples(self, members: list[nn.Module]) -> Iterator[Tensor]:
        """Examples crafted with the averaged weights and the statistics they came with."""
        attack: Attack = registry.build("attacks", self.spec["attack"])

        frozen = copy.deepcopy(members)  # the pass changes the statistics of the originals
        ensemble = combine(self.spec["method"]["fields"]["combine"], frozen).eval()

        recipe, classes = models.recipe_of(self.spec), len(self.split.names)
        training = Training(frozen, ensemble, recipe, attack, classes)
        return (_craft(training, batch) for batch in self._batches())


def _craft(training: Training, batch: Batch) -> Tensor:
    """Of a batch, or part by part where memory holds no more."""
    parts = [training.craft(part) for part in training.split(batch)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


Scores = dict[str, dict[str, Any]]  # by epoch: clean, robust, flops
SCORE = {"clean", "robust", "flops"}
Make = Callable[[list[Path]], list[nn.Module]]


class Judge:
    """Accuracies of members on the images by which their recipe selects."""

    def __init__(self, spec: Entry, run: Run, where: torch.device) -> None:
        # As the recipe of the averaged training: an average is chosen by the same images.
        name = "test" if spec["recipe"]["select"] == "best_test_as_published" else "validation"
        self.held_out = load_split(run.dataset, name, where)
        self.attack = registry.build("attacks", spec["validation_attack"])
        self.rule, self.seed = spec["method"]["fields"]["combine"], spec["seed"]
        self.batch = models.recipe_of(spec).micro_batch

    def __call__(self, members: list[nn.Module]) -> tuple[float, float]:
        """Clean accuracy, and the share right before and after the validation attack."""
        victim = combine(self.rule, members)
        return accuracies(victim, self.held_out, self.attack, self.seed, self.batch)


def scores(paths: list[Path], make: Make, judge: Judge, state: Path) -> tuple[Scores, float]:
    """Of the average that ends in each snapshot, kept in `state` epoch by epoch; and the seconds of
    those that were there before."""
    by_epoch = _kept(state)
    before = sum(score["seconds"] for score in by_epoch.values())
    for number, path in enumerate(paths, start=1):
        if path.stem in by_epoch:
            continue

        counter, started = FlopCount(), time.monotonic()
        with counter:
            clean, robust = judge(make(paths[:number]))
        score = {"clean": clean, "robust": robust, "flops": counter.total}
        by_epoch[path.stem] = {**score, "seconds": time.monotonic() - started}
        # After every epoch, so that a kill costs one epoch's judging.
        write_scratch(state, json.dumps(by_epoch).encode())
    return {
        epoch: {key: of[key] for key in sorted(SCORE)} for epoch, of in by_epoch.items()
    }, before


def best(by_epoch: Scores) -> str:
    """The epoch, as its snapshot is named."""
    # Sorted, and max takes the first of equals: the earliest epoch.
    return max(sorted(by_epoch), key=lambda epoch: float(by_epoch[epoch]["robust"]))


def _kept(state: Path) -> Scores:
    content = read_scratch(state)
    loaded: Any = {} if content is None else json.loads(content)
    if isinstance(loaded, dict) and all(map(_is_score, loaded.values())):
        return loaded

    throw_away(state)
    return {}


def _is_score(said: Any) -> bool:
    return isinstance(said, dict) and set(said) == {*SCORE, "seconds"}
