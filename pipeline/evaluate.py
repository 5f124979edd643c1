"""Attack one victim with one suite: `python -m pipeline.evaluate RECORD`.

Writes per-image verdicts. Killed, the same command goes on with the next attack; an attack that
fails is named, and what the others found is kept, also for a suite that is mended.
"""

import argparse
import hashlib
import json
import random
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.core import flops
from pipeline.core.ensemble import Combination, Scaled
from pipeline.core.metrics import worst
from pipeline.errors import Interrupted, UserError
from pipeline.evaluation import latency
from pipeline.evaluation.parts import Parts
from pipeline.evaluation.verdicts import SEED, Evaluation, images_at_once
from pipeline.flags import evidence
from pipeline.job import device
from pipeline.job.progress import Progress
from pipeline.job.report import report
from pipeline.job.signals import StopRequest
from pipeline.loading import models, sets
from pipeline.loading.images import Split, load_split, subset
from pipeline.plan import Plan, Record, frozen, load_part, record_id, shared
from pipeline.plan.params.values import find_radius
from pipeline.store.lease import hold
from pipeline.store.records import Arrays, meta, pack
from pipeline.store.sums import write_together


def evaluate(plan: Plan, record: Record, where: torch.device) -> None:
    """Write one record."""
    started = time.monotonic()
    split = load_split(record.victim.dataset, record.split, where)
    victim = models.load_victim(plan, record.victim, split, where)
    rows = subset(record.images, len(split))

    batch = images_at_once(plan)
    evaluation = Evaluation(victim, split, rows, bool(record.spec.get("peers")), batch)

    about: dict[str, Any] = {
        "spec": record.spec,
        "victim": record.victim.id,
        "suite": record.suite,
        "weights": sets.weights_of(plan, record.victim),
        **({"sets": sets.sums_of(plan, record)} if record.sets else {}),
        **({"before": sets.sum_before(plan, record)} if record.before else {}),
    }
    if record.before:
        leave_fooled(plan.record(record.before), evaluation, about["weights"])

    machine, code = device.describe(where), shared.code_of(plan, record)
    parts = Parts(plan, record, about, machine, code)

    attacks = Attacks(plan, evaluation, record, split, parts)
    verdicts = attacks.run()
    radius = record.spec.get("radius") or find_radius(record.attacks)
    arrays = verdicts | _clean(evaluation, radius)

    about |= {
        "cost": _cost(plan, record, victim, split),
        "outputs": evaluation.outputs(),
        "flips": evaluation.flips(),
        "untouched": fingerprint(victim) == attacks.untouched,
        "random": victim.random,
    }
    arrays["meta"] = np.array(json.dumps(about, sort_keys=True))

    # Of all verdicts, whoever made them: estimates learn from it how fast a machine is.
    seconds = round(time.monotonic() - started + parts.spent_before, 1)
    times = {"seconds": seconds, "attacks": parts.seconds}
    times |= {"seed": SEED, **machine, "shared": code}
    times |= {"latency_ms": round(latency.milliseconds(victim, evaluation.images), 4)}

    write_together({record.path: pack(arrays)}, times)
    frozen.discard(parts.work.parent)


def leave_fooled(earlier: Record, evaluation: Evaluation, weights: dict[str, str]) -> None:
    """Ask only about images that an earlier suite left right, of a random victim those that any
    member is still right on."""
    arrays = evidence.read(earlier)
    same = np.array_equal(arrays["ids"], evaluation.ids.cpu().numpy())
    if not same or meta(arrays)["weights"] != weights:
        raise UserError(f"{earlier.path}: is of other images or weights; evaluate it again")
    right = worst([arrays[f"{name}/right"] for name, _ in earlier.attacks])
    evaluation.standing &= torch.from_numpy(right).to(evaluation.standing.device) > 0


class Attacks:
    """The attacks of a record one after the other, each kept when it is done."""

    def __init__(
        self, plan: Plan, evaluation: Evaluation, record: Record, split: Split, parts: Parts
    ) -> None:
        self.plan, self.evaluation, self.record = plan, evaluation, record
        self.split, self.parts = split, parts
        self.untouched = fingerprint(evaluation.victim)

    def run(self) -> Arrays:
        """Verdicts under every attack."""
        arrays: Arrays = {}
        attacks, failures = self.record.attacks, []
        with StopRequest() as stop, Progress(self.record.id, len(attacks)) as progress:
            for done, (name, spec) in enumerate(attacks, start=1):
                verdicts = self.parts.read(name)
                if verdicts is None:
                    try:
                        verdicts = self._make(name, spec)
                    except UserError as error:
                        failures.append(f"{name}: {error}")
                        if self.record.leave:  # later attacks meet what this one left right
                            break
                        continue
                self._leave(verdicts)
                arrays |= {f"{name}/{key}": value for key, value in verdicts.items()}
                progress.line(done, f"{name} {100 * verdicts['right'].mean():.1f}")
                if stop.requested:
                    raise Interrupted(f"{self.record.id}: saved after {name}; run again to resume")

        if failures:
            raise UserError(
                f"{self.record.id}: {'; '.join(failures)} (verdicts of others are kept)"
            )
        return arrays

    def _make(self, name: str, spec: dict[str, Any]) -> Arrays:
        """Verdicts of an attack that runs and keeps to its ball, kept while every attack has left
        the victim alone: else C18 must say so of a run that resumes, too."""
        begun = time.monotonic()
        verdicts = self._verdicts(name, spec)
        path = f"{self.plan.set(spec['set']).path}: " if "set" in spec else ""
        evidence.check_ball(verdicts, spec, f"{path}an image")
        if fingerprint(self.evaluation.victim) == self.untouched:
            self.parts.write(name, verdicts, time.monotonic() - begun)
        return verdicts

    def _verdicts(self, name: str, spec: dict[str, Any]) -> Arrays:
        if "set" not in spec:
            return self.evaluation.attack(name, spec)
        made = self.plan.set(spec["set"])
        return self.evaluation.stored(sets.read(made, self.split, self.evaluation.ids))

    def _leave(self, verdicts: Arrays) -> None:
        """Where a suite stops when fooled, leave the fooled out; never if one draw fools."""
        if self.record.leave and not self.evaluation.victim.random:
            right = torch.from_numpy(verdicts["right"]).to(self.evaluation.standing.device)
            self.evaluation.standing &= right > 0


def fingerprint(victim: nn.Module) -> str:
    """What attacks must leave alone: weights, buffers, modes, gradients, generators."""
    hasher = hashlib.sha256()
    tensors = [*victim.named_parameters(), *victim.named_buffers()]
    for name, value in tensors:
        hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())

    modes = [module.training for module in victim.modules()]
    gradients = [(p.requires_grad, p.grad is None) for p in victim.parameters()]
    _, keys, *place = np.random.get_state()  # a draw moves the place, seldom the keys
    hasher.update(json.dumps([modes, gradients, random.getstate(), place]).encode())
    hasher.update(np.asarray(keys).tobytes() + torch.get_rng_state().numpy().tobytes())

    for where in sorted({str(value.device) for _, value in tensors if value.is_cuda}):
        hasher.update(torch.cuda.get_rng_state(where).numpy().tobytes())
    return hasher.hexdigest()


def _clean(evaluation: Evaluation, radius: float) -> Arrays:
    slopes = evaluation.gradients(radius)
    return {
        "ids": evaluation.ids.cpu().numpy(),
        "labels": evaluation.labels.cpu().numpy(),
        **{f"clean/{part}": values.cpu().numpy() for part, values in evaluation.clean.items()},
        **{f"clean/{part}": values.cpu().numpy() for part, values in slopes.items()},
    }


def _cost(plan: Plan, record: Record, victim: Combination, split: Split) -> dict[str, int]:
    """Parameters, MACs of one query, and FLOPs of training, parents and trajectories included."""
    channels, size = split.images.shape[1:3]
    trained = models.inherited_flops([plan.run(e.run).folder for e in record.victim.elements])
    members = [m.member if isinstance(m, Scaled) else m for m in victim.members]

    # A random victim asks one member for each query; a gate is asked beside its experts.
    asked = members if victim.random else [victim]
    macs = [flops.count_macs(m, channels, size) for m in asked]
    return {
        "members": len(members),
        "parameters": sum(flops.count_parameters(m) for m in members),
        "inference_macs": sum(macs) // len(macs),
        "train_flops": sum(trained.values()),
    }


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument("record", help="id or file of a record, as python -m pipeline.plan lists")
    given = parser.parse_args(argv).record
    plan = load_part(given)
    record = plan.record(record_id(given))

    where = device.select(plan.entries.device, plan.entries.threads)
    with hold(f"records/{record.id}"):
        if record.is_here():
            print(f"{record.id}: is up to date, nothing to do")
            return
        evaluate(plan, record, where)


if __name__ == "__main__":
    report(main)
