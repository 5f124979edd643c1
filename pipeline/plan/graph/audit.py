"""Every entry of params.yaml is checked, whether a table uses it or not."""

from fractions import Fraction

from pipeline.errors import UserError
from pipeline.plan.graph import averages, column_names, outside, runs, suites, victims
from pipeline.plan.graph.graph import Graph
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry


def audit(graph: Graph) -> None:
    """Raise UserError for the first entry with an unknown, missing or mistyped key."""
    entries = graph.entries
    for name in _names(entries, "datasets"):
        entries.dataset(name)
        entries.stated("datasets", name, "images")

    for name in _names(entries, "archs"):
        entries.resolve("archs", name)
        for key in checks.BESIDE["archs"]:
            entries.stated("archs", name, key)

    _check_free(entries)
    for name in _names(entries, "attacks"):
        entries.named_attack(name, Fraction(1))
        entries.surrogate(name)
        entries.suits(name, "single")

    for name in _names(entries, "suites"):
        suites.check(entries, name)
    for name in _names(entries, "recipes"):
        fields, _ = entries.recipe(name, {})
        _check_named(entries, fields, entries.recipe_types, f"recipes.{name}")
    for name in _names(entries, "methods"):
        _check_method(entries, name)
    for name in _names(entries, "averages"):
        _check_average(graph, name)
    for name in graph.kinds:
        victims.find_twin(graph, name)

    # what entries say of each other
    _check_edges(graph)
    _check_resources(entries)


STAGES = ("train", "average", "transfer", "evaluate", "figure")  # those whose jobs a cluster runs
STAGE_KEYS = ("gpus", "cpus", "mem_mb", "minutes", "slack", "most_minutes")
OWN_KEYS = {"train": ("save_minutes",), "evaluate": ("batch",)}
WORDS = {"train": {"graphs": checks.GRAPHS}}  # what need not be given, and which words it may be


def _names(entries: Entries, kind: str) -> list[str]:
    return list(entries.section(kind))


def _check_free(entries: Entries) -> None:
    """Raise UserError where verdicts would have the name of something else of their victim."""
    for kind in ("attacks", "suites"):
        for name in _names(entries, kind):
            if name in (column_names.CLEAN, column_names.DISK, *column_names.KEYS):
                raise UserError(
                    f"params.yaml: {kind}.{name}: is the name of another column; rename it"
                )


def _check_method(entries: Entries, name: str) -> None:
    """Types of a method's own keys, and of those it gives its recipe."""
    root, entry = entries.entry("methods", name)
    types = entries.component("methods", root).types
    known: Entry = entries.recipe_types
    own = {k: v for k, v in entry.items() if k in known}
    rest = {k: v for k, v in entry.items() if k not in known and k not in checks.BESIDE["methods"]}
    entries.resolve("methods", name, rest)
    values.coerce(own, {k: known[k] for k in own}, f"methods.{name}", eps_factor=Fraction(1))
    _check_named(entries, entry, known | types, f"methods.{name}")
    checks.members(entry.get("members", 1), f"methods.{name}.members")
    if "weights" in entry:
        outside.check_weights(entries, entry["weights"], f"methods.{name}.weights")


NAMED = {"Attack": "attacks", "Arch": "archs", "Parent": "parents", "Start": "parents"}


def _check_named(entries: Entries, fields: Entry, types: Entry, where: str) -> None:
    """Raise UserError unless what fields name, attacks and the like, are entries."""
    for key, name in fields.items():
        section = NAMED.get(types.get(key, ""))
        if section and name not in ("none", "same"):
            values.find(entries.section(section), f"{where}.{key}", name)


def _check_average(graph: Graph, name: str) -> None:
    """Types of an average's own keys, and that its trajectory is some method's."""
    where, (root, entry) = f"averages.{name}", graph.entries.entry("averages", name)
    types = graph.entries.component("averages", root).types
    averages.check_average(types, entry, where)
    rest = {k: v for k, v in entry.items() if k in types}
    graph.entries.resolve("averages", name, rest)
    graph.kind(entry["method"], f"{where}.method")


def _check_edges(graph: Graph) -> None:
    """Victims and parents: their keys, and that what they name exists."""
    entries = graph.entries
    for kind, keys, edge in (
        ("victims", victims.KEYS, "of"),
        ("parents", runs.PARENT_KEYS, "method"),
    ):
        for name in _names(entries, kind):
            where, entry = f"{kind}.{name}", entries.entry(kind, name)[1]
            values.only(entry, keys, where, must=(edge,))
            if entry[edge] not in victims.SPECIAL:
                graph.kind(entry[edge], f"{where}.{edge}")
            if kind == "parents":
                _check_archs(entries, entry, where)


def _check_archs(entries: Entries, entry: Entry, where: str) -> None:
    """A parent's arch, or one for each data set that it names."""
    stated = entry.get("arch", {})
    for dataset in stated if isinstance(stated, dict) else ():
        values.find(entries.section("datasets"), f"{where}.arch", dataset)
    for arch in stated.values() if isinstance(stated, dict) else [stated]:
        values.find(entries.section("archs"), f"{where}.arch", arch)


def _check_resources(entries: Entries) -> None:
    """`resources:` says what a stage's job asks for."""
    for name in _names(entries, "resources"):
        checks.one_of(name, STAGES, "resources")
        where, entry = f"resources.{name}", entries.section("resources")[name]
        keys = (*STAGE_KEYS, *OWN_KEYS.get(name, ()))
        words = WORDS.get(name, {})
        values.only(entry, (*keys, *words), where, must=keys)
        for key in words.keys() & entry.keys():
            checks.one_of(entry[key], words[key], f"{where}.{key}")
        for key in keys:
            least = 0 if key in ("gpus", "save_minutes") else 1
            values.as_int(entry[key], f"params.yaml: {where}.{key}", least)
