"""Craft a transfer set on its surrogate: `python -m pipeline.transfer SET`.

Writes adversarial images in float32 (8 bits would move eps 0.01 by a fifth), once for all victims.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import check_finite
from pipeline.core.folding import folded
from pipeline.evaluation.surrogates import surrogates
from pipeline.evaluation.verdicts import images_at_once, split_rows
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models
from pipeline.loading.images import load_split, subset
from pipeline.loading.registry import build
from pipeline.loading.sets import weights_of
from pipeline.plan import Plan, TransferSet, load_part, shared
from pipeline.store.files import safetensors
from pipeline.store.lease import hold
from pipeline.store.sums import write_together


def craft(plan: Plan, transfer_set: TransferSet, where: torch.device) -> None:
    """Write one transfer set: every image is attacked, also those the surrogate gets wrong."""
    started, code = time.monotonic(), shared.code_of(plan, transfer_set)
    split = load_split(transfer_set.surrogate.dataset, "test", where)
    surrogate = models.load_victim(plan, transfer_set.surrogate, split, where)
    # The gradient of one draw of a random surrogate would be noise: its mean is climbed.
    (whole,) = surrogates(surrogate, "averaged")
    attack, climbed = build("attacks", transfer_set.attack), folded(whole)
    rows = torch.tensor(subset(transfer_set.images, len(split)), device=where)

    parts, fooled = [], 0
    batch = images_at_once(plan)
    for part in split_rows(rows, transfer_set.attack, batch, surrogate.random):
        # by image and attack alone, whatever the batch and whoever is attacked
        draws = Draws(derive(0, transfer_set.name), part)
        moved = attack(climbed, split.floats(part), split.labels[part], draws)
        with torch.no_grad():
            scores = surrogate(moved)
        check_finite(scores, moved, surrogate.name)
        fooled += int((scores.argmax(1) != split.labels[part]).sum())
        parts.append(moved.cpu())

    tensors = {"images": torch.cat(parts).contiguous(), "ids": rows.cpu()}
    about = {
        "spec": json.dumps(transfer_set.spec, sort_keys=True),
        "weights": json.dumps(weights_of(plan, transfer_set.surrogate), sort_keys=True),
        "fooled": json.dumps(fooled / len(rows)),
    }

    times = device.times(time.monotonic() - started, where)
    files = {transfer_set.path: safetensors(tensors, about)}
    write_together(files, {**times, "shared": code})


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.transfer", description=__doc__)
    parser.add_argument("set", help="id or file of a transfer set")
    given = parser.parse_args(argv).set
    plan = load_part(given)
    made = plan.set(Path(given).name.removesuffix(".safetensors"))
    where = device.select(plan.entries.device, plan.entries.threads)
    with hold(f"transfer/{made.id}"):
        if made.is_here():
            print(f"{made.id}: is up to date, nothing to do")
            return
        craft(plan, made, where)


if __name__ == "__main__":
    report(main)
