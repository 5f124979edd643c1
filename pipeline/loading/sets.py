"""Transfer sets as they are read, and the weights that a result rests on."""

import json

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.loading.images import Split
from pipeline.plan import Plan, Record, TransferSet, Victim
from pipeline.store import manifest
from pipeline.store.files import load_safetensors
from pipeline.store.sums import sum_of


def weights_of(plan: Plan, victim: Victim) -> dict[str, str]:
    """sha256 of the weights behind a victim, by run."""
    sums = {}
    for element in victim.elements:
        sums[element.run] = sum_of(plan.run(element.run).checkpoint(element.checkpoint))
    return sums


def sums_of(plan: Plan, record: Record) -> dict[str, str]:
    """sha256 of the transfer sets that a record judges, by id."""
    return {id: sum_of(plan.set(id).path) for id in record.sets}


def sum_before(plan: Plan, record: Record) -> dict[str, str]:
    """sha256 of the record that another goes on from, by id."""
    return {record.before: sum_of(plan.record(record.before).path)} if record.before else {}


def read(transfer_set: TransferSet, split: Split, rows: Tensor) -> Tensor:
    """The set's images of some rows, on the split's device; raises UserError when it has others."""
    manifest.verify(transfer_set.path)
    command = f"python -m pipeline.transfer {transfer_set.id}"
    remedy = f"pull it again (dvc pull {transfer_set.path}) or run {command}"
    tensors, about = load_safetensors(transfer_set.path, remedy)

    try:
        same = json.loads(about["spec"]) == json.loads(json.dumps(transfer_set.spec))
        same = same and torch.equal(tensors["ids"], rows.cpu())
        images = tensors["images"]
    except (KeyError, ValueError, RecursionError):
        same = False
    if not same:
        raise UserError(f"{transfer_set.path}: is of another plan; delete it and {remedy}")

    shape = (len(rows), *split.images.shape[1:])
    if images.dtype != torch.float32 or images.shape != shape or not images.isfinite().all():
        raise UserError(
            f"{transfer_set.path}: holds no images of its data set; delete it and {remedy}"
        )
    return images.to(split.labels.device)
