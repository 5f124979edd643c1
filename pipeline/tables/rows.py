"""The rows of a table, read from records and checked."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core import intervals
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.flags.flags import UNRANKING, Flag, hidden, judge, notes
from pipeline.plan import Plan, Table
from pipeline.plan.graph.averages import count_snapshots
from pipeline.plan.graph.column_names import CLEAN, COSTS, DISK, KEYS, cuts, split
from pipeline.plan.graph.hidden import SUITE
from pipeline.plan.graph.targets import Cell
from pipeline.plan.graph.targets import label as label_of
from pipeline.store.records import meta
from pipeline.tables.columns import HEADLINES, Columns
from pipeline.tables.making import status_of
from pipeline.tables.reported import Reported


@dataclass(frozen=True)
class Row:
    """One row over its seeds: accuracies by column, or the status of a row without records."""

    label: str
    keys: dict[str, Any]
    cells: tuple[Cell, ...]
    status: str  # done, running, failed, not built, planned
    verdicts: dict[str, list[Verdicts]]  # by accuracy column, one vector a seed
    costs: dict[str, int]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()  # checks for which its worst cases are not ranked


class Tabulation:
    """A table's rows read from records."""

    def __init__(self, plan: Plan, table: Table, partial: bool) -> None:
        self.plan, self.table, self.partial = plan, table, partial
        entry = table.spec["entry"]
        self.columns = Columns(plan, table)
        self.reported = Reported(plan, entry["reported"], self.columns.made, entry["printed"])
        self.accuracies, self.shown = self.columns.accuracies, self.columns.shown
        self.cuts = cuts(plan.entries, table.suites)  # of the attacks behind it, by their entries

        self._cells = {_cut_digest(c.victim.id): c for c in reversed(table.cells) if c.victim}

        # Seeds of one row are cells that differ in nothing else.
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in table.cells:
            s = cell.setting
            key = (cell.row, s.dataset, s.arch, cell.members, s.overrides)
            groups.setdefault(key, []).append(cell)
        self.rows = [self._read_row(tuple(cells)) for cells in groups.values()]

        # A reference is found by what it is, whatever its row is called.
        self._by_victim: dict[str, Row] = {}
        for row in self.rows:
            for victim in [c.victim for c in row.cells if c.victim]:
                self._by_victim.setdefault(_cut_digest(victim.id), row)

    def _read_row(self, cells: tuple[Cell, ...]) -> Row:
        first = cells[0]
        label, keys = label_of(first, self.table.cells), describe(self.plan, first)

        missing = [r for c in cells for r in c.records.values() if not r.path.exists()]
        status = status_of(self.plan, missing) if missing else "done"
        if missing and not self.partial:
            raise UserError(f"{missing[0].path}: is missing; run snakemake, or add --partial")

        if first.victim is None:
            return Row(label, keys, cells, first.lacks, {}, {}, ())
        if status != "done":
            return Row(label, keys, cells, status, {}, {}, ())
        for cell in cells:
            self.columns.check_weights(list(cell.records.values()))

        verdicts = {c: [self.columns.verdict(cell, c) for cell in cells] for c in self.accuracies}

        judged = [judge(cell.records.values(), self.columns.read) for cell in cells]
        fired = [flag for found in judged for flag in found.flags]
        fired += [flag for flag in map(self._judge_cut, cells) if flag]

        by_check: dict[str, Flag] = {}
        for flag in dict.fromkeys(fired):
            said = by_check.get(flag.check)
            text = f"{said.text}; {flag.text}" if said else flag.text
            by_check[flag.check] = replace(flag, text=text)
        evidence = [some for found in judged for some in found.evidence]
        texts = dict.fromkeys(text for some in evidence for text in notes(some))
        doubts = {check for found in judged for check in found.doubts}

        costs = meta(self.columns.read(next(iter(first.records.values()))))["cost"]
        if DISK in self.table.columns:
            run = self.plan.run(first.victim.elements[0].run)
            costs[DISK] = 4 * costs["parameters"] * count_snapshots(self.plan.graph, run)

        beside = (
            tuple(by_check.values()),
            tuple(texts),
            tuple(c for c in UNRANKING if c in doubts),
        )
        return Row(label, keys, cells, status, verdicts, costs, *beside)

    def _judge_cut(self, cell: Cell) -> Flag | None:
        """C23 of a row whose cut was measured, as was that of its reference."""
        reference = self._cells.get(_cut_digest(cell.reference or ""))
        ids = [c.records[SUITE].id for c in (cell, reference) if c and SUITE in c.records]
        measured = self.table.spec.get("hidden", {})
        own, other = (measured.get(id) for id in ids) if len(ids) == 2 else (None, None)
        return hidden(own, other) if own and other else None

    def is_cut(self, cell: Cell, column: str) -> bool:
        """Whether the scale cuts an attack behind a column, a mean's and a suite's included."""
        if column not in self.accuracies or not cell.records:
            return False
        behind = self.columns.behind(cell, column)
        return any(self.table.suites[r.suite].get(attack) in self.cuts for r, attack in behind)

    def published(self, cell: Cell, column: str) -> float | None:
        """The published accuracy beside this one, where nothing of either is another or cut."""
        value = self.reported.value(cell, column)
        return None if value is None or self.is_cut(cell, column) else value

    def details(self) -> dict[str, Any]:
        """Everything the .json holds beside the receipt, by row and column."""
        return {row.label: self.describe(row) for row in self.rows}

    def describe(self, row: Row) -> dict[str, Any]:
        """What the .json holds of one row."""
        if row.status != "done":
            return {**row.keys, "status": row.status, **self._describe_known(row)}

        details: dict[str, Any] = {**row.keys, "status": "done"}
        for column in self.accuracies:
            details[self.shown[column]] = self._summarise(row, column)
        for column in self.columns.distances:
            details[self.shown[column]] = self._average_distance(row, column)
        details |= {c: row.costs[c] for c in (*COSTS, DISK) if c in row.costs}
        details |= {c: "planned" for c in self.shown.values() if c not in details}
        details["flags"] = {f.check: f.text for f in row.flags}
        details["notes"] = list(row.notes)
        details["not_trusted"] = " ".join(row.untrusted)
        if row.untrusted:
            worst = [c for c in self.accuracies if self.columns.is_worst(c)]
            details["not_ranked"] = [self.shown[column] for column in worst]
        return details

    def _describe_known(self, row: Row) -> dict[str, Any]:
        """Of a row in the making, the accuracies whose suites are done; flags wait for all."""
        if row.cells[0].victim is None:
            return {}
        details = {}
        for column in self.accuracies:
            behind = [r for cell in row.cells for r, _ in self.columns.behind(cell, column)]
            if all(record.path.exists() for record in behind):
                verdicts = [self.columns.verdict(cell, column) for cell in row.cells]
                row.verdicts[column] = verdicts
                details[self.shown[column]] = self._summarise(row, column)
        return details

    def _summarise(self, row: Row, column: str) -> dict[str, Any]:
        vectors = row.verdicts[column]
        means = [float(v.mean()) for v in vectors]
        low, high = intervals.interval(vectors) or (None, None)
        cell: dict[str, Any] = {
            "mean": float(np.mean(means)),
            "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "seeds": len(means),
            "n": len(vectors[0]),
            "low": low,
            "high": high,
            "published": self.published(row.cells[0], column),
            **self._count_work(row, column),
        }

        reference = self.find_reference(row)
        doubtful = row.untrusted or (reference is not None and reference.untrusted)
        if doubtful and self.columns.is_worst(column):  # nor is anything compared with it
            return cell

        if reference is not None and reference is not row and reference.status == "done":
            against = reference.verdicts[column]
            cell["against"] = {"row": reference.label}
            if self._is_ranked_by_luck(row, reference, column):
                cell["against"]["refused"] = f"random: {HEADLINES[0]} ranks it"
            elif len(against) == len(vectors):
                difference = intervals.paired(vectors, against)
                cell["against"] |= intervals.numbers(difference)
            else:
                cell["against"]["refused"] = f"{len(vectors)} and {len(against)} seeds"
        return cell

    def find_reference(self, row: Row) -> Row | None:
        """The row that this one is compared with, if the table has it."""
        return self._by_victim.get(_cut_digest(row.cells[0].reference or ""))

    def _is_ranked_by_luck(self, row: Row, reference: Row, column: str) -> bool:
        """Whether this would rank a random victim by attacks that end at a lucky draw, or where the
        mean of its members is fooled, of which many may still be right."""
        ranking = [c for c in HEADLINES if c in self.accuracies] or self.accuracies[-1:]
        if column != ranking[0] or column in (HEADLINES[0], CLEAN):
            return False
        victims = [each.cells[0].victim for each in (row, reference)]
        return any(v is not None and v.combine.startswith("random") for v in victims)

    def _average_distance(self, row: Row, column: str) -> float | None:
        """Mean over seeds; None where no image was fooled."""
        distances = [self.columns.distance(cell, column) for cell in row.cells]
        known = [size for size in distances if size is not None]
        return round(float(np.mean(known)), 4) if known else None

    def _count_work(self, row: Row, column: str) -> dict[str, float]:
        """Mean forwards and backwards an image of the attacks behind a column."""
        if column in (CLEAN, *self.columns.made) or split(column, self.columns.names)[1]:
            return {}  # no attack, or made of other columns
        work = [np.sum(self.columns.arrays(cell, column, "work"), 0) for cell in row.cells]
        forwards, backwards = np.mean(work, 0) / len(row.verdicts[column][0])
        return {"forwards": round(float(forwards), 2), "backwards": round(float(backwards), 2)}

    def frame(self, details: dict[str, Any]) -> pd.DataFrame:
        """The .csv: fractions, one line a row; std only with several seeds."""
        lines = []
        for row in self.rows:
            numbers, line = details[row.label], dict(row.keys)
            for column, name in self.shown.items():
                if column in row.verdicts:
                    line[name] = round(numbers[name]["mean"], 6)
                    if numbers[name]["std"] is not None:
                        line[f"{name}_std"] = round(numbers[name]["std"], 6)
                    if numbers[name]["published"] is not None:
                        line[f"{name}_published"] = numbers[name]["published"]
                elif column != "members":
                    line[name] = numbers.get(name, "")

            line["flags"] = " ".join(f.check for f in row.flags)
            line["not_trusted"] = " ".join(row.untrusted)
            line["status"] = row.status
            line |= {"scale": self.plan.scale, "cut": " ".join(self.cuts)}
            lines.append(line)
        return pd.DataFrame(lines)


def describe(plan: Plan, cell: Cell) -> dict[str, Any]:
    """What a row is, for a .csv and a .json: the data and arch of its scale, its axes' values."""
    setting = cell.setting
    axes = {f"axis_{k}" if k in KEYS else k: v for k, v in setting.overrides}
    return {
        "method": cell.row,
        "members": cell.members,
        "dataset": plan.entries.stand_in(setting.dataset)[0],
        "arch": _name_arch(plan, cell),
        **axes,
    }


def _name_arch(plan: Plan, cell: Cell) -> str:
    """The table's arch at this scale, but a file's own."""
    if cell.victim:
        run = plan.run(cell.victim.elements[0].run)
        if run.stage == "adopt":
            return run.arch
    return plan.entries.arch(cell.setting.arch).name


def _cut_digest(victim: str) -> str:
    """What a victim is, whatever its row is called."""
    return victim.rsplit("-", 1)[-1]
