"""A micro-run of every stage and method, and what came out; running it rewrites stages.json.

For each stage, and for a training by each method: its `core` number in params.yaml, the code of
the components it used, a hash of its bytes for this kind of machine, and a few numbers that any
machine must come near.
"""

import copy
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]


from pipeline import average, evaluate, figure, prepare, tabulate, train  # noqa: E402
from pipeline.download import main as download  # noqa: E402
from pipeline.job import device  # noqa: E402
from pipeline.loading import registry  # noqa: E402
from pipeline.plan import Plan, shared  # noqa: E402
from pipeline.plan.params.reader import read  # noqa: E402
from pipeline.plan.params.schema import available  # noqa: E402
from pipeline.share import writer  # noqa: E402
from pipeline.share.micro import params_for  # noqa: E402
from pipeline.store.files import load_safetensors  # noqa: E402
from pipeline.store.records import read_arrays  # noqa: E402

SHOWN = {"table": "table1", "rows": ["pgd_at_single", "meat"], "where": {}, "title": "golden"}
GRID = {**SHOWN, "suites": [], "half": 1, "images": 20, "members": 0, "seed": 0}
FIGURES = {
    "margins": {**SHOWN, "kind": "histogram", "suites": ["unified"]},
    "images": {**GRID, "kind": "image_landscape", "radius": "8/255"},
    "weights": {**GRID, "kind": "weight_landscape", "attack": "pgd10", "span": 0.5},
}
# The methods' own trainings: a step in every third of a schedule
METHOD_RECIPE = {"epochs": 3, "batch_size": 16, "train_images": 16, "validate_every": 3}
FIGURES["margins"] |= {"columns": ["clean", "pgd10"], "bins": 4}
GOLDEN = Path(__file__).with_name("stages.json")


def host_class() -> str:
    """Machines of one class give equal bytes: same torch, instructions and make of processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else "unknown processor"
    version = torch.__version__.split("+")[0]
    return f"torch {version}, {torch.backends.cpu.get_cpu_capability()}, {model}"


def micro_params() -> dict:
    """params.yaml cut to one method and its median: seconds."""
    params = read(ROOT / "params.yaml")
    demo = params["scales"]["demo"]
    demo["recipe"] = {"epochs": 6, "batch_size": 32, "train_images": 320, "validate_every": 3}
    demo["images"] = 40
    params["suites"] = {
        "unified": {"attacks": ["pgd10"]},
        "core": {"attacks": ["apgd_ce", "autoattack"]},
    }
    params["averages"] = {"meat": {**params["averages"]["meat"], "start": 80}}
    demo["tables"], demo["figures"] = {}, {}
    table = params["tables"]["table1"]
    table |= {"rows": ["pgd_at_single", "meat"], "suites": ["unified", "core"], "reported": "none"}
    table["columns"] = ["clean", "pgd10", "core_worst", "parameters", "train_flops"]
    params["tables"] = {"table1": table}
    params["figures"] = {name: copy.deepcopy(entry) for name, entry in FIGURES.items()}
    params["scale"] = "demo"
    return params


def method_params() -> dict:
    """params.yaml cut to the entry of every method, each in a table of its name."""
    published = read(ROOT / "params.yaml")
    tables = {}
    for name in available("methods"):
        params = params_for(published, "methods", name, has_cifar10=False)
        (table,) = [t for t in params["tables"].values() if name in t["rows"]]
        tables[name] = {**table, "rows": [name]}
    params["tables"] = tables
    params["scales"]["demo"]["recipe"] = METHOD_RECIPE
    return params


def train_methods() -> dict:
    """Train by every method in the current folder, whose data are prepared; what each gave."""
    params = method_params()
    plan = Plan(params)
    stages = {}
    for name in params["tables"]:
        _, runs = plan.needs(plan.table(name))
        for run in runs:
            train.train(plan, run, device.select("cpu", 1), plan.snapshots_from(run.id))
        own = [r for r in runs if r.spec["method"]["component"] == name]  # not its parents
        stages[f"train/{name}"] = _weights(params, "train", own, plan)
    return stages


def micro_run() -> dict:
    """Run every stage in the current folder; what each gave."""
    params = micro_params()
    writer.write(Path(), params)
    plan = Plan(params)
    where = device.select("cpu", 1)
    download(["digits"])
    data = plan.dataset("digits")
    prepare.prepare(
        registry.component_class("datasets", "digits")(**data.fields), data.raw, data.folder
    )
    table = plan.table("table1")
    records, runs = plan.needs(table)
    for run in runs:
        if run.stage == "train":
            train.train(plan, run, where, plan.snapshots_from(run.id))
        else:
            average.make_average(plan, run, where)
    for record in records:
        evaluate.evaluate(plan, record, where)
    tabulate.tabulate(plan, table, False)
    for shown in plan.figures.values():
        figure.draw(plan, shown)
    return {
        "prepare": _prepared(params, data.folder / "test.safetensors", plan),
        "train": _weights(params, "train", runs, plan),
        "average": _weights(params, "average", runs, plan),
        "evaluate": _verdicts(params, records),
        "tabulate": _numbers(params, table.path),
        "figure": _drawn(params, plan),
        **train_methods(),
    }


def _codes(specs: list) -> list[str]:
    return sorted({s["code"] for s in specs if s})


def _entry(params: dict, stage: str, codes: list[str], content: bytes, numbers: list) -> dict:
    sha = hashlib.sha256(content).hexdigest()
    rounded = [float(f"{n:.6g}") for n in numbers]
    return {"core": params["core"][stage], "code": codes, "sha256": sha, "numbers": rounded}


def _prepared(params: dict, path: Path, plan: Plan) -> dict:
    tensors, _ = load_safetensors(path, "")
    images = tensors["images"]
    numbers = [float(images.float().mean()), float(len(images))]
    code = plan.entries.resolve("datasets", "digits").code
    return _entry(params, "prepare", [code], images.numpy().tobytes(), numbers)


def _weights(params: dict, stage: str, runs: list, plan: Plan) -> dict:
    (run,) = [r for r in runs if r.stage == stage]
    path = run.folder / "weights.safetensors"
    tensors, _ = load_safetensors(path, "")
    numbers = [float(t.double().norm()) for _, t in sorted(tensors.items()) if t.ndim == 4]
    spec = run.spec if stage == "train" else plan.run(run.parents[0]).spec
    specs = [spec["arch"], spec["method"], spec["attack"], spec["validation_attack"]]
    specs += [run.spec["average"]] if stage == "average" else []
    return _entry(params, stage, _codes(specs), path.read_bytes(), numbers)


def _verdicts(params: dict, records: list) -> dict:
    content, numbers = io.BytesIO(), []
    for record in sorted(records, key=lambda r: (r.victim.entry, r.suite)):
        arrays = read_arrays(record.path)
        for name in sorted(arrays):
            if name != "meta":
                content.write(np.ascontiguousarray(arrays[name]).tobytes())
            if name.endswith("right"):
                numbers.append(float(arrays[name].mean()))
    codes = _codes([spec for r in records for _, spec in r.attacks])
    return _entry(params, "evaluate", codes, content.getvalue(), numbers)


def _numbers(params: dict, path: Path) -> dict:
    frame = path.read_text()
    table = json.loads(path.with_suffix(".json").read_text())["rows"]
    numbers = [row["core_worst"]["mean"] for row in table.values()]
    return _entry(params, "tabulate", [], frame.encode(), numbers)


def _drawn(params: dict, plan: Plan) -> dict:
    content, numbers = b"", []
    for shown in plan.figures.values():
        path = shown.path.with_suffix(".csv")
        content += path.read_bytes()
        frame = pd.read_csv(path)
        numbers += frame["loss" if "loss" in frame else "share"].tolist()
    codes = _codes([shown.kind for shown in plan.figures.values()])
    return _entry(params, "figure", codes, content, numbers)


def main() -> None:
    """Rewrite this machine's part of the golden file; bytes of older code leave it."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = micro_run()
    said = prove_equal(golden.get(host_class(), {}), found)
    golden = {host: stages for host, stages in golden.items() if _source(stages) == _source(found)}
    golden[host_class()] = found
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    print(f"{GOLDEN.name}: rewrote {host_class()}; {said}")


def prove_equal(before: dict, found: dict) -> str:
    """Let today's shared code count as that of the last run where this machine's bytes are equal;
    say for which stages."""
    proven = []
    for stage in ("train", "average", "evaluate"):
        parts = [name for name in found if name.partition("/")[0] == stage and name in before]
        same = [n for n in parts if _made_from(before[n]) == _made_from(found[n])]
        equal = all(before[name]["sha256"] == found[name]["sha256"] for name in same)
        proven += [stage] if same and equal else []
    shared.prove(
        {stage: found[stage]["core"] for stage in ("train", "average", "evaluate")}, proven
    )
    return f"shared code proven equal for: {', '.join(proven) or 'no stage'}"


def _made_from(stage: dict) -> tuple:
    return stage["core"], stage["code"]


def _source(stages: dict) -> dict:
    """What the bytes of each stage were made from."""
    return {name: _made_from(stage) for name, stage in stages.items()}


if __name__ == "__main__":
    main()
