"""A micro-run of every stage, method and rule of combining: params.yaml cut to seconds.

A part is named by its stage, and by what it varies: `train/aute`, `evaluate/rules`.
"""

import copy
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from pipeline import average, evaluate, figure, prepare, tabulate, train, transfer
from pipeline.adopt import adopt
from pipeline.download import main as download
from pipeline.job import device
from pipeline.loading import registry
from pipeline.plan import Plan, shared
from pipeline.plan.params.reader import read
from pipeline.plan.params.schema import ROOT, available
from pipeline.plan.params.values import inherit
from pipeline.plan.params.words import digest
from pipeline.share import writer
from pipeline.share.micro import TABLE, params_for
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.store.records import read_arrays

SHOWN = {"table": "table1", "rows": ["pgd_at_single", "meat"], "where": {}, "title": "golden"}
GRID = {**SHOWN, "suites": [], "half": 1, "images": 20, "members": 0, "seed": 0}
FIGURES = {
    "margins": {**SHOWN, "kind": "histogram", "suites": ["unified"]},
    "images": {**GRID, "kind": "image_landscape", "radius": "8/255"},
    "weights": {**GRID, "kind": "weight_landscape", "attack": "pgd10", "span": 0.5},
}
FIGURES["margins"] |= {"columns": ["clean", "pgd10"], "bins": 4}
# The methods' own trainings: a step in every third of a schedule
METHOD_RECIPE = {"epochs": 3, "batch_size": 16, "train_images": 16, "validate_every": 3}
# Entries whose recipe takes what no method's own training does: averages of weights, schedules
RECIPES = ("pgd_at_ema", "seat_own", "hat_own")
TRAININGS = (*available("methods"), *RECIPES)
PARTS = ("prepare", "train", "average", "evaluate", "tabulate", "figure")
PARTS += (*(f"train/{entry}" for entry in TRAININGS), "train/adopted", "average/best")
PARTS += ("transfer", "evaluate/rules")

# Rules of combining that are no method's own, and a module of the user's
RULE_RECIPE = {"epochs": 4, "batch_size": 16, "train_images": 64, "validate_every": 4}
RULES = {
    "golden_vote": {"of": "soe", "combine": "vote"},
    "golden_each": {"of": "red", "combine": "random_each"},
    "golden_drawn": {"of": "red", "members": 2, "seed": 900},
}
MODULE = """import torch


def build():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
CUT = {"steps": 3, "restarts": 1, "targets": 2}

Watch = Callable[[str], AbstractContextManager[None]]  # entered while a part is made


def micro_params() -> dict:
    """params.yaml cut to one method and its median."""
    params = read(ROOT / "params.yaml")
    demo = params["scales"]["demo"]
    demo["recipe"] = {"epochs": 6, "batch_size": 32, "train_images": 320, "validate_every": 3}
    demo["images"] = 40
    params["suites"] = {
        "unified": {"attacks": ["pgd10"]},
        "core": {"attacks": ["apgd_ce", "autoattack"]},
    }
    meat = {**params["averages"]["meat"], "start": 80}
    best = {"base": "meat", "best": True, "bn_statistic": "median_of_ema"}
    params["averages"] = {"meat": meat, "golden_best": best}
    demo["tables"], demo["figures"] = {}, {}
    table = params["tables"]["table1"]
    table |= {"rows": ["pgd_at_single", "meat"], "suites": ["unified", "core"], "reported": "none"}
    table["columns"] = ["clean", "pgd10", "core_worst", "parameters", "train_flops"]
    params["tables"] = {"table1": table, "averages": {**table, "rows": ["golden_best"]}}
    params["figures"] = {name: copy.deepcopy(entry) for name, entry in FIGURES.items()}
    params["scale"] = "demo"
    return params


def method_params() -> dict:
    """params.yaml cut to the entry of every training, each in a table of its name."""
    published = read(ROOT / "params.yaml")
    tables = {}
    for name in TRAININGS:
        component, _ = inherit(published["methods"], "methods", name)
        params = params_for(published, "methods", component, has_cifar10=False)
        (table,) = [t for t in params["tables"].values() if name in t["rows"]]
        tables[name] = {**table, "rows": [name]}
    params["tables"] = tables
    params["scales"]["demo"]["recipe"] = METHOD_RECIPE
    return params


def rule_params(outside: dict) -> dict:
    """params.yaml cut to a victim of each rule of combining, under the adaptive attacks."""
    params = read(ROOT / "params.yaml")
    demo = params["scales"]["demo"]
    demo |= {"recipe": RULE_RECIPE, "recipes": {}, "images": 20, "tables": {}, "figures": {}}
    params["victims"] |= {**RULES, "golden_outside": outside}
    suites = {
        "core": {"attacks": ["fgsm"], "stop_when_fooled": True},
        "after": {"attacks": ["margin_pgd100"], "stop_when_fooled": True, "after": "core"},
        "adaptive": {"attacks": params["suites"]["adaptive"]["attacks"]},
        "peers": {"attacks": ["pgd10_cooled", "pgd10_heated"], "peers": True},
        "sets": {"attacks": ["mpgd", "sgm"], "surrogates": ["transfer_at", "golden_drawn"]},
    }
    for attack in {name for suite in suites.values() for name in suite["attacks"]}:
        fields = inherit(params["attacks"], "attacks", attack)[1]
        demo["attacks"][attack] = {k: most for k, most in CUT.items() if fields.get(k, 0) > most}
    rows = ["soe", "red", "more", "golden_vote", "golden_each", "golden_outside"]
    table = {**TABLE, "rows": rows, "members": [2], "suites": list(suites), "images": 20}
    return {**params, "suites": suites, "tables": {"rules": table}, "figures": {}, "scale": "demo"}


def _write_outside() -> dict:
    """Two files of weights for a module of the user's, and the entry that names them."""
    Path("module.py").write_text(MODULE)
    files = ["outside0.safetensors", "outside1.safetensors"]
    for number, file in enumerate(files):
        steps = torch.arange(640).reshape(10, 64) * (7 + number) % 17
        save_file({"1.weight": steps / 16 - 0.5, "1.bias": torch.zeros(10)}, file)
    sums = [sha256_of(Path(file)) for file in files]
    entry = {"of": "file", "file": files, "sha256": sums, "method": "standard", "members": 2}
    entry |= {"mean": [0.25], "std": [0.5], "dataset": "digits"}
    return {**entry, "model": "module.py:build"}


def micro_run(watch: Watch = lambda part: nullcontext()) -> dict:
    """Run every stage in the current folder; what each part gave."""
    params = micro_params()
    writer.write(Path(), params)
    plan = Plan(params)
    download(["digits"])
    data = plan.dataset("digits")
    prepare.prepare(
        registry.component_class("datasets", "digits")(**data.fields), data.raw, data.folder
    )
    found = {"prepare": _prepared(params, data, plan)}
    table = plan.table("table1")
    records, runs = plan.needs(table)
    best = plan.needs(plan.table("averages"))[1]
    for part, several in (("train", runs), ("average", runs), ("average/best", best)):
        made = [run for run in several if run.stage == part.partition("/")[0]]
        with watch(part):
            _make_runs(plan, made)
        found[part] = _weights(params, made)
    with watch("evaluate"):
        _evaluate(plan, records)
    found["evaluate"] = _verdicts(params, records)
    tabulate.tabulate(plan, table, False)
    found["tabulate"] = _numbers(params, table)
    for shown in plan.figures.values():
        figure.draw(plan, shown)
    found["figure"] = _drawn(params, plan)
    return found | _train_methods(watch) | _judge_rules(watch)


def _train_methods(watch: Watch) -> dict:
    """Train by every method, and by what no method's own entry asks."""
    params = method_params()
    plan = Plan(params)
    found = {}
    for name in params["tables"]:
        _, runs = plan.needs(plan.table(name))
        with watch(f"train/{name}"):
            _make_runs(plan, runs)
        found[f"train/{name}"] = _weights(params, [run for run in runs if run.entry == name])
    return found


def _judge_rules(watch: Watch) -> dict:
    """Craft on one member and on a random ensemble, and judge a victim of each rule."""
    params = rule_params(_write_outside())
    plan = Plan(params)
    records, runs = plan.needs(plan.table("rules"))
    sets = [plan.set(id) for id in sorted({id for record in records for id in record.sets})]
    adopted = [run for run in runs if run.stage == "adopt"]
    _make_runs(plan, [run for run in runs if run.stage != "adopt"])
    with watch("train/adopted"):
        _make_runs(plan, adopted)
    with watch("transfer"):
        for transfer_set in sets:
            transfer.craft(plan, transfer_set, device.select("cpu", 1))
    with watch("evaluate/rules"):
        _evaluate(plan, records)
    found = {"train/adopted": _weights(params, adopted), "transfer": _crafted(params, sets)}
    return found | {"evaluate/rules": _verdicts(params, records)}


def _make_runs(plan: Plan, runs: list) -> None:
    where = device.select("cpu", 1)
    for run in runs:
        if run.stage == "train":
            train.train(plan, run, where, plan.snapshots_from(run.id))
        elif run.stage == "average":
            average.make_average(plan, run, where)
        else:
            adopt(plan, run)


def _evaluate(plan: Plan, records: list) -> None:
    for record in records:
        evaluate.evaluate(plan, record, device.select("cpu", 1))


# ---- what a part gave


def _entry(params: dict, stage: str, specs: list, content: bytes, numbers: list) -> dict:
    """`spec` is a digest of all that the bytes follow from but shared code."""
    bare = [{key: value for key, value in spec.items() if key != "core"} for spec in specs]
    sha = hashlib.sha256(content).hexdigest()
    rounded = [float(f"{n:.6g}") for n in numbers]
    return {
        "core": params["core"][stage],
        "spec": digest(bare, 16),
        "sha256": sha,
        "numbers": rounded,
    }


def _prepared(params: dict, data, plan: Plan) -> dict:
    tensors, _ = load_safetensors(data.folder / "test.safetensors", "")
    images = tensors["images"]
    numbers = [float(images.float().mean()), float(len(images))]
    spec = plan.entries.resolve("datasets", "digits").spec
    return _entry(params, "prepare", [spec], images.numpy().tobytes(), numbers)


def _weights(params: dict, runs: list) -> dict:
    (run,) = runs
    tensors, _ = load_safetensors(run.weights, "")
    numbers = [float(t.double().norm()) for _, t in sorted(tensors.items()) if t.ndim == 4]
    stage = shared.NUMBER.get(run.stage, run.stage)
    return _entry(params, stage, [run.spec], run.weights.read_bytes(), numbers)


def _crafted(params: dict, sets: list) -> dict:
    tensors = [load_safetensors(made.path, "")[0]["images"] for made in sets]
    content = b"".join(images.numpy().tobytes() for images in tensors)
    numbers = [float(images.mean()) for images in tensors]
    return _entry(params, "transfer", [made.spec for made in sets], content, numbers)


def _verdicts(params: dict, records: list) -> dict:
    content, numbers = io.BytesIO(), []
    records = sorted(records, key=lambda r: (r.victim.entry, r.suite))
    for record in records:
        arrays = read_arrays(record.path)
        for name in sorted(arrays):
            if name != "meta":
                content.write(np.ascontiguousarray(arrays[name]).tobytes())
            if name.endswith("right"):
                numbers.append(float(arrays[name].mean()))
    return _entry(params, "evaluate", [r.spec for r in records], content.getvalue(), numbers)


def _numbers(params: dict, table) -> dict:
    details = json.loads(table.path.with_suffix(".json").read_text())
    numbers = [row["core_worst"]["mean"] for row in details["rows"].values()]
    return _entry(params, "tabulate", [table.spec], table.path.read_bytes(), numbers)


def _drawn(params: dict, plan: Plan) -> dict:
    content, numbers = b"", []
    for shown in plan.figures.values():
        path = shown.path.with_suffix(".csv")
        content += path.read_bytes()
        frame = pd.read_csv(path)
        numbers += frame["loss" if "loss" in frame else "share"].tolist()
    return _entry(params, "figure", [f.spec for f in plan.figures.values()], content, numbers)
