"""Figures: which cells of which table a picture shows, and what it is drawn with.

An entry of `figures:` takes its settings (data set, arch, recipe, seeds, axes) from a table, so
what it shows is what the table's numbers are of, and nothing is trained twice.
"""

import ast
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph import suites, table_entries, tables
from pipeline.plan.graph.artifacts import tail
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.targets import Cell, Figure
from pipeline.plan.params import checks, schema, values
from pipeline.plan.params.entries import Entries, Resolved
from pipeline.plan.params.schema import ROOT
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest, nearest

# where: one value each of what the table varies (dataset, arch, members, seed, an axis)
KEYS = checks.BESIDE["figures"]
PLURAL = {"dataset": "datasets", "arch": "archs", "seed": "seeds"}
TABLES_OWN = "dots"  # the picture beside every table, which is no figure of its own


def build(graph: Graph, name: str) -> Figure:
    """Figure `name` at the plan's scale."""
    entries, where = graph.entries, f"figures.{name}"
    entry = _read_entry(entries, name)
    table = _read_table(graph, entry, where)
    cells = tuple(replace(cell, reference=None) for cell in tables.cells_of(graph, table))

    component = entries.component("figures", entry["kind"])
    settings = {k: v for k, v in entry.items() if k not in KEYS}
    if "images" in settings:  # at most those that the scale leaves its table
        count = values.as_int(settings["images"], f"params.yaml: {where}.images", 1)
        settings["images"] = min(count, table["images"])
    factor = entries.stand_in(table["datasets"][0])[1]
    fields = values.coerce(
        settings, component.types, where, eps_factor=factor, ranges_of=component.ranges
    )
    kind = Resolved(entry["kind"], component.name, fields, component.code)

    reads_weights = bool(_read_constant(entry["kind"], "reads_weights"))
    pools = not reads_weights or _read_constant(entry["kind"], "pools_seeds", False)
    if len(table["seeds"]) > 1 and not pools:
        listed = ", ".join(map(str, table["seeds"]))
        raise UserError(f"params.yaml: {where}.where: needs a seed, one of {listed}")

    _check_columns(entries, entry, fields, where)
    tables.check_met(entries, table, fields.get("columns", ()), cells, f"{where}.columns")
    _check_attacks(entries, fields, component.types, where)
    _check_records(graph, table, fields, cells, where)

    attacks = tuple(_resolve_attacks(entries, kind, component.types, cell) for cell in cells)
    spec = _build_spec(entries, entry, kind, cells, attacks) | {"pool": table["images"]}
    if "reported" in fields:
        spec["reported"] = tables.reported_sum(fields["reported"], where)

    path = tables.target_path(name, "figures").with_suffix(".png")
    return Figure(
        name=name,
        path=path,
        cells=cells,
        spec=spec,
        digest=digest(spec),
        kind=kind.spec,
        attacks=attacks,
        pool=table["images"],
        reads_weights=reads_weights,
    )


def _read_entry(entries: Entries, name: str) -> Entry:
    """The keys of a figure, cut by the scale, of the kinds they must be."""
    where = f"figures.{name}"
    entry = entries.cut("figures", name, entries.entry("figures", name)[1])
    values.only(entry, entry, where, must=KEYS)
    kinds = [k for k in schema.available("figures") if k != TABLES_OWN]
    checks.one_of(entry["kind"], tuple(kinds), f"{where}.kind")
    values.only(entry, (*KEYS, *entries.component("figures", entry["kind"]).types), where)
    checks.title(entry["title"], f"params.yaml: {where}.title")
    if not isinstance(entry["where"], dict):
        raise UserError(f"params.yaml: {where}.where: needs a mapping such as {{members: 3}}")
    return entry


def _read_table(graph: Graph, entry: Entry, where: str) -> Entry:
    """The entry of the figure's table with the figure's rows, suites and points."""
    entries = graph.entries
    values.find(entries.section("tables"), f"{where}.table", entry["table"])
    rows = [*graph.kinds, *table_entries.list_planned(graph)]
    checks.names(entry["rows"], rows, f"{where}.rows")
    if entry["suites"]:
        checks.names(entry["suites"], entries.section("suites"), f"{where}.suites")

    table = table_entries.read_entry(graph, entry["table"], all_rows=True)
    changed = {"rows": entry["rows"], "suites": entry["suites"], "reference": "none"}
    for key, value in entry["where"].items():
        table |= {PLURAL.get(key, key): _pick(table, key, value, f"{where}.where.{key}")}

    if len(table["datasets"]) > 1:
        listed = ", ".join(table["datasets"])
        raise UserError(f"params.yaml: {where}.where: needs a dataset, one of {listed}")
    return table | changed


def _pick(table: Entry, key: str, value: Any, where: str) -> list[Any]:
    """One value of what a table varies; raises UserError when it does not."""
    plural = PLURAL.get(key, key)
    varied = [k for k in table if k not in table_entries.KEYS] + ["members", *PLURAL.values()]
    if plural not in varied or key in PLURAL.values():
        known = ["dataset", "arch", "members", "seed", *(k for k in varied if k in table)]
        raise UserError(f"params.yaml: {where}: no such part of a table{nearest(key, known)}")

    values_of_table = [
        p for d in table["datasets"] for p in table_entries.find_points(table, plural, d)
    ]
    if value not in values_of_table:
        listed = ", ".join(dict.fromkeys(map(str, values_of_table)))
        raise UserError(f"params.yaml: {where}: {value!r} is none of its table's: {listed}")
    return [value]


def _check_columns(entries: Entries, entry: Entry, fields: Entry, where: str) -> None:
    """Raise UserError for columns that no suite of the figure gives."""
    if "columns" in fields:
        whole = [s for s in entry["suites"] if not suites.leaves(entries, s)]
        known = ["clean", *(a for s in whole for a in suites.names(entries, s))]
        checks.names(fields["columns"], known, f"{where}.columns")


def _check_records(
    graph: Graph, table: Entry, fields: Entry, cells: tuple[Cell, ...], where: str
) -> None:
    """Raise UserError for suites on two splits, whose images no picture can hold together, and for
    `along` what is neither a number on an axis of the table nor a setting of an attack."""
    records = [record for cell in cells for record in cell.records.values()]
    splits = sorted({record.split for record in records})
    if len(splits) > 1:
        raise UserError(
            f"params.yaml: {where}.suites: are of two splits, {' and '.join(splits)}; take one"
        )

    along = fields.get("along")
    if along is None or not records:
        return
    axes = [k for k in table if k not in table_entries.KEYS]
    if along in axes:
        for dataset in table["datasets"]:
            for point in table_entries.find_points(table, along, dataset):
                values.fraction(point, f"params.yaml: {where}.along: {along}")
        return

    specs = [spec for record in records for _, spec in record.attacks]
    crafted = [graph.sets[s["set"]].attack if "set" in s else s for s in specs]
    stated = [pair for spec in crafted for pair in values.settings_of(spec["fields"]).items()]
    known = {key for key, value in stated if type(value) in (int, float)}
    if along != "members" and along not in known:
        raise UserError(
            f"params.yaml: {where}.along: {along!r} is no axis of table {table['title']!r} and no "
            f"number of an attack of its suites{nearest(along, [*axes, *known])}"
        )


def _list_named(fields: Entry, types: Mapping[str, str]) -> dict[str, list[str]]:
    """Attacks that a kind's fields name, by field; `none` is no attack."""
    named = {k: [fields[k]] for k, kind in types.items() if kind == "Attack"}
    named |= {k: fields[k] for k, kind in types.items() if kind == "list[Attack]"}
    return {k: [name for name in names if name != "none"] for k, names in named.items()}


def _check_attacks(entries: Entries, fields: Entry, types: Mapping[str, str], where: str) -> None:
    for key, names in _list_named(fields, types).items():
        for name in names:
            values.find(entries.section("attacks"), f"{where}.{key}", name)


def _resolve_attacks(
    entries: Entries, kind: Resolved, types: Mapping[str, str], cell: Cell
) -> Entry:
    """Specs of a figure's own attacks, at a cell's radius."""
    factor = entries.stand_in(cell.setting.dataset)[1]
    return {
        name: {
            **entries.attack_in(name, factor, cell.setting).spec,
            "surrogate": entries.surrogate(name),
        }
        for names in _list_named(kind.fields, types).values()
        for name in names
    }


def _build_spec(
    entries: Entries,
    entry: Entry,
    kind: Resolved,
    cells: tuple[Cell, ...],
    attacks: tuple[Entry, ...],
) -> Entry:
    """What a figure's receipt is a digest of."""
    return {
        "core": entries.core["figure"],
        "scale": entries.scale_name,
        "title": entry["title"],
        "kind": kind.spec,
        "threads": entries.threads,
        "attacks": attacks,
        "cells": [_describe_cell(cell) for cell in cells],
    }


def _describe_cell(cell: Cell) -> list[Any]:
    """What a cell is called in the picture, and what it rests on."""
    setting = cell.setting
    points = [list(point) for point in setting.overrides]
    victim = tail(cell.victim.id) if cell.victim else None
    records = sorted(record.id for record in cell.records.values())
    return [cell.row, setting.arch, cell.members, cell.seed, points, victim, records]


@cache
def _read_constant(kind: str, name: str, usual: object = None) -> object:
    """A constant of a kind's class; raises UserError where it has none and none is usual."""
    path = ROOT / "pipeline" / "figures" / f"{kind}.py"
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value:
            return ast.literal_eval(node.value)
    if usual is None:
        raise UserError(f"{path}: its class has no constant {name}")
    return usual
