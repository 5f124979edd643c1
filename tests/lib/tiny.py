"""Plans that train in a second: params.yaml at demo scale, cut further, on prepared digits."""

import atexit
import contextlib
import csv
import functools
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from projects import ROOT, published
from projects import small as params

from pipeline import average, download, evaluate, prepare, tabulate, train
from pipeline.errors import UserError
from pipeline.job import device
from pipeline.plan import Plan, Run, Target
from pipeline.plan.params.entries import Setting
from pipeline.share import writer
from pipeline.store import checkpoint, receipts
from pipeline.store.files import load_safetensors, sha256_of

CPU = torch.device("cpu")
SETTING = Setting("cifar10", "resnet20", "unified", 1, 0)


def changed(epochs: int = 3, **recipe: Any) -> dict[str, Any]:
    """Parameters whose rows share one recipe, the scale's epochs being the paper's."""
    found = params(epochs=epochs)
    found["recipes"]["unified"] |= {"epochs": epochs, "milestones": [1], "lr_values": [0.05]}
    found["recipes"]["unified"] |= recipe
    found["recipes"] = {"unified": found["recipes"]["unified"]}  # others build on what it was
    return found


def table_of(rows: list[str], **changed: Any) -> dict[str, Any]:
    """Parameters with one table of one member."""
    found = params(epochs=2, validate_every=0)
    found["suites"] = {"unified": {"attacks": ["pgd10"]}, "core": {"attacks": ["fgsm"]}}
    found["suites"]["adaptive"] = {"attacks": ["normalised_margin_pgd"]}
    found["scales"]["demo"]["attacks"]["normalised_margin_pgd"] = {"steps": 3}
    found["planned"] = ["to_come"]
    columns = ["clean", "pgd10", "core_worst", "adaptive_worst", "members", "train_flops"]
    entry = {"rows": rows, "columns": columns, "suites": ["unified", "core", "adaptive"]}
    found["tables"]["table1"] |= {**entry, "members": [1], "reference": "pgd_at", **changed}
    return found


@functools.cache
def _prepared() -> Path:
    """A folder with the digits as arrays, made once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.chdir(folder):
        writer.write(folder, published())
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
    writer.write(folder, asked)
    monkeypatch.chdir(folder)
    device.select("cpu", 1)
    return Plan(asked)


def runs(plan: Plan, row: str, members: int = 1, **changed: Any) -> list[Run]:
    """The runs of a row's victim, known to the plan from now on."""
    setting = Setting("cifar10", "resnet20", "unified", members, 0, **changed)
    return [plan.run(e.run) for e in plan.name_victim(row, setting).elements]


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


def sums(run: Run) -> dict[str, str]:
    """sha256 of what a training writes, its seconds apart."""
    names = ("weights.safetensors", "best.safetensors", "history.csv", "run.json")
    return {name: sha256_of(run.folder / name) for name in names}


def history(run: Run) -> list[dict[str, str]]:
    """Rows of a training's history."""
    return list(csv.DictReader((run.folder / "history.csv").open()))


def line(raised: "pytest.ExceptionInfo[UserError]") -> str:
    """The text of a user's error, which is one line."""
    text = str(raised.value)
    assert "\n" not in text
    return text


def command(run: Run) -> list[str]:
    """The training of a run as a process."""
    return [sys.executable, "-m", "pipeline.train", run.id]


def environment() -> dict[str, str]:
    """Of such a process; without caches of bytecode, which a limit on files would cut."""
    found = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return {**found, "PYTHONDONTWRITEBYTECODE": "1"}


def made(plan: Plan, rows: list[str], table: str = "table1") -> None:
    """Train and evaluate some rows of a table."""
    wanted = [r for c in plan.table(table).cells if c.row in rows for r in c.records.values()]
    for record in wanted:
        for run in [plan.run(e.run) for e in record.victim.elements]:
            for parent in [*map(plan.run, run.parents), run]:
                if (parent.folder / "weights.safetensors").exists():
                    continue
                if parent.stage == "train":
                    train.train(plan, parent, CPU, plan.snapshots_from(parent.id))
                else:
                    average.make_average(plan, parent, CPU)
        if not record.path.exists():
            evaluate.evaluate(plan, record, CPU)


def tabulated(plan: Plan, partial: bool = False) -> tuple[Any, dict[str, Any], str]:
    """The table as a frame by row, its .json, and the text for people."""
    table = plan.table("table1")
    text = tabulate.tabulate(plan, table, partial)
    path = tabulate.partial_path(table.path) if partial else table.path
    details = json.loads(path.with_suffix(".json").read_text())
    return pd.read_csv(path, keep_default_na=False).set_index("method"), details, text


def replaced(run: Run) -> str:
    """Sum of other weights that are put in the place of a run's, as if made elsewhere."""
    weights = load_safetensors(run.weights, "")[0]
    (run.folder / "run.time.json").unlink()
    floats = {name: value for name, value in weights.items() if value.is_floating_point()}
    for path in run.folder.glob("*.safetensors"):
        checkpoint.save(path, weights | {name: 1.5 * value for name, value in floats.items()})
    return sha256_of(run.weights)


def replace(path: Path, content: bytes) -> None:
    """Another content of a record, and nothing beside it that says what its job wrote."""
    path.with_suffix(".time.json").unlink(missing_ok=True)
    path.write_bytes(content)


def target_of(target: Target, plan: str | None = None) -> None:
    """Files of a table or figure as of a plan, today's or another, whatever they hold."""
    path = target.path.with_suffix(".json")
    receipt = {"plan": plan or target.digest, "scale": "demo", "rests_on": {}}
    files = {file: file.name.encode() for file in target.outputs if file != path}
    receipts.write_target(path, {"receipt": receipt}, files)
