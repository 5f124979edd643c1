"""Reference pipeline for adversarially robust model ensembles."""

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def spare_collection() -> None:
    """Look for garbage seldom, in a process of ours: what imports and the plan make, a million
    objects of a large graph, stays to its end, and to look through them took a fifth of the time.
    """
    gc.set_threshold(100_000, 50, 100)


if sys.argv[:1] == ["-m"]:  # `python -m pipeline.train`, not a user's `import pipeline`
    spare_collection()
    if "ROBUST_WARM" in os.environ:  # a job of a workflow on this machine
        from pipeline.job.handover import hand_over

        hand_over()


def load(
    table: str, row: str, seed: int | None = None, on: str | None = None
) -> "tuple[nn.Module, tuple[Tensor, Tensor]]":
    """A row's model, and the images [N, C, H, W] in [0, 1] and labels [N] it was judged on.

    `model, (images, labels) = load("results/table1.csv", "pgd_at")`. The model normalises itself,
    is frozen in evaluation mode, and gives scores [B, classes]; `seed` picks one of several, `on`
    is cpu, cuda or auto. Raises `pipeline.errors.UserError` naming what is missing.
    """
    from pipeline.tools.load import load_row  # torch only where it is needed

    return load_row(table, row, seed, on)
