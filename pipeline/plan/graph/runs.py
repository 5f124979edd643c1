"""Methods to runs: the trainings behind a row, and those behind an average."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.plan.graph import outside
from pipeline.plan.graph.artifacts import Element, Run, Victim, tail
from pipeline.plan.graph.averages import name_average, resolve_average
from pipeline.plan.graph.graph import Graph
from pipeline.plan.params import checks, schema, values
from pipeline.plan.params.entries import Resolved, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

ATTACKS = ("attack", "validation_attack")  # fields of a recipe
PARENT_KEYS = ("method", "arch", "recipe", "members", "seed", "checkpoint")

# How a parent is named: victims.py is built on this file, so it is handed down. The entries of
# `parents:` being resolved come along, outermost first.
NameParent = Callable[[str, Setting, tuple[str, ...]], Victim]


class Trained(NamedTuple):
    """The runs behind a row, how their members combine, and archs (see `Victim`)."""

    runs: list[Run]
    combine: str
    archs: set[tuple[str, str]]


def name_runs(
    graph: Graph,
    name: str,
    setting: Setting,
    name_parent: NameParent,
    resolving: tuple[str, ...] = (),
) -> Trained:
    """The runs behind a method or an average, and what is asked of them."""
    if graph.kind(name) == "averages":
        average, of, best = resolve_average(graph, name, setting)
        members = graph.entries.members("averages", name, setting)
        inner = replace(setting, members=members)
        found = name_runs(graph, of, inner, name_parent, resolving)
        return found._replace(runs=[name_average(graph, average, r, best) for r in found.runs])

    members = graph.entries.members("methods", name, setting)
    method, recipe = graph.entries.method(name, setting)
    if members > 1:
        types = graph.entries.component("methods", method.component).types
        checks.joint(method.name, method.component, method.fields, types)
    parents = _name_parents(graph, method, setting, name_parent, resolving)
    joint = method.fields["joint"] or members == 1

    # Members that train apart are runs of their own, which a row of more members shares.
    size, seeds = (members, setting.seeds(1)) if joint else (1, setting.seeds(members))

    trained: list[Run] = []
    for seed in seeds:
        edges = parents | _name_earlier(graph, method, setting, trained)
        trained.append(_name_training(graph, method, recipe, setting, size, seed, edges))
    return Trained(trained, method.fields["combine"], _list_archs(graph, method, setting, parents))


def _list_archs(
    graph: Graph, method: Resolved, setting: Setting, parents: dict[str, Victim]
) -> set[tuple[str, str]]:
    """Used and asked for: the row's own, those of networks that train along, of parents."""
    asked = {setting.arch, *_find_archs(graph, method, method.fields).values()} - {"same"}
    own = {(graph.entries.arch(name).name, name) for name in asked}
    return own.union(*(parent.archs for parent in parents.values()))


def _find_archs(graph: Graph, method: Resolved, fields: Entry) -> Entry:
    """The fields of a method that name an arch; `same` is the row's own."""
    types = graph.entries.component("methods", method.component).types
    return {k: v for k, v in fields.items() if types[k] == "Arch"}


def combine_runs(
    name: str,
    runs: list[Run],
    setting: Setting,
    combine: str,
    scale: float,
    members: int,
    member: int | None = None,
    archs: Iterable[tuple[str, str]] = (),
) -> Victim:
    """The members of some runs under one rule, or the one `member` of them."""
    rule = combine if members > 1 else "single"
    elements = tuple(  # an average has one checkpoint
        Element(run.id, setting.checkpoint if run.stage == "train" else "last") for run in runs
    )
    spec = {
        "elements": [[tail(e.run), e.checkpoint] for e in elements],
        "combine": rule,
        "logit_scale": scale,
        **({"member": member} if member is not None else {}),
    }

    dataset, arch = runs[0].dataset, runs[0].arch
    id = f"{dataset.name}-{arch}-{name}-x{members}-s{setting.seed}-{digest(spec)}"
    return Victim(id, name, dataset, elements, rule, scale, members, member, tuple(sorted(archs)))


def find_fields(graph: Graph, row: str) -> set[str]:
    """The keys that an axis may vary for a row: its component's and its recipe's."""
    kind = graph.kinds.get(row)
    if kind is None:
        return set()
    root, entry = graph.entries.entry(kind, row)
    if kind == "victims":
        is_file = entry.get("of") == outside.FILE
        return find_fields(graph, str(entry.get("method" if is_file else "of")))

    own = graph.entries.component(kind, root).types
    averaged = find_fields(graph, str(entry.get("method"))) if kind == "averages" else set()
    return {*own, *averaged, *graph.entries.recipe_types}


def _name_training(
    graph: Graph,
    method: Resolved,
    recipe: Entry,
    setting: Setting,
    members: int,
    seed: int,
    edges: dict[str, Victim],
) -> Run:
    entries = graph.entries
    stand_in, factor = entries.stand_in(setting.dataset)
    dataset, arch = entries.dataset(stand_in), entries.arch(setting.arch)

    fields = dict(method.fields)
    if members == 1:  # how members meet is no part of what one member learns
        fields |= {"joint": False, "combine": "single"}

    checks.validation(dataset.fields, recipe, dataset.name)
    checks.augmentation(dataset.fields, recipe, dataset.name)
    if recipe.get("micro_batch"):
        own_step = schema.writes_step(method.component)
        checks.parts(method.name, method.component, own_step, recipe["micro_batch"])
    start, files = outside.describe_start(entries, method.name)

    types = entries.component("methods", method.component).types
    archs = {
        k: entries.arch(setting.arch if v == "same" else v).spec
        for k, v in _find_archs(graph, method, fields).items()
    }
    attacks = {k: v for k, v in fields.items() if types[k] == "Attack"}  # of the method itself
    attacks = {k: _craft(graph, v, factor, setting) for k, v in attacks.items()}

    spec: Entry = {
        "stage": "train",
        "core": entries.core["train"],
        "data": dataset.digest,
        "arch": arch.spec,
        "method": {**method.spec, "fields": fields},
        "recipe": {k: v for k, v in recipe.items() if k not in ATTACKS},
        **{k: _craft(graph, recipe[k], factor, setting) for k in ATTACKS},
        "threads": entries.threads,
        "members": members,
        "seed": seed,
        "parents": {k: tail(v.id) for k, v in edges.items()},
        **({"attacks": attacks} if attacks else {}),
        **({"archs": archs} if archs else {}),
        **start,
    }

    id = f"{dataset.name}-{arch.name}-{method.name}-s{seed}-{digest(spec)}"
    parents = tuple(e.run for v in edges.values() for e in v.elements)
    run = Run(id, "train", method.name, dataset, arch.name, spec, members, parents, edges, files)
    return graph.runs.setdefault(id, run)


def _craft(graph: Graph, name: str, factor: Fraction, setting: Setting) -> Entry | None:
    """The spec of an attack used in training, which differentiates what is trained."""
    if name == "none":
        return None
    if graph.entries.surrogate(name) != "self":
        raise UserError(f"params.yaml: attacks.{name}: has a surrogate; not for training")
    return graph.entries.attack_in(name, factor, setting).spec


def _name_parents(
    graph: Graph,
    method: Resolved,
    setting: Setting,
    name_parent: NameParent,
    resolving: tuple[str, ...],
) -> dict[str, Victim]:
    """The victims that a method's Parent fields name, by field."""
    types = graph.entries.component("methods", method.component).types
    parents = {}
    for field, name in method.fields.items():
        if types[field] not in ("Parent", "Start") or name == "none":
            continue

        where = f"parents.{name}"
        _, entry = graph.entries.entry("parents", name)
        values.only(entry, PARENT_KEYS, where, must=("method",))
        graph.kind(entry["method"], f"{where}.method")
        if name in resolving:
            raise UserError(f"params.yaml: {where}: would be trained from itself")

        inner = _parent_setting(graph, entry, where, setting)
        parents[field] = name_parent(entry["method"], inner, (*resolving, name))
        if types[field] == "Start":
            members = graph.entries.members("methods", method.name, setting)
            _check_start(graph, parents[field], inner, members, setting, where)
    return parents


def _check_start(
    graph: Graph, parent: Victim, inner: Setting, members: int, setting: Setting, where: str
) -> None:
    """Raise UserError unless a parent's members can be where a method's own start."""
    if parent.members != members:
        raise UserError(f"params.yaml: {where}: has {parent.members} members to start {members}")
    archs = [graph.entries.arch(s.arch).name for s in (inner, setting)]
    if len(set(archs)) > 1:
        raise UserError(f"params.yaml: {where}.arch: {archs[0]} cannot start members of {archs[1]}")


def _name_earlier(
    graph: Graph, method: Resolved, setting: Setting, trained: list[Run]
) -> dict[str, Victim]:
    """The members trained before the next one, as the parent that an Earlier field is."""
    types = graph.entries.component("methods", method.component).types
    rules = {k: v for k, v in method.fields.items() if types[k] == "Earlier" and v != "none"}
    for field, rule in rules.items():
        checks.one_of(rule, checks.COMBINATIONS, f"methods.{method.name}.{field}")

    if not trained:
        return {}
    last = replace(setting, checkpoint="last")
    return {
        field: combine_runs(method.name, trained, last, rule, 1.0, len(trained))
        for field, rule in rules.items()
    }


def _parent_setting(graph: Graph, entry: Entry, where: str, setting: Setting) -> Setting:
    """The row's setting with the keys of an entry of `parents:`."""
    own: Entry = {"checkpoint": "last"}  # whatever the table shows of its rows
    own |= {k: entry[k] for k in PARENT_KEYS[1:] if k in entry}
    if isinstance(own.get("arch"), dict):  # one arch per data set
        own["arch"] = own["arch"].get(setting.dataset, setting.arch)
    for key in {"arch", "recipe"} & own.keys():
        values.find(graph.entries.section(f"{key}s"), f"{where}.{key}", own[key])
    checks.parent(own, where)
    return replace(setting.bare(), **own)
