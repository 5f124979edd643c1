"""Transfer sets as they are read, and the weights that a result rests on."""

import json

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.loading.images import Split
from pipeline.plan import Plan, TransferSet, Victim
from pipeline.store import manifest
from pipeline.store.files import load_safetensors, sha256_of


def weights_of(plan: Plan, victim: Victim) -> dict[str, str]:
    """sha256 of the weights behind a victim, by run."""
    sums = {}
    for element in victim.elements:
        name = "weights" if element.checkpoint == "last" else "best"
        sums[element.run] = sha256_of(plan.run(element.run).folder / f"{name}.safetensors")
    return sums


def read(made: TransferSet, split: Split, rows: Tensor) -> Tensor:
    """The set's images of some rows, on the split's device; raises UserError when it has others."""
    manifest.verify(made.path)
    remedy = f"pull it again (dvc pull {made.path}) or run python -m pipeline.transfer {made.id}"
    tensors, about = load_safetensors(made.path, remedy)
    same = json.loads(about.get("spec", "null")) == json.loads(json.dumps(made.spec))
    if not same or not torch.equal(tensors["ids"], rows.cpu()):
        raise UserError(f"{made.path}: is of another plan; delete it and {remedy}")
    return tensors["images"].to(split.labels.device)
