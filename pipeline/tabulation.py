"""The rows of a table, read from records and checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.errors import UserError
from pipeline.evidence import Evidence, read
from pipeline.flags import Flag, flags
from pipeline.metrics import Verdicts
from pipeline.plan import Plan, Table
from pipeline.plan.artifacts import Cell, Record
from pipeline.plan.averaged import snapshots
from pipeline.plan.labels import label as label_of
from pipeline.plan.tables import COSTS, DISK, MEMBERS, PEERS, VIEWS
from pipeline.records import Arrays, meta
from pipeline.reported import Reported
from pipeline.status import status_of

CORE, ADAPTIVE = "core", "adaptive"


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


class Tabulation:
    """A table's rows read from records."""

    def __init__(self, plan: Plan, table: Table, partial: bool) -> None:
        self.plan, self.table, self.partial = plan, table, partial
        entry = table.spec["entry"]
        self.reported = Reported(plan, entry["reported"], entry["means"], entry["printed"])
        self._arrays: dict[str, Arrays] = {}
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in table.cells:
            s = cell.setting
            key = (cell.row, s.dataset, s.arch, cell.members, s.overrides)
            groups.setdefault(key, []).append(cell)
        self.rows = [self._row(tuple(cells)) for cells in groups.values()]
        self._by_victim: dict[str, Row] = {}
        for row in self.rows:
            for victim in [c.victim for c in row.cells if c.victim]:
                self._by_victim.setdefault(_digest(victim.id), row)

    # ---- reading

    def _keys(self, cell: Cell) -> dict[str, Any]:
        """What a row is, for the .csv and the .json."""
        entries, setting = self.plan.entries, cell.setting
        return {
            "method": cell.row,
            "members": cell.members,
            "dataset": entries.stand_in(setting.dataset)[0],
            "arch": entries.arch(setting.arch).name,
            **dict(setting.overrides),
        }

    def _row(self, cells: tuple[Cell, ...]) -> Row:
        first = cells[0]
        label, keys = label_of(first, self.table.cells), self._keys(first)
        missing = [r for c in cells for r in c.records.values() if not r.path.exists()]
        status = status_of(self.plan, missing) if missing else "done"
        if missing and not self.partial:
            raise UserError(f"{missing[0].path}: is missing; run snakemake, or add --partial")
        if first.victim is None:
            return Row(label, keys, cells, first.lacks, {}, {}, ())
        if status != "done":
            return Row(label, keys, cells, status, {}, {}, ())
        for cell in cells:
            self._check_weights(cell)
        verdicts = {c: [self.verdict(cell, c) for cell in cells] for c in self.accuracies}
        found = {f.check: f for cell in cells for f in self._flags(cell)}
        costs = meta(self._read(next(iter(first.records.values()))))["cost"]
        if DISK in self.table.columns:
            run = self.plan.run(first.victim.elements[0].run)
            costs[DISK] = 4 * costs["parameters"] * snapshots(self.plan.graph, run)
        return Row(label, keys, cells, status, verdicts, costs, tuple(found.values()))

    @property
    def accuracies(self) -> list[str]:
        """Columns that are accuracies."""
        later = self.plan.entries.params.get("planned") or []
        return [c for c in self.table.columns if c not in (*COSTS, DISK, *later)]

    def _read(self, record: Record) -> Arrays:
        if record.id not in self._arrays:
            self._arrays[record.id] = read(record)
        return self._arrays[record.id]

    def _check_weights(self, cell: Cell) -> None:
        """Raise UserError unless all records of a cell saw the same weights."""
        seen = [(r.path, meta(self._read(r))["weights"]) for r in cell.records.values()]
        for path, weights in seen[1:]:
            if weights != seen[0][1]:
                raise UserError(
                    f"{path}: saw other weights than {seen[0][0]}; delete both and evaluate again"
                )

    def verdict(self, cell: Cell, column: str) -> Verdicts:
        """Per-image verdicts of one accuracy column at one seed."""
        attack, _, rule = column.rpartition("_")
        if rule in VIEWS:
            return metrics.view(rule, self.verdict(cell, attack))
        if rule in (*MEMBERS, *PEERS):
            return self._of_members(cell, attack, rule)
        means = self.table.spec["entry"]["means"]
        if column in means:  # an accuracy averaged over attacks, as some papers print it
            parts = [self.verdict(cell, part) for part in means[column]]
            averaged: Verdicts = np.mean(parts, 0, dtype=np.float32)
            return averaged
        if column == "clean":
            right: Verdicts = self._read(next(iter(cell.records.values())))["clean/right"]
            return right
        found = self._behind(cell, column, "right")
        if not found:
            raise UserError(
                f"params.yaml: tables: column {column} is in none of the table's suites"
            )
        return metrics.worst(found)

    def _behind(self, cell: Cell, column: str, key: str) -> list[Any]:
        """Arrays `key` of the attacks whose worst case a column is; none if it is of others."""
        for suite, record in cell.records.items():
            joined = self._joined(cell, suite) if column == f"{suite}_worst" else [suite]
            if column in (suite, f"{suite}_worst"):
                records = [cell.records[s] for s in joined]
                return [self._read(r)[f"{name}/{key}"] for r in records for name, _ in r.attacks]
            if column in dict(record.attacks):
                return [self._read(record)[f"{column}/{key}"]]
        return []

    def _joined(self, cell: Cell, suite: str) -> list[str]:
        """The suites of a worst case: adaptive ones add to the core and to each other."""
        joins = [CORE, *(s for s in cell.records if s.startswith(ADAPTIVE))]
        return [s for s in cell.records if s == suite or (suite == ADAPTIVE and s in joins)]

    def _of_members(self, cell: Cell, attack: str, rule: str) -> Verdicts:
        """Verdicts of another combination of the members on the images found by an attack."""
        for record in cell.records.values():
            if attack == "clean" or attack in dict(record.attacks):
                arrays = self._read(record)
                if rule in PEERS and f"{attack}/peers" not in arrays:
                    continue
                if rule in PEERS:
                    keys = ("members", "peers", "gap", "gaps")
                    own = {key: arrays[f"{attack}/{key}"] for key in keys}
                    return metrics.of_peers(rule, own, arrays["labels"])
                right, said = arrays[f"{attack}/right"], arrays[f"{attack}/members"]
                return metrics.of_members(rule, right, said, arrays["labels"])
        raise UserError(f"params.yaml: tables: {attack} is in none of the table's suites")

    def _flags(self, cell: Cell) -> list[Flag]:
        records = [(self._read(r), list(r.attacks)) for r in cell.records.values()]
        found = flags(Evidence(records))
        for flag in found:
            if flag.fails:
                path = next(iter(cell.records.values())).path.parent
                raise UserError(f"{path}: {flag.check}: {flag.text}; see pipeline/flags.py")
        return found

    # ---- numbers

    def details(self) -> dict[str, Any]:
        """Everything the .json holds beside the receipt, by row and column."""
        return {row.label: self._details(row) for row in self.rows}

    def _details(self, row: Row) -> dict[str, Any]:
        if row.status != "done":
            return {**row.keys, "status": row.status}
        found: dict[str, Any] = {**row.keys, "status": "done"}
        for column in self.accuracies:
            found[column] = self._cell(row, column)
        found |= {c: row.costs[c] for c in (*COSTS, DISK) if c in row.costs}
        found |= {c: "planned" for c in self.table.columns if c not in found}
        found["flags"] = {f.check: f.text for f in row.flags}
        return found

    def _cell(self, row: Row, column: str) -> dict[str, Any]:
        vectors = row.verdicts[column]
        means = [float(v.mean()) for v in vectors]
        low, high = metrics.interval(vectors)
        cell: dict[str, Any] = {
            "mean": float(np.mean(means)),
            "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "seeds": len(means),
            "n": len(vectors[0]),
            "low": low,
            "high": high,
            "published": self.reported.value(row.cells[0], column),
            **self._spent(row, column),
        }
        reference = self._by_victim.get(_digest(row.cells[0].reference or ""))
        if reference is not None and reference is not row and reference.status == "done":
            against = reference.verdicts[column]
            cell["against"] = {"row": reference.label, **metrics.paired(vectors, against)}
        return cell

    def _spent(self, row: Row, column: str) -> dict[str, float]:
        """Mean forwards and backwards an image of the attacks behind a column."""
        work = [sum(self._behind(cell, column, "work")) for cell in row.cells]
        if not any(np.size(w) > 1 for w in work):  # clean, or made of other columns
            return {}
        forwards, backwards = np.mean(work, 0) / len(row.verdicts[column][0])
        return {"forwards": round(float(forwards), 2), "backwards": round(float(backwards), 2)}

    def frame(self, details: dict[str, Any]) -> pd.DataFrame:
        """The .csv: fractions, one line a row; std only with several seeds."""
        lines = []
        for row in self.rows:
            found, line = details[row.label], dict(row.keys)
            for column in self.table.columns:
                if column in self.accuracies and row.status == "done":
                    line[column] = round(found[column]["mean"], 6)
                    if found[column]["std"] is not None:
                        line[f"{column}_std"] = round(found[column]["std"], 6)
                    if found[column]["published"] is not None:
                        line[f"{column}_published"] = found[column]["published"]
                elif column != "members":
                    line[column] = found.get(column, "")
            line["flags"] = " ".join(f.check for f in row.flags)
            line["status"] = row.status
            lines.append(line)
        return pd.DataFrame(lines)


def _digest(victim: str) -> str:
    """What a victim is, whatever its row is called."""
    return victim.rsplit("-", 1)[-1]
