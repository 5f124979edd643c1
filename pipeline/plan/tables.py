"""Tables: which rows, columns and cells a target has at a scale."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import checks, schema, values
from pipeline.plan.artifacts import Cell, Table, tail
from pipeline.plan.entries import Entries, Setting
from pipeline.plan.graph import Graph
from pipeline.plan.schema import ROOT, digest
from pipeline.plan.values import Entry

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
    "images",
    "checkpoint",
    "reference",
    "reported",
)
COSTS = ("members", "parameters", "train_flops", "inference_macs")
POOLS = ("runs", "records", "snapshots", "transfer", "metrics")  # folders of results/


def target_path(name: str) -> Path:
    """results/table1.csv for `table1`, results/aute/table2.csv for `aute_table2`."""
    paper, _, table = name.rpartition("_")
    if paper in POOLS:
        raise UserError(f"params.yaml: tables.{name}: results/{paper} is taken; rename it")
    return Path("results") / paper / f"{table}.csv" if paper else Path("results") / f"{name}.csv"


def build(graph: Graph, name: str, *, all_rows: bool = False) -> Table:
    """Table `name` at the plan's scale; `all_rows` ignores the scale's cut of its rows."""
    entries = graph.entries
    entry = _entry(graph, name, all_rows)
    cells = tuple(_cells(graph, entry))
    spec = _spec(entries, entry, cells, f"tables.{name}")
    path = target_path(name)
    if all_rows:
        path = path.with_name(f"{path.stem}_all.csv")
    suites = {s: tuple(entries.suite(s)) for s in entry["suites"]}
    shown = path.with_suffix("").relative_to("results").as_posix().replace("/", "_")
    return Table(shown, path, tuple(entry["columns"]), suites, cells, spec, digest(spec))


def is_cut(entries: Entries, name: str) -> bool:
    """Whether the scale shows fewer rows of this table than params.yaml names."""
    return "rows" in entries.part("tables").get(name, {})


def _entry(graph: Graph, name: str, all_rows: bool) -> Entry:
    """The keys of a table, cut by the scale and checked."""
    entries = graph.entries
    _, whole = entries.entry("tables", name)
    values.only(whole, whole, f"tables.{name}", must=KEYS)
    entry = entries.cut("tables", name, _shrunk(entries, whole, f"tables.{name}"))
    if all_rows:
        entry["rows"] = whole["rows"]
    where = f"tables.{name}"
    for key in ("datasets", "archs", "suites"):
        checks.names(entry[key], entries.section(key), f"{where}.{key}")
    checks.names(entry["rows"], [*graph.kinds, *planned(graph)], f"{where}.rows")
    columns = {"clean", *COSTS, *(f"{s}_worst" for s in entry["suites"])}
    columns |= {a for s in entry["suites"] for a in entries.suite(s)}
    checks.names(entry["columns"], columns, f"{where}.columns")
    checks.counts(entry["members"], f"{where}.members", 1)
    checks.counts(entry["seeds"], f"{where}.seeds")
    values.as_int(entry["images"], f"params.yaml: {where}.images", 1)
    values.find(entries.section("recipes"), f"{where}.recipe", entry["recipe"])
    checks.one_of(entry["checkpoint"], checks.CHECKPOINTS, f"{where}.checkpoint")
    if entry["reference"] != "none":
        graph.kind(entry["reference"], f"{where}.reference")
    values.as_word(entry["reported"], f"params.yaml: {where}.reported")
    if not isinstance(entry["title"], str):
        raise UserError(f"params.yaml: {where}.title: {entry['title']!r} is no text")
    return entry | {k: _axis(graph, entry, k, where) for k in entry if k not in KEYS}


def planned(graph: Graph) -> list[str]:
    """Rows of methods still to come; one that exists is refused."""
    names = graph.entries.params.get("planned", [])
    if not isinstance(names, list):
        raise UserError("params.yaml: planned: needs a list of names")
    for name in names:
        if values.as_word(name, "params.yaml: planned") in graph.kinds:
            raise UserError(f"params.yaml: planned: {name} exists; take it off the list")
    return names


def _shrunk(entries: Entries, entry: Entry, where: str) -> Entry:
    """The entry with at most the scale's images, seeds and members."""
    scale, shrunk = entries.scale, dict(entry)
    if "images" in scale:
        limit = values.as_int(scale["images"], "params.yaml: scale's images", 1)
        shrunk["images"] = min(values.as_int(entry["images"], f"params.yaml: {where}"), limit)
    if "seeds" in scale:
        asked = checks.counts(scale["seeds"], "scale's seeds")
        kept = [s for s in checks.counts(entry["seeds"], f"{where}.seeds") if s in asked]
        if not kept:
            raise UserError(f"params.yaml: {where}.seeds: the scale keeps none of them: {asked}")
        shrunk["seeds"] = kept
    if "members" in scale:
        limit = values.as_int(scale["members"], "params.yaml: scale's members", 1)
        found = checks.counts(entry["members"], f"{where}.members", 1)
        shrunk["members"] = sorted({min(m, limit) for m in found})
    return shrunk


def _axis(graph: Graph, entry: Entry, key: str, where: str) -> list[Any]:
    """The points of an axis: values of a field that some row, or its recipe, has."""
    fields = {f for row in entry["rows"] for f in graph.fields(row)}
    values.only({key: None}, fields | set(KEYS), where)
    points = entry[key]
    if not isinstance(points, list) or not points or any(isinstance(p, dict) for p in points):
        raise UserError(f"params.yaml: {where}.{key}: an axis is a list of values")
    return points


def _settings(entry: Entry) -> Iterator[tuple[str, Setting]]:
    """Rows and the settings they stand in, in the table's order."""
    axes = {k: entry[k] for k in entry if k not in KEYS}
    points = product(entry["datasets"], entry["archs"], entry["members"], product(*axes.values()))
    for dataset, arch, members, point in points:
        overrides = tuple((k, _frozen(v)) for k, v in zip(axes, point, strict=True))
        for row, seed in product(entry["rows"], entry["seeds"]):
            last = entry["checkpoint"]
            yield row, Setting(dataset, arch, entry["recipe"], members, seed, last, overrides)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _cells(graph: Graph, entry: Entry) -> list[Cell]:
    """Cells, each with the row to compare it with where the table has that row."""
    cells: dict[Any, Cell] = {}
    to_come = planned(graph)
    for row, setting in _settings(entry):
        cell = _planned_cell(row, setting) if row in to_come else _cell(graph, row, setting, entry)
        # a single network stands once beside 3, 5 and 8 members
        same = cell.victim.id if cell.victim else setting.members
        s = setting
        cells.setdefault((row, s.dataset, s.arch, s.overrides, s.seed, same), cell)
    shown = {tail(c.victim.id): c.victim.id for c in reversed(cells.values()) if c.victim}
    return [
        replace(c, reference=shown.get(tail(c.reference), c.reference)) if c.reference else c
        for c in cells.values()
    ]


def _planned_cell(row: str, setting: Setting) -> Cell:
    return Cell(row, setting, setting.members, setting.seed, None, {}, None)


def _cell(graph: Graph, row: str, setting: Setting, entry: Entry) -> Cell:
    victim = graph.victim(row, setting)
    records = {s: graph.record(victim, s, setting, entry["images"]) for s in entry["suites"]}
    reference = None
    if entry["reference"] != "none":
        same = replace(setting, members=victim.members, overrides=())
        reference = graph.victim(entry["reference"], same).id
    return Cell(row, setting, victim.members, setting.seed, victim, records, reference)


def _spec(entries: Entries, entry: Entry, cells: tuple[Cell, ...], where: str) -> Entry:
    """What a table's receipt is a digest of."""
    reported = ROOT / "data" / "reported" / f"{entry['reported']}.csv"
    if entry["reported"] != "none" and not reported.is_file():
        raise UserError(
            f"params.yaml: {where}.reported: no file data/reported/{entry['reported']}.csv"
        )
    figures = sorted((ROOT / "pipeline" / "figures").glob("[a-z]*.py"))
    return {
        "core": entries.core["tabulate"],
        "scale": entries.scale_name,
        "entry": entry,
        "cells": [
            [c.row, c.members, c.seed, sorted(r.id for r in c.records.values())] for c in cells
        ],
        "reported": _sha256(reported) if reported.is_file() else None,
        "figures": [schema.code_of(p) for p in figures],
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
