"""Attack one victim with one suite: `python -m pipeline.evaluate RECORD`.

Writes per-image verdicts. Killed, the same command goes on with the next attack.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import cost, device, models, registry
from pipeline.draws import Draws, derive
from pipeline.ensemble import Combination, Scaled, surrogates
from pipeline.errors import Interrupted, UserError, report
from pipeline.files import sha256_of, write_atomic
from pipeline.images import Split, load_split
from pipeline.losses import cross_entropy, margin
from pipeline.plan import Plan, Record, load_plan
from pipeline.plan.schema import digest
from pipeline.progress import Progress
from pipeline.records import Arrays, pack, read_arrays
from pipeline.signals import StopRequest

BATCH = 500  # images; only a random victim, which draws once a batch, sees it in its verdicts


class Counted(nn.Module):
    """A model that counts the images it sees forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.random = getattr(model, "random", False)
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """The model's scores."""
        self.forwards += len(images)
        scores: Tensor = self.model(images)
        if scores.requires_grad:
            scores.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return scores

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Evaluation:
    """A victim, its images and the verdicts on them."""

    def __init__(self, victim: Combination, split: Split, rows: list[int]) -> None:
        self.victim = victim
        index = torch.tensor(rows, device=split.labels.device)
        self.ids, self.labels, self.images = index, split.labels[index], split.floats(index)
        self.clean = self._over(self._judge, self.images)

    def _judge(self, images: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """right [B]: share of members right (0 or 1 unless random); margin [B] of the victim.

        members [B, members]: what each member says, for accuracies of other combinations.
        """
        labels = self.labels[rows]
        with torch.no_grad():
            logits_KBC = self.victim.logits(images)
            said_KB = logits_KBC.argmax(-1)
            members = {"members": said_KB.T.to(torch.int16)}
            if not self.victim.random:
                scores = self.victim(images)
                right = (scores.argmax(-1) == labels).float()
                return {"right": right, "margin": -margin(scores, labels), **members}
            right = (said_KB == labels).float().mean(0)
            return {"right": right, "margin": -margin(logits_KBC.mean(0), labels), **members}

    def _over(
        self, function: Callable[[Tensor, Tensor], dict[str, Tensor]], images: Tensor
    ) -> dict[str, Tensor]:
        rows = torch.arange(len(images), device=images.device)
        parts = [function(images[r], r) for r in torch.split(rows, BATCH)]
        return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}

    def zero_gradients(self) -> Tensor:
        """Whether cross-entropy has a zero or non-finite gradient at the clean image, [N]."""
        self.victim.reseed(0)

        def of(images: Tensor, rows: Tensor) -> dict[str, Tensor]:
            images = images.clone().requires_grad_()
            loss = cross_entropy(self.victim(images), self.labels[rows]).sum()
            (gradient,) = torch.autograd.grad(loss, images)
            size = gradient.flatten(1).abs().amax(1)
            return {"zero": ~(size > 0) | ~size.isfinite()}

        return self._over(of, self.images)["zero"]

    def attack(self, name: str, spec: dict[str, Any], seed: int) -> Arrays:
        """Verdicts under one attack, on the images that someone gets right before it."""
        attack = registry.build("attacks", spec)
        self.victim.reseed(derive(seed, name))  # a resumed record goes on as an unbroken one
        models_ = [Counted(m) for m in surrogates(self.victim, spec["surrogate"])]
        adversarial = self.images.clone()
        kept = {key: value.clone() for key, value in self.clean.items()}
        right = kept["right"]
        everyone = torch.arange(len(self.images), device=self.images.device)
        for number, model in enumerate(models_):
            # where one member is chosen, what the others would say counts on every image
            lost = self.clean["right"] == 0
            left = everyone[(right > 0) | (lost & self.victim.selects)]
            for rows in torch.split(left, BATCH):
                draws = Draws(derive(seed, name, number), self.ids[rows])
                found = attack(model, self.images[rows], self.labels[rows], draws)
                verdict = self._judge(found, rows)
                worse = verdict["right"] <= right[rows]
                chosen = rows[worse]
                adversarial[chosen] = found[worse]
                for part, values in kept.items():
                    values[chosen] = verdict[part][worse]
        verdicts = {**kept, **self._sizes(adversarial)}
        work = np.array([[m.forwards, m.backwards] for m in models_]).sum(0)
        return {"work": work, **{k: v.cpu().numpy() for k, v in verdicts.items()}}

    def _sizes(self, adversarial: Tensor) -> dict[str, Tensor]:
        """How far the images went, [N]: in both norms, and beyond the box of pixels."""
        change = (adversarial - self.images).flatten(1)
        beyond = (adversarial - adversarial.clamp(0, 1)).flatten(1)
        return {
            "linf": change.abs().amax(1),
            "l2": change.norm(dim=1),
            "outside": beyond.abs().amax(1),
            "unchanged": (change == 0).all(1),
        }


def subset(images: int, available: int) -> list[int]:
    """The fixed index list: all, or Python's sample with seed 0 (as DVERGE and SoE draw it)."""
    if not 1 <= images <= available:
        raise UserError(
            f"params.yaml: images: {images} asked for, the test split has {available}; mend it"
        )
    if images == available:
        return list(range(available))
    return sorted(random.Random(0).sample(range(available), images))


def evaluate(plan: Plan, record: Record, where: torch.device) -> None:
    """Write one record."""
    started = time.monotonic()
    split = load_split(record.victim.dataset, "test", where)
    victim = models.load_victim(plan, record.victim, split, where)
    evaluation = Evaluation(victim, split, subset(record.images, len(split)))
    weights = _weights(plan, record)
    work = Path("work/records") / record.id / digest(weights)
    arrays, seconds = _attacked(evaluation, record, work)
    arrays |= _clean(evaluation)
    meta = {
        "spec": record.spec,
        "victim": record.victim.id,
        "suite": record.suite,
        "weights": weights,
        "cost": _cost(plan, record, victim, split),
    }
    arrays["meta"] = np.array(json.dumps(meta, sort_keys=True))
    times = {"seconds": round(time.monotonic() - started, 1), "attacks": seconds}
    times |= device.describe(where)
    write_atomic(record.path.with_suffix(".time.json"), (json.dumps(times) + "\n").encode())
    write_atomic(record.path, pack(arrays))
    shutil.rmtree(work.parent, ignore_errors=True)


def _attacked(
    evaluation: Evaluation, record: Record, work: Path
) -> tuple[Arrays, dict[str, float]]:
    """Verdicts under every attack, read from `work` where they were saved, and the seconds."""
    arrays: Arrays = {}
    seconds = {}
    with StopRequest() as stop, Progress(record.id, len(record.attacks)) as progress:
        for done, (name, spec) in enumerate(record.attacks, start=1):
            part, begun = work / f"{name}.npz", time.monotonic()
            if not part.exists():
                write_atomic(part, pack(evaluation.attack(name, spec, seed=0)))
                seconds[name] = round(time.monotonic() - begun, 2)
            found = read_arrays(part)
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
            progress.line(done, f"{name} {100 * found['right'].mean():.1f}")
            if stop.requested:
                raise Interrupted(f"{record.id}: saved after {name}; run again to resume")
    return arrays, seconds


def _clean(evaluation: Evaluation) -> Arrays:
    return {
        "ids": evaluation.ids.cpu().numpy(),
        "labels": evaluation.labels.cpu().numpy(),
        **{f"clean/{part}": values.cpu().numpy() for part, values in evaluation.clean.items()},
        "clean/zero_gradient": evaluation.zero_gradients().cpu().numpy(),
    }


def _weights(plan: Plan, record: Record) -> dict[str, str]:
    """sha256 of the weights this record saw."""
    sums = {}
    for element in record.victim.elements:
        name = "weights" if element.checkpoint == "last" else "best"
        sums[element.run] = sha256_of(plan.run(element.run).folder / f"{name}.safetensors")
    return sums


def _cost(plan: Plan, record: Record, victim: Combination, split: Split) -> dict[str, int]:
    """Parameters, MACs of one query, and FLOPs of training, parents and trajectories included."""
    channels, size = split.images.shape[1:3]
    flops = models.inherited_flops([plan.run(e.run).folder for e in record.victim.elements])
    members = [m.member if isinstance(m, Scaled) else m for m in victim.members]
    macs = [cost.count_macs(m, channels, size) for m in members]
    return {
        "members": len(members),
        "parameters": sum(cost.count_parameters(m) for m in members),
        "inference_macs": sum(macs) // (len(macs) if victim.random else 1),
        "train_flops": sum(flops.values()),
    }


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument("record", help="id or file of a record, as python -m pipeline.plan lists")
    given = parser.parse_args(argv).record
    plan = load_plan()
    record = plan.record(given.removeprefix("results/records/").removesuffix(".npz"))
    if record.path.exists():
        print(f"{record.id}: nothing to do")
        return
    evaluate(plan, record, device.select(plan.entries.device, plan.entries.threads))


if __name__ == "__main__":
    report(main)
