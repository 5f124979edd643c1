"""A folder with params.yaml cut to a bench, and CIFAR-10 or random images in its shape: a training
that is interrupted, and rows of a table."""

import copy
import json
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu.report import Report
from bench.gpu.steps import IMAGES, ROOT, Bench
from pipeline import evaluate, train
from pipeline.contracts.training import Batch, Training
from pipeline.core.metrics import worst
from pipeline.errors import Interrupted
from pipeline.flags import evidence
from pipeline.plan import Dataset, Plan
from pipeline.plan.estimate import seconds
from pipeline.plan.graph.targets import Cell
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.reader import read
from pipeline.share import writer
from pipeline.store.files import save_safetensors, sha256_of
from pipeline.training.trainer import Trainer

TABLE = "results/table1.csv"
SPLITS = {"train": IMAGES - 1000, "validation": 1000, "test": 10_000}
TINY = {"train": 64, "validation": 16, "test": 16}


def lay(folder: Path, bench: Bench) -> tuple[Plan, str]:
    """The folder's plan, and what its images are."""
    params = cut(bench)
    writer.write(folder, params)
    plan = Plan(params)
    data = plan.dataset("cifar10")
    prepared = ROOT / data.folder
    if (prepared / "train.safetensors").is_file() and not bench.tiny:
        (folder / data.folder).parent.mkdir(parents=True)
        (folder / data.folder).symlink_to(prepared)
        return plan, "CIFAR-10"
    draw(folder, data, TINY if bench.tiny else SPLITS)
    return plan, "random images and labels, of which nothing can be learnt"


def cut(bench: Bench) -> dict[str, Any]:
    """params.yaml at scale lunch, its Table 1 alone with the suites that need no other victim."""
    params = read(ROOT / "params.yaml") | {"scale": "lunch", "figures": {}}
    table = params["tables"]["table1"] | {"suites": ["unified", "core"], "reported": "none"}
    table["columns"] = ["clean", "core_worst", "members"]
    params["tables"] = {"table1": table}
    for name, scale in params["scales"].items():
        if name != "paper":
            kept = {"table1"} if name == "lunch" else set()
            scale["tables"] = {k: v for k, v in scale.get("tables", {}).items() if k in kept}
    if bench.tiny:
        shrink(params)
    return params


def shrink(params: dict[str, Any]) -> None:
    """To a thin net that two batches train and two attacks judge."""
    params["archs"]["thin"] = {"base": "resnet20", "blocks": 1, "width": 4}
    params["suites"] = {"unified": {"attacks": ["fgsm"]}, "core": {"attacks": ["pgd10"]}}
    lunch = params["scales"]["lunch"]
    lunch |= {"device": "cpu", "threads": 1, "images": 8, "tables": {}}
    lunch["archs"] = {"resnet20": "thin", "resnet18": "thin"}
    lunch["recipe"] = {"epochs": 1, "train_images": 32, "batch_size": 16}
    lunch["attacks"] = {"train_pgd10": {"steps": 1}, "validation_margin_pgd": {"steps": 1}}
    params["tables"]["table1"] |= {"rows": ["standard", "pgd_at"], "members": [1]}


def draw(folder: Path, data: Dataset, sizes: dict[str, int]) -> None:
    """Prepared splits of random images."""
    generator = torch.Generator().manual_seed(0)
    metadata = {"dataset": data.name, "digest": data.digest}
    metadata |= {"classes": json.dumps([str(i) for i in range(10)])}
    metadata |= {"mean": json.dumps([0.5] * 3), "std": json.dumps([0.25] * 3)}
    for split, size in sizes.items():
        shape = (size, 3, 32, 32)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        tensors = {"images": images, "labels": torch.arange(size) % 10}
        save_safetensors(folder / data.folder / f"{split}.safetensors", tensors, metadata)


class Interrupting:
    """A method whose sixth update is met by SIGTERM: replays are under way."""

    def __init__(self, method: Any) -> None:
        self.method, self.batches = method, 0

    def step(self, training: Training, batch: Batch) -> torch.Tensor:
        """The method's own."""
        self.batches += 1
        if self.batches == 6:
            signal.raise_signal(signal.SIGTERM)
        return self.method.step(training, batch)


def measure_resume(bench: Bench, report: Report, plan: Plan) -> None:
    """Two epochs of eight batches, whole and interrupted: the sha256 of their weights."""
    for graphs in bench.graphs:
        for precision in ("fp32",) if bench.tiny else ("fp32", "bf16"):
            what = f"resumed to the byte {precision} {graphs}"
            report.attempt(what, partial(_resume, bench, plan, precision, graphs))


def _resume(bench: Bench, plan: Plan, precision: str, graphs: str) -> dict[str, Any]:
    params = copy.deepcopy(plan.entries.params)
    params["scales"]["lunch"]["recipe"] = {
        **{"epochs": 2, "batch_size": bench.batch, "train_images": 8 * bench.batch},
        **{"validate_every": 0, "precision": precision},
    }
    params["resources"]["train"]["graphs"] = graphs
    short = Plan(params)
    victim = short.name_victim("pgd_at", Setting("cifar10", "resnet18", "unified", 1, 0))
    run, sums = short.run(victim.elements[0].run), []
    for interrupted in (False, True):
        if interrupted:
            trainer = Trainer(short, run, bench.where, None)
            trainer.method = Interrupting(trainer.method)
            try:
                trainer.fit()
            except Interrupted as stop:
                print(f"  {stop}", flush=True)
            else:
                raise RuntimeError("the training was not interrupted")
        train.train(short, run, bench.where, None)
        sums.append(sha256_of(run.weights)[:10])
        shutil.rmtree(run.folder)
    return {"equal": sums[0] == sums[1], "whole": sums[0], "parts": sums[1]}


def measure_rows(bench: Bench, report: Report, plan: Plan, rows: list[str]) -> None:
    """Rows of the table, or these, as long as what they need fits into the time that is left."""
    lines = [s for s in report.lines if "aute" in s["what"] and "steps" not in s["what"]]
    speeds = [s["gflops"] for s in lines if "ms" in s]
    speed = max(speeds, default=None)
    cells = plan.table(TABLE).cells
    if rows:
        chosen = [cell for cell in cells if cell.row in rows]
        cells = sorted(chosen, key=lambda cell: rows.index(cell.row))
    for cell in cells:
        assert cell.victim is not None
        runs = [plan.run(element.run) for element in cell.victim.elements]
        what = f"row {cell.row} x{cell.members}"
        if any(run.stage != "train" or run.parents for run in runs):
            report.add(what, skipped="rests on other runs")
            continue

        asked = [*runs, *cell.records.values()]
        need = seconds(plan, asked, lambda _: speed or plan.entries.gflops)
        if need is None or need > bench.left():
            report.add(what, skipped=f"needs some {need or 0:.0f} s of {bench.left():.0f}")
            continue
        begun = time.monotonic()
        make(plan, cell, bench)
        took = round(time.monotonic() - begun, 1)
        report.add(what, seconds=took, estimated=round(need, 1), **judge(cell))


def make(plan: Plan, cell: Cell, bench: Bench) -> None:
    assert cell.victim is not None
    for element in cell.victim.elements:
        run = plan.run(element.run)
        if not run.is_here():
            train.train(plan, run, bench.where, None)
    for record in cell.records.values():
        if not record.is_here():
            evaluate.evaluate(plan, record, bench.where)


def judge(cell: Cell) -> dict[str, float]:
    """Clean accuracy, and under all attacks of its records together, in percent."""
    read_all = {id: evidence.read(record) for id, record in cell.records.items()}
    right = [
        read_all[id][f"{name}/right"] for id, r in cell.records.items() for name, _ in r.attacks
    ]
    clean = next(iter(read_all.values()))["clean/right"]
    return {
        "clean": round(100 * float(clean.mean()), 1),
        "worst": round(100 * float(worst(right).mean()), 1),
    }
