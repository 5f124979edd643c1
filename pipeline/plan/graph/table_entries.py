"""What the entry of a table says at a scale, checked before any cell is named."""

from fractions import Fraction
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph import column_names as columns
from pipeline.plan.graph import suites
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.runs import find_fields
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.scale import shrink
from pipeline.plan.params.values import Entry

KEYS = (
    "title",
    "recipe",
    "datasets",
    "archs",
    "members",
    "seeds",
    "rows",
    "columns",
    "suites",
    "means",
    "images",
    "checkpoint",
    "reference",
    "reported",
    "printed",
)


def is_cut(entries: Entries, name: str) -> bool:
    """Whether the scale shows fewer rows of this table than params.yaml names."""
    cut = entries.part("tables").get(name, {})
    return "rows" in cut or cut.get("variants") is False


def read_entry(graph: Graph, name: str, all_rows: bool) -> Entry:
    """The keys of a table, cut by the scale and checked."""
    entries, where = graph.entries, f"tables.{name}"
    _, whole = entries.entry("tables", name)
    values.only(whole, whole, where, must=KEYS)
    is_on_request(entries, name)
    whole.pop("on_request", None)

    # a scale names rows of the whole table, and may leave out the variants
    rows, main = (_list_rows(whole["rows"], variants) for variants in (True, False))
    entry = entries.cut("tables", name, {**_shrink(entries, whole, where), "rows": rows})
    variants = entry.pop("variants", True)
    if "rows" in entries.part("tables").get(name, {}) and variants is not True:
        raise UserError(
            f"params.yaml: scales.{entries.scale_name}.{where}: `rows` and `variants` both choose "
            "rows; keep one"
        )
    if not values.as_bool(variants, f"params.yaml: scale's {where}.variants"):
        entry["rows"] = main
    if all_rows:
        entry["rows"] = rows

    _check_entry(graph, entry, where)
    return entry | {k: _check_axis(graph, entry, k, where) for k in entry if k not in KEYS}


def _check_entry(graph: Graph, entry: Entry, where: str) -> None:
    """Raise UserError unless every key but the axes has a value that can be used."""
    entries = graph.entries
    for key in ("datasets", "suites"):
        checks.names(entry[key], entries.section(key), f"{where}.{key}")
    known = [*graph.kinds, *list_planned(graph)]
    for dataset in entry["datasets"]:
        checks.names(
            find_points(entry, "archs", dataset), entries.section("archs"), f"{where}.archs"
        )
        checks.names(find_points(entry, "rows", dataset), known, f"{where}.rows")
        checks.counts(find_points(entry, "members", dataset), f"{where}.members", 1)

    _check_columns(graph, entry, where)
    checks.counts(entry["seeds"], f"{where}.seeds")
    values.as_int(entry["images"], f"params.yaml: {where}.images", 1)
    values.find(entries.section("recipes"), f"{where}.recipe", entry["recipe"])
    checks.one_of(entry["checkpoint"], checks.CHECKPOINTS, f"{where}.checkpoint")
    if entry["reference"] != "none":
        graph.kind(entry["reference"], f"{where}.reference")
    values.as_word(entry["reported"], f"params.yaml: {where}.reported")
    if entry["printed"] != "any":
        values.as_int(entry["printed"], f"params.yaml: {where}.printed", 1)
    checks.title(entry["title"], f"params.yaml: {where}.title")


def _list_rows(rows: Any, variants: bool) -> Any:
    """Rows in one list, by data set or not; those in inner brackets only as `variants`."""
    if isinstance(rows, dict):
        return {dataset: _list_rows(asked, variants) for dataset, asked in rows.items()}
    if not isinstance(rows, list):
        return rows
    groups = [row if isinstance(row, list) else [row] for row in rows]
    return [
        n
        for row, group in zip(rows, groups, strict=True)
        if variants or row is not group
        for n in group
    ]


def find_points(entry: Entry, key: str, dataset: str) -> Any:
    """The values of a key for one data set: its list, or its part of a mapping by data set."""
    return entry[key].get(dataset) if isinstance(entry[key], dict) else entry[key]


def _check_columns(graph: Graph, entry: Entry, where: str) -> None:
    """Raise UserError unless every column and part of a mean can be computed, or is planned."""
    if not isinstance(entry["means"], dict):
        raise UserError(f"params.yaml: {where}.means: needs a mapping from a name to columns")
    for name, parts in columns.made(entry).items():
        known = columns.accuracies(graph.entries, entry, parts)
        checks.names(parts, known, f"{where}.means.{name}")
        if name in {*columns.accuracies(graph.entries, entry, [name]), *columns.KEYS}:
            raise UserError(f"params.yaml: {where}.means.{name}: is another column; rename it")
        if not any(set(parts) <= own for own in _list_by_split(graph.entries, entry, parts)):
            raise UserError(f"params.yaml: {where}.means.{name}: is of two splits; take one")
    known = columns.accuracies(graph.entries, entry, entry["columns"])
    known |= columns.sizes(graph.entries, entry)
    known |= {*columns.COSTS, columns.DISK, *entry["means"], *list_planned(graph)}
    for column in entry["columns"] if isinstance(entry["columns"], list) else ():
        _explain_column(graph.entries, column, known, f"{where}.columns")
    checks.names(entry["columns"], known, f"{where}.columns")


def _explain_column(entries: Entries, column: Any, known: set[str], where: str) -> None:
    """Raise UserError for a column that only wants a suite: an attack's, or a worst case."""
    if not isinstance(column, str) or column in known:
        return
    suite = column.removesuffix("_worst")
    if suite in entries.section("suites"):
        raise UserError(f"params.yaml: {where}: {column}: add {suite} to the table's suites")
    if column in entries.section("attacks"):
        raise UserError(
            f"params.yaml: {where}: {column} is an attack, but no suite of the table shows it "
            "every image (one that stops when fooled does not): add it to one that does"
        )


def _list_by_split(entries: Entries, entry: Entry, asked: list[str]) -> list[set[str]]:
    """The accuracies on each split's images."""
    by_split: dict[str, list[str]] = {}
    for suite in entry["suites"]:
        by_split.setdefault(suites.split(entries, suite), []).append(suite)
    return [columns.accuracies(entries, {**entry, "suites": s}, asked) for s in by_split.values()]


def list_planned(graph: Graph) -> list[str]:
    """Rows of methods still to come; one that exists is refused."""
    names = graph.entries.params.get("planned", [])
    if not isinstance(names, list):
        raise UserError("params.yaml: planned: needs a list of names")
    for name in names:
        if values.as_word(name, "params.yaml: planned") in graph.kinds:
            raise UserError(f"params.yaml: planned: {name} exists; take it off the list")
    return names


def is_on_request(entries: Entries, name: str) -> bool:
    """Whether a table is made when asked for by its name, and not with all others."""
    value = entries.entry("tables", name)[1].get("on_request", False)
    return values.as_bool(value, f"params.yaml: tables.{name}.on_request")


def _shrink(entries: Entries, entry: Entry, where: str) -> Entry:
    """The entry with at most the scale's images, seeds and members."""
    scale, shrunk = entries.scale, dict(entry)
    where_of = f"scales.{entries.scale_name}"
    if "images" in scale:
        limit = values.as_int(scale["images"], f"params.yaml: {where_of}.images", 1)
        shrunk["images"] = min(values.as_int(entry["images"], f"params.yaml: {where}"), limit)

    if "seeds" in scale:
        asked = checks.counts(scale["seeds"], f"{where_of}.seeds")
        kept = [s for s in checks.counts(entry["seeds"], f"{where}.seeds") if s in asked]
        if not kept:
            raise UserError(f"params.yaml: {where}.seeds: the scale keeps none of them: {asked}")
        shrunk["seeds"] = kept

    if "members" in scale:
        limit = values.as_int(scale["members"], f"params.yaml: {where_of}.members", 1)
        asked, by_dataset = entry["members"], isinstance(entry["members"], dict)
        bound = {}
        for dataset, counts in (asked if by_dataset else {"": asked}).items():
            numbers = checks.counts(counts, f"{where}.members", 1)
            bound[dataset] = sorted({min(m, limit) for m in numbers})
        shrunk["members"] = bound if by_dataset else bound[""]
    return shrunk


def _check_axis(graph: Graph, entry: Entry, key: str, where: str) -> Any:
    """The points of an axis, by data set or not: values of a field that some row has.

    `train_eps` is the radius of training and evaluation alike.
    """
    rows = {r for d in entry["datasets"] for r in find_points(entry, "rows", d)}
    fields = {f for row in rows for f in find_fields(graph, row)}
    values.only({key: None}, {*fields, *KEYS, "train_eps"}, where)
    for dataset in entry["datasets"]:
        along = find_points(entry, key, dataset)
        if not isinstance(along, list) or not along or any(isinstance(p, dict) for p in along):
            raise UserError(f"params.yaml: {where}.{key}: an axis is a list of values")
        if key == "train_eps":  # here, where it is written, and not at each attack that takes it
            for point in along:
                values.coerce({key: point}, {key: "Radius"}, where, eps_factor=Fraction(1))
        _check_apart(graph.entries, entry["recipe"], key, along, where)
    return entry[key]


def _check_apart(entries: Entries, recipe: str, key: str, along: list[Any], where: str) -> None:
    """Raise UserError where a scale's cut of a recipe makes two points of an axis one."""
    cut = entries.recipe_cut(recipe).get(key)
    if key == "epochs" or type(cut) is not int:
        return
    same = [p for p in along if type(p) is int and shrink(key, p, cut, True) == cut]
    if len(same) > 1:
        raise UserError(
            f"params.yaml: {where}.{key}: {same[0]} and {same[1]} are both {cut} at scale "
            f"{entries.scale_name}; take one off, or the scale's recipe.{key}"
        )
