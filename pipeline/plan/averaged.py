"""Runs that average a trajectory: the training they follow, and the epochs they take of it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.plan import checks, values
from pipeline.plan.artifacts import Run
from pipeline.plan.entries import Resolved, Setting
from pipeline.plan.schema import digest

if TYPE_CHECKING:
    from pipeline.plan.graph import Graph


def runs(graph: "Graph", name: str, setting: Setting) -> tuple[list[Run], str]:
    """The runs of an entry of `averages:`, and how its members combine."""
    entries, where = graph.entries, f"averages.{name}"
    root, entry = entries.entry("averages", name)
    types = entries.component("averages", root).types
    values.only(entry, (*types, "of", "members"), where, must=("of",))
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
    return [_run(graph, average, trajectory) for trajectory in trajectories], combine


def _run(graph: "Graph", average: Resolved, of: Run) -> Run:
    entries = graph.entries
    spec = {
        "stage": "average",
        "core": entries.core["average"],
        "trajectory": digest(of.spec),
        "average": average.spec,
        "data": of.dataset.digest,
        "threads": entries.threads,
    }
    head = f"{of.dataset.name}-{of.arch}-{average.name}-s{of.spec['seed']}"
    id, stage = f"{head}-{digest(spec)}", "average"
    run = Run(id, stage, average.name, of.dataset, of.arch, spec, of.members, (of.id,))
    return graph.runs.setdefault(id, run)
