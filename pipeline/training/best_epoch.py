"""Which epoch's average is best: what a paper means by an average's best checkpoint.

At epoch e the average is that of the snapshots from its start to e; the most robust one on
held-out images counts, the earliest of equals. Killed, the same command goes on with the next
epoch.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.ensemble import combine
from pipeline.core.flops import FlopCount
from pipeline.errors import UserError
from pipeline.loading import registry
from pipeline.loading.images import load_split
from pipeline.plan import Run
from pipeline.plan.params.values import Entry
from pipeline.store.files import write_atomic
from pipeline.store.lease import check_held
from pipeline.training.validate import accuracies

Scores = dict[str, dict[str, Any]]  # by epoch: clean, robust, flops
Make = Callable[[list[Path]], list[nn.Module]]


class Judge:
    """Accuracies of members on the images by which their recipe selects."""

    def __init__(self, spec: Entry, run: Run, where: torch.device) -> None:
        name = "test" if spec["recipe"]["select"] == "best_test_as_published" else "validation"
        self.held_out = load_split(run.dataset, name, where)
        self.attack = registry.build("attacks", spec["validation_attack"])
        self.rule, self.seed = spec["method"]["fields"]["combine"], spec["seed"]

    def __call__(self, members: list[nn.Module]) -> tuple[float, float]:
        """Clean accuracy, and the share right before and after the validation attack."""
        return accuracies(combine(self.rule, members), self.held_out, self.attack, self.seed)


def scores(paths: list[Path], make: Make, judge: Judge, state: Path) -> Scores:
    """Of the average that ends in each snapshot; kept in `state` epoch by epoch."""
    found = _kept(state)
    for number, path in enumerate(paths, start=1):
        if path.stem in found:
            continue
        counter = FlopCount()
        with counter:
            clean, robust = judge(make(paths[:number]))
        found[path.stem] = {"clean": clean, "robust": robust, "flops": counter.total}
        check_held()
        write_atomic(state, (json.dumps(found) + "\n").encode())
    return found


def best(found: Scores) -> str:
    """The epoch, as its snapshot is named."""
    return max(sorted(found), key=lambda epoch: float(found[epoch]["robust"]))


def _kept(state: Path) -> Scores:
    try:
        loaded: Scores = json.loads(state.read_text())
        return loaded
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{state}: is damaged; delete it to start again") from error
