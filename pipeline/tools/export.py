"""Adversarial images of a record: `python -m pipeline export RECORD ATTACK FILE.safetensors`.

Records hold verdicts, not images; every attack is a function of its record, so the images are
crafted again, and what they do to the victim must be what the record says.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluate import leave_fooled
from pipeline.evaluation.verdicts import Evaluation, images_at_once
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models, sets
from pipeline.loading.images import load_split, subset
from pipeline.plan import Plan, Record, load_plan
from pipeline.plan.params.words import nearest
from pipeline.store.files import save_safetensors
from pipeline.store.records import Arrays, meta, read_record
from pipeline.tools.rows import find_record


def images(plan: Plan, record: Record, name: str, where: torch.device) -> tuple[Tensor, Arrays]:
    """The adversarial images of one attack, clean where it had no success, and the record."""
    attacks = dict(record.attacks)
    if name not in attacks:
        raise UserError(f"{record.id}: has no attack {name!r}{nearest(name, attacks)}")
    arrays = read_record(record.path, attacks)
    weights = sets.weights_of(plan, record.victim)
    if meta(arrays)["weights"] != weights:
        raise UserError(f"{record.path}: saw other weights than those here; pull or evaluate again")

    split = load_split(record.victim.dataset, record.split, where)
    victim = models.load_victim(plan, record.victim, split, where)
    batch = images_at_once(plan)
    rows = subset(record.images, len(split))
    evaluation = Evaluation(victim, split, rows, batch=batch)
    if record.before:
        leave_fooled(plan.record(record.before), evaluation, weights)

    # In a suite that stops when fooled this attack met only what the earlier ones left.
    if record.leave:
        for earlier in list(attacks)[: list(attacks).index(name)]:
            right = torch.from_numpy(arrays[f"{earlier}/right"]).to(where)
            evaluation.standing &= (right > 0) | victim.random

    if "set" in attacks[name]:
        crafted = sets.read(plan.set(attacks[name]["set"]), split, evaluation.ids)
        again = evaluation.stored(crafted)
    else:
        crafted, again = evaluation.crafted(name, attacks[name])

    if not np.array_equal(again["right"], arrays[f"{name}/right"]):
        raise UserError(f"{record.id}: this machine crafts other images for {name} than its record")
    return crafted, arrays


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline export", description=__doc__)
    parser.add_argument("record", help="row of the table, or id or file of a record")
    parser.add_argument("attack", help="one of its attacks")
    parser.add_argument("file", type=Path, help="where to write images, labels, ids and verdicts")
    parser.add_argument("--table", default="results/table1.csv", help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.file.suffix != ".safetensors":
        raise UserError(
            f"{args.file}: safetensors are written; name it {args.file.stem}.safetensors"
        )

    plan = load_plan()
    record = find_record(plan, args.record, args.attack, args.table)
    where = device.select(plan.entries.device, plan.entries.threads)
    crafted, arrays = images(plan, record, args.attack, where)

    tensors = {
        "images": crafted.cpu().contiguous(),
        "right": torch.from_numpy(arrays[f"{args.attack}/right"]),
        **{name: torch.from_numpy(arrays[name]) for name in ("labels", "ids")},
    }
    about = {"record": record.id, "attack": args.attack, "spec": json.dumps(record.spec)}
    save_safetensors(args.file, tensors, about)
    print(f"{args.file}: {len(crafted)} images of {args.attack} on {record.victim.id}")


if __name__ == "__main__":
    report(main)
