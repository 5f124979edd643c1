"""Plans that train in a second: params.yaml at demo scale, cut further, on prepared digits."""

import atexit
import contextlib
import copy
import functools
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import device, download, prepare, train
from pipeline.plan import Plan, Run
from pipeline.plan.entries import Setting

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SETTING = Setting("cifar10", "resnet20", "unified", 1, 0)
RECIPE = {"epochs": 3, "batch_size": 32, "train_images": 120, "validate_every": 1}


@functools.cache
def _published() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    return loaded


def params(**recipe: Any) -> dict[str, Any]:
    """params.yaml at a demo scale of three epochs, 120 images and the thinnest net."""
    found = copy.deepcopy(_published())
    found["archs"]["tiny"] = {"base": "resnet20", "blocks": 1, "width": 4}
    demo = found["scales"]["demo"]
    demo |= {"archs": {"resnet20": "tiny"}, "images": 30, "recipe": {**RECIPE, **recipe}}
    demo["attacks"] = {"train_pgd10": {"steps": 2}, "train_trades10": {"steps": 2}}
    demo["attacks"] |= {"train_aute6": {"steps": 2}, "validation_margin_pgd": {"steps": 2}}
    found |= {"scale": "demo", "suites": {"unified": {"attacks": ["fgsm", "pgd10"]}}}
    table = found["tables"]["table1"]
    table |= {"rows": ["standard"], "suites": ["unified"], "reported": "none"}
    table["columns"] = ["clean", "pgd10"]
    found["tables"], demo["tables"] = {"table1": table}, {}
    return found


@functools.cache
def _prepared() -> Path:
    """A folder with the digits as arrays, made once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.chdir(folder):
        (folder / "params.yaml").write_text(yaml.safe_dump(_published(), sort_keys=False))
        download.main(["digits"])
        prepare.main(["digits"])
    return folder


def place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any] | None = None
) -> Plan:
    """A workplace with params.yaml and data, entered; its plan."""
    asked = params() if changed is None else changed
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "digits").symlink_to(_prepared() / "data" / "digits")
    (folder / "params.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    monkeypatch.chdir(folder)
    device.select("cpu", 1)
    return Plan(asked)


def runs(plan: Plan, row: str, members: int = 1, **changed: Any) -> list[Run]:
    """The runs of a row's victim, known to the plan from now on."""
    setting = Setting("cifar10", "resnet20", "unified", members, 0, **changed)
    return [plan.run(e.run) for e in plan.graph.victim(row, setting).elements]


def one_run(plan: Plan, row: str, members: int = 1) -> Run:
    """The one run of a row."""
    (run,) = runs(plan, row, members)
    return run


def trained(plan: Plan, row: str, members: int = 1, snapshots: int | None = None) -> list[Run]:
    """The row's runs, trained where they are not."""
    found = runs(plan, row, members)
    for run in found:
        if not (run.folder / "weights.safetensors").exists():
            train.train(plan, run, CPU, snapshots)
    return found


class StopAfter:
    """A method whose batch number `batches` is interrupted by SIGTERM."""

    def __init__(self, method: Any, batches: int) -> None:
        self.method, self.left = method, batches

    def step(self, training: Any, batch: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return self.method.step(training, batch)
