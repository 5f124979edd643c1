"""Rows to victims: the runs whose weights are attacked, and the rule that combines them."""

from dataclasses import replace

from pipeline.errors import UserError
from pipeline.plan.graph import outside
from pipeline.plan.graph.artifacts import Victim
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.runs import combine_runs, name_runs
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.values import Entry

# `of` in a surrogate's entry: the method of the row that is attacked; the row that its entry names
# as trained without what it proposes
SAME, TWIN = "same", "twin"
SPECIAL = (outside.FILE, SAME, TWIN)  # what `of` may say that is no entry
PLACES = ("arch", "recipe", "seed", "checkpoint")  # what a victim may change of its row's setting
OF_FILES = (*outside.FILE_KEYS, "dataset", "model", "names", *outside.READING)
KEYS = ("of", "combine", "logit_scale", "members", "member", TWIN, *PLACES, *OF_FILES)


def name_victim(
    graph: Graph, name: str, setting: Setting, resolving: tuple[str, ...] = ()
) -> Victim:
    """The victim that a row of this name is, in one setting; `resolving`: see `name_runs`."""
    key = (name, setting)
    if key not in graph.victims:
        graph.victims[key] = _name_victim(graph, name, setting, resolving)
    return graph.victims[key]


def _name_victim(graph: Graph, name: str, setting: Setting, resolving: tuple[str, ...]) -> Victim:
    changes: Entry = {}
    trained = name
    if graph.kind(name) == "victims":
        trained, changes, setting = _change(graph, name, setting)

    if trained == outside.FILE:
        run, combine = outside.name_adopted(graph, name, changes, setting)
        is_own = {"arch", "model"} & changes.keys()
        runs, archs = [run], {(run.arch, run.arch if is_own else setting.arch)}
    else:

        def name_parent(method: str, inner: Setting, along: tuple[str, ...]) -> Victim:
            return name_victim(graph, method, inner, along)

        runs, combine, archs = name_runs(graph, trained, setting, name_parent, resolving)

    combine = changes.get("combine", combine)
    combine = checks.one_of(combine, checks.COMBINATIONS, f"{graph.kind(name)}.{name}.combine")

    where = f"params.yaml: victims.{name}.logit_scale"
    scale = float(values.fraction(changes.get("logit_scale", 1), where))
    members, member = sum(run.members for run in runs), changes.get("member")
    if member is not None:
        where = f"params.yaml: victims.{name}.member"
        if values.as_int(member, where, 0) >= members:
            raise UserError(f"{where}: {member} is not one of the members 0 to {members - 1}")
        members = 1
    return combine_runs(name, runs, setting, combine, scale, members, member, archs)


def find_twin(graph: Graph, row: str) -> str | None:
    """The row that an entry, or what it attacks or averages, names as its `twin`; None for `none`.

    Raises UserError for one that is no row.
    """
    kind = graph.kind(row)
    _, entry = graph.entries.entry(kind, row)
    key = {"victims": "of", "averages": "method"}.get(kind, "")
    inner = entry.get(key)
    if TWIN not in entry:
        # one of its own kind, such as itself, is refused where it is filled in
        where = f"{kind}.{row}.{key}"
        is_deeper = inner and inner not in SPECIAL and graph.kind(inner, where) != kind
        return find_twin(graph, str(inner)) if is_deeper else None
    if entry[TWIN] == "none":
        return None
    graph.kind(entry[TWIN], f"{kind}.{row}.{TWIN}")
    return str(entry[TWIN])


def _change(graph: Graph, name: str, setting: Setting) -> tuple[str, Entry, Setting]:
    """What a `victims:` entry attacks, what it changes, and the setting it changes."""
    entries, where = graph.entries, f"victims.{name}"
    _, entry = entries.entry("victims", name)
    values.only(entry, KEYS, where, must=("of",))

    if "members" in entry:
        setting = replace(setting, members=entries.members("victims", name, setting))
    if "arch" in entry:
        arch = values.find(entries.section("archs"), f"{where}.arch", entry["arch"])
        setting = replace(setting, arch=arch)
    if "recipe" in entry:
        recipe = values.find(entries.section("recipes"), f"{where}.recipe", entry["recipe"])
        setting = replace(setting, recipe=recipe)

    if "seed" in entry or entry["of"] == outside.FILE:  # a file is one net, whatever the seed
        seed = values.as_int(entry.get("seed", 0), f"params.yaml: {where}.seed")
        setting = replace(setting, seed=seed)
    if "checkpoint" in entry:
        which = checks.one_of(entry["checkpoint"], checks.CHECKPOINTS, f"{where}.checkpoint")
        setting = replace(setting, checkpoint=which)

    if entry["of"] != outside.FILE and graph.kind(entry["of"], f"{where}.of") == "victims":
        raise UserError(f"params.yaml: {where}.of: {entry['of']} is a victim itself")
    return str(entry["of"]), entry, setting
