"""Tables: their rows, settings and cells."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph import column_names, hidden, outside, suites
from pipeline.plan.graph.artifacts import tail
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.table_entries import KEYS, find_points, list_planned, read_entry
from pipeline.plan.graph.targets import Cell, Table
from pipeline.plan.graph.victims import name_victim
from pipeline.plan.params.code import code_of
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.schema import ROOT
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

POOLS = ("runs", "records", "snapshots", "transfer", "metrics")  # folders of results/
PAGES = ("claims", "audit", "reproduced", "report")  # what results/ has of other rules


def target_path(name: str, kind: str = "tables") -> Path:
    """results/table1.csv for `table1`, results/aute/table2.csv for `aute_table2`."""
    paper, _, table = name.rpartition("_")
    taken = paper if paper in POOLS else name if name in PAGES else ""
    if taken:
        raise UserError(f"params.yaml: {kind}.{name}: results/{taken} is taken; rename it")
    return Path("results") / paper / f"{table}.csv" if paper else Path("results") / f"{name}.csv"


def build(graph: Graph, name: str, *, all_rows: bool = False) -> Table:
    """Table `name` at the plan's scale; `all_rows` ignores the scale's cut of its rows."""
    entries = graph.entries
    entry = read_entry(graph, name, all_rows)
    cells = tuple(cells_of(graph, entry))
    means = [how for how in entry["means"].values() if not column_names.is_strongest(how)]
    columns = [*entry["columns"], *(part for how in means for part in how)]
    check_met(entries, entry, columns, cells, f"tables.{name}.columns")

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


def check_met(
    entries: Entries, entry: Entry, columns: Iterable[str], cells: Iterable[Cell], where: str
) -> None:
    """Raise UserError for a column of an attack that some row's victim does not meet."""
    attacks = {name for suite in entry["suites"] for name in suites.names(entries, suite)}
    known = column_names.names(entry, attacks)
    asked = {column_names.split(column, known)[0] for column in columns} & attacks

    for cell in (cell for cell in cells if cell.records):
        met = {name for record in cell.records.values() for name, _ in record.attacks}
        for attack in sorted(asked - met):
            raise UserError(
                f"params.yaml: {where}: {attack} does not meet the row {cell.row} (see its `only`, "
                "the row's `twin`, or how many classes its loss compares): leave one out, or show "
                "the strongest of several by a mean {strongest: [...]}"
            )


def _settings(entry: Entry) -> Iterator[tuple[str, Setting]]:
    """Rows and the settings they stand in, in the table's order."""
    axes, last = [k for k in entry if k not in KEYS], entry["checkpoint"]
    for dataset in entry["datasets"]:
        along = product(*(find_points(entry, k, dataset) for k in axes))
        archs, members = (
            find_points(entry, "archs", dataset),
            find_points(entry, "members", dataset),
        )
        rows = find_points(entry, "rows", dataset)

        for arch, count, point in product(archs, members, list(along)):
            overrides = tuple((k, _frozen(v)) for k, v in zip(axes, point, strict=True))
            for row, seed in product(rows, entry["seeds"]):
                yield row, Setting(dataset, arch, entry["recipe"], count, seed, last, overrides)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def cells_of(graph: Graph, entry: Entry) -> list[Cell]:
    """Cells, each with the row to compare it with where the table has that row."""
    cells: dict[Any, Cell] = {}
    to_come = list_planned(graph)
    for row, setting in _settings(entry):
        lacks = "planned" if row in to_come else ""
        if outside.lacks_weights(graph.entries, graph.kinds, row):
            lacks = outside.LACKS
        if outside.is_elsewhere(graph.entries, graph.kinds, row, setting.dataset):
            lacks = outside.ELSEWHERE
        cell = _empty(row, setting, lacks) if lacks else _cell(graph, row, setting, entry)

        # a single network stands once beside 3, 5 and 8 members, a file once beside three seeds
        s, victim = setting, cell.victim
        same = victim.id if victim else (s.members, s.seed)
        cells.setdefault((row, s.dataset, s.arch, s.overrides, same), cell)

    # A reference of equal digest may stand under another row's name: the shown one is taken.
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
    measured = entries.once(("hidden",), hidden.load)
    known = {r.id: measured[r.id] for c in cells for r in c.records.values() if r.id in measured}
    return {
        "core": entries.core["tabulate"],
        "scale": entries.scale_name,
        "entry": entry,
        "cells": [
            [c.row, c.members, c.seed, sorted(r.id for r in c.records.values())] for c in cells
        ],
        "reported": reported_sum(entry["reported"], where),
        "figures": [code_of(ROOT / "pipeline" / "tables" / "dots.py")],
        **({"hidden": known} if known else {}),
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
