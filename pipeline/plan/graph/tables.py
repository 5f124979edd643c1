"""Tables: which rows, columns and cells a target has at a scale."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph import column_names as columns
from pipeline.plan.graph import outside, suites
from pipeline.plan.graph.artifacts import tail
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.runs import find_fields
from pipeline.plan.graph.targets import Cell, Table
from pipeline.plan.graph.victims import name_victim
from pipeline.plan.params import checks, values
from pipeline.plan.params.code import code_of
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.schema import ROOT
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

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
POOLS = ("runs", "records", "snapshots", "transfer", "metrics")  # folders of results/


def target_path(name: str, kind: str = "tables") -> Path:
    """results/table1.csv for `table1`, results/aute/table2.csv for `aute_table2`."""
    paper, _, table = name.rpartition("_")
    if paper in POOLS:
        raise UserError(f"params.yaml: {kind}.{name}: results/{paper} is taken; rename it")
    return Path("results") / paper / f"{table}.csv" if paper else Path("results") / f"{name}.csv"


def build(graph: Graph, name: str, *, all_rows: bool = False) -> Table:
    """Table `name` at the plan's scale; `all_rows` ignores the scale's cut of its rows."""
    entries = graph.entries
    entry = entry_of(graph, name, all_rows)
    cells = tuple(cells_of(graph, entry))
    spec = _spec(entries, entry, cells, f"tables.{name}")
    path = target_path(name)
    if all_rows:
        path = path.with_name(f"{path.stem}_all.csv")
    named = {s: suites.sources(entries, s) for s in entry["suites"]}
    shown = path.with_suffix("").relative_to("results").as_posix().replace("/", "_")
    return Table(
        name=shown,
        path=path,
        cells=cells,
        spec=spec,
        digest=digest(spec),
        columns=tuple(entry["columns"]),
        suites=named,
    )


def is_cut(entries: Entries, name: str) -> bool:
    """Whether the scale shows fewer rows of this table than params.yaml names."""
    cut = entries.part("tables").get(name, {})
    return "rows" in cut or cut.get("variants") is False


def entry_of(graph: Graph, name: str, all_rows: bool) -> Entry:
    """The keys of a table, cut by the scale and checked."""
    entries = graph.entries
    _, whole = entries.entry("tables", name)
    values.only(whole, whole, f"tables.{name}", must=KEYS)
    where = f"tables.{name}"
    is_on_request(entries, name)
    whole.pop("on_request", None)
    rows, main = (_rows(whole["rows"], variants) for variants in (True, False))
    entry = entries.cut("tables", name, {**_shrunk(entries, whole, where), "rows": rows})
    variants = entry.pop("variants", True)
    if not values.as_bool(variants, f"params.yaml: scale's {where}.variants"):
        entry["rows"] = main
    if all_rows:
        entry["rows"] = rows
    for key in ("datasets", "suites"):
        checks.names(entry[key], entries.section(key), f"{where}.{key}")
    known = [*graph.kinds, *planned(graph)]
    for dataset in entry["datasets"]:
        checks.names(points(entry, "archs", dataset), entries.section("archs"), f"{where}.archs")
        checks.names(points(entry, "rows", dataset), known, f"{where}.rows")
        checks.counts(points(entry, "members", dataset), f"{where}.members", 1)
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
    return entry | {k: _axis(graph, entry, k, where) for k in entry if k not in KEYS}


def _rows(rows: Any, variants: bool) -> Any:
    """Rows in one list, by data set or not; those in inner brackets only as `variants`."""
    if isinstance(rows, dict):
        return {dataset: _rows(asked, variants) for dataset, asked in rows.items()}
    if not isinstance(rows, list):
        return rows
    groups = [row if isinstance(row, list) else [row] for row in rows]
    return [
        n
        for row, group in zip(rows, groups, strict=True)
        if variants or row is not group
        for n in group
    ]


def points(entry: Entry, key: str, dataset: str) -> Any:
    """The values of a key for one data set: its list, or its part of a mapping by data set."""
    return entry[key].get(dataset) if isinstance(entry[key], dict) else entry[key]


def _check_columns(graph: Graph, entry: Entry, where: str) -> None:
    """Raise UserError unless every column and part of a mean can be computed, or is planned."""
    if not isinstance(entry["means"], dict):
        raise UserError(f"params.yaml: {where}.means: needs a mapping from a name to columns")
    for name, parts in columns.made(entry).items():
        known = columns.accuracies(graph.entries, entry, parts)
        checks.names(parts, known, f"{where}.means.{name}")
    known = columns.accuracies(graph.entries, entry, entry["columns"])
    known |= columns.sizes(graph.entries, entry)
    known |= {*columns.COSTS, columns.DISK, *entry["means"], *planned(graph)}
    checks.names(entry["columns"], known, f"{where}.columns")


def planned(graph: Graph) -> list[str]:
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
        asked, by_dataset = entry["members"], isinstance(entry["members"], dict)
        bound = {}
        for dataset, counts in (asked if by_dataset else {"": asked}).items():
            found = checks.counts(counts, f"{where}.members", 1)
            bound[dataset] = sorted({min(m, limit) for m in found})
        shrunk["members"] = bound if by_dataset else bound[""]
    return shrunk


def _axis(graph: Graph, entry: Entry, key: str, where: str) -> Any:
    """The points of an axis, by data set or not: values of a field that some row has.

    `train_eps` is the radius of training and evaluation alike.
    """
    rows = {r for d in entry["datasets"] for r in points(entry, "rows", d)}
    fields = {f for row in rows for f in find_fields(graph, row)}
    values.only({key: None}, {*fields, *KEYS, "train_eps"}, where)
    for dataset in entry["datasets"]:
        along = points(entry, key, dataset)
        if not isinstance(along, list) or not along or any(isinstance(p, dict) for p in along):
            raise UserError(f"params.yaml: {where}.{key}: an axis is a list of values")
    return entry[key]


def _settings(entry: Entry) -> Iterator[tuple[str, Setting]]:
    """Rows and the settings they stand in, in the table's order."""
    axes, last = [k for k in entry if k not in KEYS], entry["checkpoint"]
    for dataset in entry["datasets"]:
        along = product(*(points(entry, k, dataset) for k in axes))
        archs, members = points(entry, "archs", dataset), points(entry, "members", dataset)
        rows = points(entry, "rows", dataset)
        for arch, count, point in product(archs, members, list(along)):
            overrides = tuple((k, _frozen(v)) for k, v in zip(axes, point, strict=True))
            for row, seed in product(rows, entry["seeds"]):
                yield row, Setting(dataset, arch, entry["recipe"], count, seed, last, overrides)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def cells_of(graph: Graph, entry: Entry) -> list[Cell]:
    """Cells, each with the row to compare it with where the table has that row."""
    cells: dict[Any, Cell] = {}
    to_come = planned(graph)
    for row, setting in _settings(entry):
        lacks = "planned" if row in to_come else ""
        if outside.lacks_weights(graph.entries, graph.kinds, row):
            lacks = outside.LACKS
        cell = _empty(row, setting, lacks) if lacks else _cell(graph, row, setting, entry)
        # a single network stands once beside 3, 5 and 8 members, a file once beside three seeds
        s, victim = setting, cell.victim
        same = victim.id if victim else (s.members, s.seed)
        cells.setdefault((row, s.dataset, s.arch, s.overrides, same), cell)
    shown = {tail(c.victim.id): c.victim.id for c in reversed(cells.values()) if c.victim}
    return [
        replace(c, reference=shown.get(tail(c.reference), c.reference)) if c.reference else c
        for c in cells.values()
    ]


def _empty(row: str, setting: Setting, lacks: str) -> Cell:
    return Cell(row, setting, setting.members, setting.seed, None, {}, None, lacks)


def _cell(graph: Graph, row: str, setting: Setting, entry: Entry) -> Cell:
    victim = name_victim(graph, row, setting)
    records = {
        s: suites.name_record(graph, victim, s, setting, entry["images"]) for s in entry["suites"]
    }
    reference = None
    if entry["reference"] != "none":
        same = replace(setting.bare(), members=victim.members)
        reference = name_victim(graph, entry["reference"], same).id
    return Cell(row, setting, victim.members, setting.seed, victim, records, reference)


def _spec(entries: Entries, entry: Entry, cells: tuple[Cell, ...], where: str) -> Entry:
    """What a table's receipt is a digest of."""
    return {
        "core": entries.core["tabulate"],
        "scale": entries.scale_name,
        "entry": entry,
        "cells": [
            [c.row, c.members, c.seed, sorted(r.id for r in c.records.values())] for c in cells
        ],
        "reported": reported_sum(entry["reported"], where),
        "figures": [code_of(ROOT / "pipeline" / "tables" / "dots.py")],
    }


def reported_sum(paper: str, where: str) -> str | None:
    """sha256 of a paper's published numbers; None for `none`."""
    path = ROOT / "data" / "reported" / f"{paper}.csv"
    if paper == "none":
        return None
    if not path.is_file():
        raise UserError(f"params.yaml: {where}.reported: no file data/reported/{paper}.csv")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def claimed(file: Path) -> list[str]:
    """The tables that a file of claims names in its column `table`, each once."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(dict.fromkeys(line["table"] for line in csv.DictReader(lines)))
