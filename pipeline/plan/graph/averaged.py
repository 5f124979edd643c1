"""Runs that average a trajectory: the training they follow, and the epochs they take of it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Run
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Resolved, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

if TYPE_CHECKING:
    from pipeline.plan.graph.graph import Graph


KEYS = ("of", "members", "best")  # beside an average's own fields


def check(types: Iterable[str], entry: Entry, where: str) -> None:
    """Raise UserError unless an entry of `averages:` has its keys; best: the epochs' best."""
    values.only(entry, (*types, *KEYS), where, must=("of",))
    if not isinstance(entry.get("best", False), bool):
        raise UserError(f"params.yaml: {where}.best: {entry['best']!r} is not true or false")
    if entry.get("best") and "stop" not in types:
        raise UserError(f"params.yaml: {where}.best: this average follows no trajectory")


def runs(graph: "Graph", name: str, setting: Setting) -> tuple[list[Run], str]:
    """The runs of an entry of `averages:`, and how its members combine."""
    entries, where = graph.entries, f"averages.{name}"
    root, entry = entries.entry("averages", name)
    types = entries.component("averages", root).types
    check(types, entry, where)
    if graph.kind(entry["of"], f"{where}.of") != "methods":
        raise UserError(f"params.yaml: {where}.of: {entry['of']} is no method")
    setting = replace(setting, members=entries.members("averages", name, setting))
    entry |= {k: v for k, v in setting.overrides if k in types}
    own = {k: v for k, v in entry.items() if k in types}
    found = entries.resolve("averages", name, own, entries.stand_in(setting.dataset)[1])
    recipe, before = entries.training(entry["of"], setting)
    checks.window(found.fields, types, before, where)
    fields = values.rescale(found.fields, types, before, recipe["epochs"])
    trajectories, combine = graph.trained(entry["of"], setting)
    average = replace(found, fields=fields)
    best = bool(entry.get("best"))
    if best and (recipe["select"] == "lowest_train_loss" or recipe["validation_attack"] == "none"):
        raise UserError(f"params.yaml: {where}.best: recipe {setting.recipe} validates no epoch")
    return [_run(graph, average, trajectory, best) for trajectory in trajectories], combine


def snapshots(graph: "Graph", run: Run) -> int:
    """Epochs of a trajectory that an average of it keeps on disk; 0 where it keeps none."""
    fields = run.spec["average"]["fields"] if run.stage == "average" else {}
    if "start" not in fields:
        return 0
    last = fields["stop"] or graph.runs[run.parents[0]].spec["recipe"]["epochs"]
    return int(last - fields["start"] + 1)


def _run(graph: "Graph", average: Resolved, of: Run, best: bool) -> Run:
    entries = graph.entries
    spec = {
        "stage": "average",
        "core": entries.core["average"],
        "trajectory": digest(of.spec),
        "average": average.spec,
        "data": of.dataset.digest,
        "threads": entries.threads,
        **({"best": True} if best else {}),
    }
    head = f"{of.dataset.name}-{of.arch}-{average.name}-s{of.spec['seed']}"
    id, stage = f"{head}-{digest(spec)}", "average"
    run = Run(id, stage, average.name, of.dataset, of.arch, spec, of.members, (of.id,))
    return graph.runs.setdefault(id, run)
