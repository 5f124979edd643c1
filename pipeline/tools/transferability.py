"""How attacks on one member fool the others: `python -m pipeline transferability RECORD ATTACK`.

Prints the matrix as .csv: row, the member attacked; column, the member asked; share of images
fooled among those that all members get right (DVERGE, Yang et al. 2020).
"""

import argparse
import sys

import torch
from torch import nn

from pipeline.contracts.attack import Attack
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import check_finite, combine
from pipeline.errors import UserError
from pipeline.evaluation.surrogates import surrogates
from pipeline.evaluation.verdicts import BATCH
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models, registry
from pipeline.loading.images import Split, load_split, subset
from pipeline.plan import load_plan
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import nearest
from pipeline.tools.rows import find_record


def matrix(
    members: list[nn.Module], split: Split, rows: torch.Tensor, spec: Entry
) -> list[list[float]]:
    """Share fooled, by member attacked and member asked, of the images that all get right.

    spec: of the attack, which climbs what its `surrogate` makes of one member alone.
    """
    everyone = [
        row for part in torch.split(rows, BATCH) for row in _find_all_right(members, split, part)
    ]
    kept = torch.tensor(everyone, dtype=torch.int64, device=rows.device)
    if not len(kept):
        raise UserError("no image is right for every member: there is nothing to transfer")

    attack: Attack = registry.build("attacks", spec)
    return [
        _attack_member(_find_climbed(member, spec), members, split, kept, attack, number)
        for number, member in enumerate(members)
    ]


def _find_climbed(member: nn.Module, spec: Entry) -> nn.Module:
    """What an attack on a member differentiates."""
    (climbed,) = surrogates(combine("single", [member]), spec["surrogate"])
    return climbed


def _find_all_right(members: list[nn.Module], split: Split, rows: torch.Tensor) -> list[int]:
    answers = _ask_members(members, split.floats(rows))
    return [int(r) for r in rows[(answers == split.labels[rows]).all(0)]]


def _ask_members(members: list[nn.Module], images: torch.Tensor) -> torch.Tensor:
    """What every member answers, [members, B]."""
    with torch.no_grad():
        scores = [member(images) for member in members]
    for number, one in enumerate(scores):
        check_finite(one, images, f"member {number}")
    return torch.stack([one.argmax(1) for one in scores])


def _attack_member(
    source: nn.Module,
    members: list[nn.Module],
    split: Split,
    rows: torch.Tensor,
    attack: Attack,
    number: int,
) -> list[float]:
    fooled = torch.zeros(len(members))
    for part in torch.split(rows, BATCH):
        # By the member attacked, not by the one asked: all are asked about the same images.
        draws = Draws(derive(0, "transferability", number), part)
        moved = attack(source, split.floats(part), split.labels[part], draws)
        fooled += (_ask_members(members, moved) != split.labels[part]).sum(1).cpu()
    return [float(f) for f in fooled / len(rows)]


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline transferability", description=__doc__)
    parser.add_argument(
        "record", help="row of the table, or id or file of a record: its victim, its images"
    )
    parser.add_argument("attack", help="one of its attacks, which is made on every member in turn")
    parser.add_argument("--table", default="results/table1.csv", help="default: %(default)s")
    args = parser.parse_args(argv)

    plan = load_plan()
    record = find_record(plan, args.record, args.attack, args.table)
    attacks = dict(record.attacks)
    if args.attack not in attacks or "set" in attacks[args.attack]:
        hint = nearest(args.attack, attacks)
        raise UserError(f"{record.id}: has no attack {args.attack!r} to make{hint}")

    where = device.select(plan.entries.device, plan.entries.threads)
    split = load_split(record.victim.dataset, record.split, where)
    members = list(models.load_victim(plan, record.victim, split, where).members)
    rows = torch.tensor(subset(record.images, len(split)), device=where)

    sys.stdout.write(",".join(["attacked", *(f"member {n}" for n in range(len(members)))]) + "\n")
    for number, line in enumerate(matrix(members, split, rows, attacks[args.attack])):
        shares = ",".join(f"{share:.4f}" for share in line)
        sys.stdout.write(f"member {number},{shares}\n")


if __name__ == "__main__":
    report(main)
