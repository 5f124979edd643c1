"""Averages to runs: the entry of one, the training that it follows, and what it keeps on disk."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Run
from pipeline.plan.graph.graph import Graph
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Resolved, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

KEYS = checks.BESIDE["averages"]


def check_average(types: Iterable[str], entry: Entry, where: str) -> None:
    """Raise UserError unless an entry of `averages:` has its keys; best: the epochs' best."""
    values.only(entry, (*types, *KEYS), where, must=("method",))
    if not isinstance(entry.get("best", False), bool):
        raise UserError(f"params.yaml: {where}.best: {entry['best']!r} is not true or false")
    if entry.get("best") and "stop" not in types:
        raise UserError(f"params.yaml: {where}.best: this average follows no trajectory")


def count_snapshots(graph: Graph, run: Run) -> int:
    """Epochs of a trajectory that an average of it keeps on disk; 0 where it keeps none."""
    fields = run.spec["average"]["fields"] if run.stage == "average" else {}
    if "start" not in fields:
        return 0
    last = fields["stop"] or graph.runs[run.parents[0]].spec["recipe"]["epochs"]
    return int(last - fields["start"] + 1)


def resolve_average(graph: Graph, name: str, setting: Setting) -> tuple[Resolved, str, bool]:
    """An entry of `averages:` in a setting, the method it follows, and whether to the best."""
    entries, where = graph.entries, f"averages.{name}"
    root, entry = entries.entry("averages", name)
    types = entries.component("averages", root).types
    check_average(types, entry, where)
    if graph.kind(entry["method"], f"{where}.method") != "methods":
        raise UserError(f"params.yaml: {where}.method: {entry['method']} is no method")

    own = {k: v for k, v in (entry | dict(setting.overrides)).items() if k in types}
    average = entries.resolve("averages", name, own, entries.stand_in(setting.dataset)[1])
    recipe, before = entries.training(entry["method"], setting)
    checks.window(average.fields, types, before, where)
    fields = values.rescale(average.fields, types, before, recipe["epochs"])

    best = bool(entry.get("best"))
    if best and (recipe["select"] == "lowest_train_loss" or recipe["validation_attack"] == "none"):
        raise UserError(f"params.yaml: {where}.best: recipe {setting.recipe} validates no epoch")
    if best and recipe["select"] != checks.ON_TEST:
        dataset = entries.dataset(entries.stand_in(setting.dataset)[0])
        if not checks.held_out(dataset.fields, [recipe], f"{where}.best"):
            raise UserError(f"params.yaml: {where}.best: {dataset.name} holds no images out")
    if recipe["attack"] == "none" and average.fields.get("bn_data") == "adversarial":
        raise UserError(
            f"params.yaml: {where}.bn_data: adversarial, but the recipe of {entry['method']} has "
            "no attack; write clean or none"
        )
    return replace(average, fields=fields), str(entry["method"]), best


def name_average(graph: Graph, average: Resolved, of: Run, best: bool) -> Run:
    """The average of one training's trajectory, known to the graph from now on."""
    spec = {
        "stage": "average",
        "core": graph.entries.core["average"],
        "trajectory": digest(of.spec),
        "average": average.spec,
        "data": of.dataset.digest,
        "threads": graph.entries.threads,
        **({"best": True} if best else {}),
    }

    head = f"{of.dataset.name}-{of.arch}-{average.name}-s{of.spec['seed']}"
    id, stage = f"{head}-{digest(spec)}", "average"
    run = Run(id, stage, average.name, of.dataset, of.arch, spec, of.members, (of.id,))
    return graph.runs.setdefault(id, run)
