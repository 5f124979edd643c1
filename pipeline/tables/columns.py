"""Columns of a table read from records: verdicts and distances of one victim at one seed."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import metrics
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.flags.evidence import CORE, TOLERANCE, read
from pipeline.plan import Plan, Record, Table
from pipeline.plan.graph.column_names import (
    CLEAN,
    MEMBERS,
    PEERS,
    SIZES,
    VIEWS,
    accuracies,
    is_strongest,
    made,
    names,
    radius,
    shown,
    split,
)
from pipeline.plan.graph.targets import Cell
from pipeline.store.records import Arrays, meta

ADAPTIVE = "adaptive"
HEADLINES = (f"{ADAPTIVE}_worst", f"{CORE}_worst")  # what ranks, where a table has it


class Columns:
    """What the columns of a table say of a cell; records are read once."""

    def __init__(self, plan: Plan, table: Table) -> None:
        entry = table.spec["entry"]
        self.made = made(entry)
        self.strongest = {name for name, how in entry["means"].items() if is_strongest(how)}
        self.names = names(entry, [name for suite in table.suites.values() for name in suite])
        self.shown = shown(plan.entries, entry, table.suites)

        later = plan.entries.params.get("planned") or []
        known = {*accuracies(plan.entries, entry, entry["columns"]), *self.made} - {*later}
        self.accuracies = [c for c in table.columns if c in known]
        self.distances = [c for c in table.columns if split(c, self.names)[1] in SIZES]

        self._suites = {*table.suites}
        self._arrays: dict[str, Arrays] = {}

    def read(self, record: Record) -> Arrays:
        """Arrays of a record, checked."""
        if record.id not in self._arrays:
            self._arrays[record.id] = read(record)
        return self._arrays[record.id]

    def is_worst(self, column: str) -> bool:
        """Whether an accuracy is a worst case over a suite, or made of such."""
        of, _ = split(column, self.names)
        if of in self.made:
            return any(self.is_worst(part) for part in self.made[of])
        return of in self._suites or of.removesuffix("_worst") in self._suites

    def check_weights(self, records: list[Record]) -> None:
        """Raise UserError unless all records of a victim saw the same weights."""
        seen = [(r.path, meta(self.read(r))["weights"]) for r in records]
        for path, weights in seen[1:]:
            if weights != seen[0][1]:
                raise UserError(
                    f"{path}: saw other weights than {seen[0][0]}; delete both and evaluate again"
                )

    def behind(self, cell: Cell, column: str) -> list[tuple[Record, str]]:
        """The attacks that a column is made of, each with the record that holds it."""
        of, rule = split(column, self.names)
        if of in self.made:
            return [pair for part in self._list_parts(cell, of) for pair in self.behind(cell, part)]

        for suite, record in cell.records.items():
            if rule in PEERS and not record.spec.get("peers"):
                continue
            joined = _list_joined(cell, suite) if of == f"{suite}_worst" else [suite]
            if of in (suite, f"{suite}_worst"):
                return [(cell.records[s], a) for s in joined for a, _ in cell.records[s].attacks]
            # In a suite that stops when fooled, later attacks see fewer images: no column.
            if of == CLEAN or (of in dict(record.attacks) and not record.leave):
                return [(record, of)]
        raise UserError(f"params.yaml: tables: column {column} is in none of the table's suites")

    def find_images(self, cells: Iterable[Cell], column: str) -> set[tuple[Any, ...]]:
        """What tells the images behind an accuracy from others: verdicts pair where it is one.

        Entries of `datasets:` may share their test images: of the same files, in the same order.
        """
        records = {r.id: r for cell in cells for r, _ in self.behind(cell, column)}
        found = set[tuple[Any, ...]]()
        for record in records.values():
            data, arrays = record.victim.dataset, self.read(record)
            files = data.fields["sha256"] if record.split == "test" else [data.digest]
            found.add((record.split, *files, arrays["ids"].tobytes(), arrays["labels"].tobytes()))
        return found

    def _list_parts(self, cell: Cell, made: str) -> list[str]:
        """What a column is made of; strongest can only be an attack that the victim is for."""
        if made not in self.strongest:
            return self.made[made]

        met = {CLEAN, *(name for record in cell.records.values() for name, _ in record.attacks)}
        known = [part for part in self.made[made] if split(part, self.names)[0] in met]
        if not known:
            raise UserError(f"params.yaml: tables: {made}: no attack of it is one for {cell.row}")
        return known

    def arrays(self, cell: Cell, column: str, key: str) -> list[NDArray[Any]]:
        """Arrays `key` of the attacks that a column is made of."""
        return [self.read(record)[f"{name}/{key}"] for record, name in self.behind(cell, column)]

    def verdict(self, cell: Cell, column: str) -> Verdicts:
        """Per-image verdicts of an accuracy."""
        of, rule = split(column, self.names)
        if rule in VIEWS:
            return metrics.view(rule, self.verdict(cell, of))
        if rule:
            return self._judge_by_rule(cell, column, rule)

        if column in self.made:  # as some papers print it
            parts = [self.verdict(cell, part) for part in self._list_parts(cell, column)]
            if column in self.strongest:
                return min(parts, key=lambda part: float(part.mean()))
            averaged: Verdicts = np.mean(parts, 0, dtype=np.float32)
            return averaged

        return metrics.worst(self.arrays(cell, column, "right"))

    def _judge_by_rule(self, cell: Cell, column: str, rule: str) -> Verdicts:
        """Verdicts of the members on the images of an attack, or of those not too far."""
        ((record, attack),) = self.behind(cell, column)
        arrays = self.read(record)

        own = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{attack}/")}
        if rule in PEERS:
            return metrics.of_peers(rule, own, arrays["labels"])
        if rule in MEMBERS:
            return metrics.of_members(rule, own["right"], own["members"], arrays["labels"])

        # A success from farther than the radius does not count: the image is as it was when clean.
        near = own["l2"] <= radius(rule) + TOLERANCE
        within: Verdicts = np.where(near, own["right"], arrays["clean/right"])
        return within

    def distance(self, cell: Cell, column: str) -> float | None:
        """How far an attack went on the images it fooled; None of none, and of random victims."""
        ((record, attack),) = self.behind(cell, column)
        arrays, rule = self.read(record), split(column, self.names)[1]
        if meta(arrays)["random"]:
            return None

        fooled = (arrays["clean/right"] > 0) & (arrays[f"{attack}/right"] == 0)
        return metrics.size(rule, arrays[f"{attack}/{rule}"][fooled])


def _list_joined(cell: Cell, suite: str) -> list[str]:
    """The suites of a worst case: one that goes on from another adds to it, adaptive ones to the
    core and to each other."""
    before = [s for s, r in cell.records.items() if r.id == cell.records[suite].before]
    joins = {suite, *before}
    if suite == ADAPTIVE:
        joins |= {CORE, *(s for s in cell.records if s.startswith(ADAPTIVE))}
    return [s for s in cell.records if s in joins]
