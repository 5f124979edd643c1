"""A row of a table as a torch module, with the images that it was judged on."""

import torch
from torch import Tensor

from pipeline.core.ensemble import Combination
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.loading import models
from pipeline.loading.images import load_split, subset
from pipeline.plan import load_plan
from pipeline.tools.rows import find_cells

DEVICES = ("cpu", "cuda", "auto")


def load_row(
    table: str, row: str, seed: int | None = None, on: str | None = None
) -> tuple[Combination, tuple[Tensor, Tensor]]:
    """The victim of a row, and images float32 [N, C, H, W] in [0, 1] with labels int64 [N].

    `seed`: which of several, the table's first if none is given; `on`: cpu, cuda or auto, the
    scale's if none. The victim normalises itself and is in evaluation mode; its scores are
    [B, classes]. Images are those behind the table's numbers.
    """
    if on is not None and on not in DEVICES:
        raise UserError(f"on: {on!r} is no device; write on='cpu', on='cuda' or on='auto'")
    if on == "cuda" and not torch.cuda.is_available():
        raise UserError("on: is 'cuda' but torch sees no GPU; write on='auto' or on='cpu'")
    plan = load_plan()
    target = plan.table(table)
    cells = find_cells(plan, target, row)
    seeds = [cell.seed for cell in cells]
    if seed is not None and seed not in seeds:
        raise UserError(f"{row}: has no seed {seed} in {target.path}, but {seeds}")
    cell = cells[0 if seed is None else seeds.index(seed)]
    assert cell.victim is not None

    where = device.find(on or plan.entries.device)  # threads and flags are the caller's own
    record = next(iter(cell.records.values()))
    split = load_split(cell.victim.dataset, record.split, where)
    model = models.load_victim(plan, cell.victim, split, where)
    shown = split.subset(split.labels.new_tensor(subset(record.images, len(split))))
    return model, (shown.floats(), shown.labels)
