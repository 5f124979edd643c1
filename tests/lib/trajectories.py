"""A workplace with one trajectory of four epochs, and averages of it."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiny
from torch import Tensor

from pipeline.average import make_average
from pipeline.plan import Plan, Run
from pipeline.store.files import load_safetensors


@functools.cache
def trajectory() -> Path:
    """A folder with one training of four epochs, snapshots 2 to 4 kept; made once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        plan = tiny.place(folder, patch, changed())
        runs_of_all(plan)
        tiny.trained(plan, "pgd_at", snapshots=2)
    return folder


def changed() -> dict[str, Any]:
    """Parameters with averages of every kind."""
    found = tiny.params(epochs=4, train_images=101, validate_every=0)
    of = {"method": "pgd_at", "bn_data": "clean", "bn_statistic": "cumulative"}
    found["averages"]["kept"] = {"base": "meat", "bn_data": "kept"}
    found["averages"]["joint_meat"] = {**of, "base": "meat", "method": "pgd_at_joint", "members": 2}
    return found


def runs_of_all(plan: Plan) -> None:
    """Make the averages known to the plan."""
    for name in ("meat", "wa", "last_bn", "kept", "meat_released_bn", "meat_adversarial_bn"):
        tiny.one_run(plan, name)


def copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A copy of the trained workplace, entered."""
    shutil.copytree(trajectory(), folder / "copy", symlinks=True)
    monkeypatch.chdir(folder / "copy")
    plan = Plan(changed())
    runs_of_all(plan)
    return plan


def weights_of(run: Run) -> dict[str, Tensor]:
    return load_safetensors(run.folder / "weights.safetensors", "")[0]


def made(plan: Plan, name: str) -> dict[str, Tensor]:
    run = tiny.one_run(plan, name)
    make_average(plan, run, tiny.CPU)
    return weights_of(run)


def snapshots(plan: Plan) -> list[dict[str, Tensor]]:
    folder = tiny.one_run(plan, "pgd_at").snapshots
    return [load_safetensors(p, "")[0] for p in sorted(folder.glob("*.safetensors"))]


def parameters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    return {n: v for n, v in weights.items() if not n.endswith(tracked)}
