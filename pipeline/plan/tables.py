"""Tables: which rows, columns and cells a target has at a scale."""

import hashlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import schema, values
from pipeline.plan.entries import Entries, Setting, replace
from pipeline.plan.graph import Cell, Graph, Table
from pipeline.plan.schema import ROOT, digest
from pipeline.plan.values import Entry

KEYS = {
    "title": str,
    "recipe": str,
    "datasets": list,
    "archs": list,
    "members": list,
    "seeds": list,
    "rows": list,
    "columns": list,
    "suites": list,
    "means": dict,
    "images": int,
    "checkpoint": str,
    "reference": str,
    "reported": str,
}
MEMBERS = ("oracle", "vote", "regret", "alone")  # what the members say without the victim's rule
BY_DATASET = (list, dict)  # a list, or a list for each data set
COSTS = ("members", "parameters", "train_flops", "inference_macs")


def target_path(name: str) -> Path:
    """results/table1.csv for `table1`, results/aute/table2.csv for `aute_table2`."""
    paper, _, table = name.rpartition("_")
    return Path("results") / paper / f"{table}.csv" if paper else Path("results") / f"{name}.csv"


def build(graph: Graph, name: str, *, all_rows: bool = False) -> Table:
    """Table `name` at the plan's scale; `all_rows` ignores the scale's cut of its rows."""
    entries = graph.entries
    entry = _entry(entries, name, all_rows)
    axes = {k: v for k, v in entry.items() if k not in KEYS}
    cells = tuple(_cells(graph, name, entry, axes))
    spec = _spec(entries, entry, cells)
    path = target_path(name)
    if all_rows:
        path = path.with_name(f"{path.stem}_all.csv")
    suites = {s: _attacks(entries, s) for s in entry["suites"]}
    planned = graph.entries.params.get("planned") or []
    _check_columns(name, entry, suites, planned)
    table = path.with_suffix("").relative_to("results").as_posix().replace("/", "_")
    return Table(table, path, tuple(entry["columns"]), suites, cells, spec, digest(spec))


def is_cut(entries: Entries, name: str) -> bool:
    """Whether the scale shows fewer rows of this table than params.yaml names."""
    return "rows" in entries.part("tables").get(name, {})


def _entry(entries: Entries, name: str, all_rows: bool) -> Entry:
    tables = values.section(entries.params, "tables")
    _, entry = values.inherit(tables, "tables", name)
    cut = dict(entries.part("tables").get(name, {}))
    if all_rows:
        cut.pop("rows", None)
    shrunk: Entry = {k: entries.scale[k] for k in ("images", "seeds", "members") if k in entries.scale}
    if "members" in shrunk:  # the scale bounds members; it adds none
        limit = values.as_int(shrunk.pop("members"), "params.yaml: scales.members")
        asked = entry.get("members", [])
        each = asked if isinstance(asked, dict) else {"": asked}
        bound = {d: sorted({min(m, limit) for m in points}) for d, points in each.items()}
        shrunk["members"] = bound if isinstance(asked, dict) else bound[""]
    entry = {**entry, **shrunk, **cut}
    for key, kind in KEYS.items():
        if key not in entry:
            raise UserError(f"params.yaml: tables.{name}: key {key} is missing; add it")
        kinds = BY_DATASET if key in ("archs", "members", "rows") else (kind,)
        if not isinstance(entry[key], kinds) or entry[key] == []:
            raise UserError(f"params.yaml: tables.{name}.{key}: must be a {kind.__name__}")
    return entry


def _points(entry: Entry, key: str, dataset: str, where: str) -> list[Any]:
    """The values of a key for one data set: its list, or its part of a mapping."""
    points = entry[key]
    if isinstance(points, dict):
        points = points.get(dataset)
    if not isinstance(points, list) or not points:
        raise UserError(f"params.yaml: {where}.{key}: needs a list of values for {dataset}")
    return points


def _check_columns(
    name: str, entry: Entry, suites: dict[str, tuple[str, ...]], planned: list[str]
) -> None:
    columns = entry["columns"]
    known = {"clean", *COSTS, *(a for s in suites.values() for a in s)}
    known |= {f"{s}_worst" for s in suites}
    known |= {
        f"{c}_{m}" for c in ("clean", *(a for s in suites.values() for a in s)) for m in MEMBERS
    }
    for part in [p for parts in entry["means"].values() for p in parts]:
        if part not in known:
            hint = schema.nearest(part, known)
            raise UserError(f"params.yaml: tables.{name}.means: no column {part!r}{hint}")
    known |= set(entry["means"]) | set(planned)
    for column in columns:
        if column not in known:
            hint = schema.nearest(column, known)
            raise UserError(f"params.yaml: tables.{name}.columns: no column {column!r}{hint}")


def _attacks(entries: Entries, suite: str) -> tuple[str, ...]:
    return tuple(values.section(entries.params, "suites")[suite]["attacks"])


def _settings(entry: Entry, axes: dict[str, list[Any]], where: str) -> Iterator[tuple[Any, ...]]:
    """Every data set with each arch, number of members and point of the axes."""
    for dataset in entry["datasets"]:
        lists = [_points(entry, key, dataset, where) for key in ("archs", "members")]
        along = [_points(axes, key, dataset, where) for key in axes]
        yield from product([dataset], *lists, product(*along))


def _cells(graph: Graph, name: str, entry: Entry, axes: dict[str, list[Any]]) -> list[Cell]:
    planned = graph.entries.params.get("planned") or []
    where = f"tables.{name}"
    cells: list[Cell] = []
    seen = set()
    for dataset, arch, members, point in _settings(entry, axes, where):
        for row in _points(entry, "rows", dataset, where):
            for seed in entry["seeds"]:
                values.as_int(seed, f"params.yaml: tables.{name}.seeds")
                values.as_int(members, f"params.yaml: tables.{name}.members")
                overrides = tuple(zip(axes, point, strict=True))
                setting = Setting(
                    str(dataset),
                    str(arch),
                    entry["recipe"],
                    members,
                    seed,
                    entry["checkpoint"],
                    overrides,
                )
                cell = _cell(graph, row, setting, entry, planned)
                key = (row, dataset, arch, point, seed, cell.victim.id if cell.victim else members)
                if key not in seen:  # a single network stands once beside 3, 5 and 8 members
                    seen.add(key)
                    cells.append(cell)
    return cells


def _cell(graph: Graph, row: str, setting: Setting, entry: Entry, planned: list[str]) -> Cell:
    if row in planned:
        return Cell(row, setting, setting.members, setting.seed, None, {}, None)
    victim = graph.victim(row, setting)
    images = values.as_int(entry["images"], "params.yaml: images")
    records = {s: graph.record(victim, s, setting, images) for s in entry["suites"]}
    reference = None
    if entry["reference"] != "none":
        same = replace(setting.bare(), members=victim.members)
        reference = graph.victim(entry["reference"], same).id
    return Cell(row, setting, victim.members, setting.seed, victim, records, reference)


def _spec(entries: Entries, entry: Entry, cells: tuple[Cell, ...]) -> Entry:
    reported = ROOT / "data" / "reported" / f"{entry['reported']}.csv"
    if entry["reported"] != "none" and not reported.is_file():
        raise UserError(
            f"params.yaml: tables reported: no file data/reported/{entry['reported']}.csv"
        )
    figures = sorted((ROOT / "pipeline" / "figures").glob("[a-z]*.py"))
    return {
        "core": entries.core["tabulate"],
        "scale": entries.scale_name,
        "entry": {k: v for k, v in entry.items() if k != "base"},
        "cells": [
            [c.row, c.members, c.seed, sorted(r.id for r in c.records.values())] for c in cells
        ],
        "reported": _sha256(reported) if reported.is_file() else None,
        "figures": [schema.code_of(p) for p in figures],
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
