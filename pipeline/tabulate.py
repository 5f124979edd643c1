"""Build a table from records: `python -m pipeline.tabulate results/table1.csv [--partial]`.

Writes .csv (fractions), .md (percent), .json (intervals, receipt), .png, and numbers alone under
metrics/ for `dvc metrics diff`. Nothing is computed twice: records hold every verdict.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.errors import UserError, report
from pipeline.figures import dots
from pipeline.files import write_atomic
from pipeline.flags import Flag, check_budget, flags
from pipeline.metrics import Verdicts
from pipeline.plan import Plan, Table, load_plan, manifest
from pipeline.plan.graph import Cell, Record
from pipeline.plan.tables import COSTS
from pipeline.records import Arrays, meta, read_arrays
from pipeline.reported import Reported

CORE = "core"


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
        self.reported = Reported(plan, table.spec["entry"]["reported"])
        self._arrays: dict[str, Arrays] = {}
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in table.cells:
            s = cell.setting
            key = (cell.row, s.dataset, s.arch, cell.members, s.overrides)
            groups.setdefault(key, []).append(cell)
        self.rows = [self._row(tuple(cells)) for cells in groups.values()]
        self.by_victim = {c.victim.id: r for r in self.rows for c in r.cells if c.victim}

    # ---- reading

    def _row(self, cells: tuple[Cell, ...]) -> Row:
        first, setting = cells[0], cells[0].setting
        entries, spec = self.plan.entries, self.table.spec["entry"]
        keys = {
            "method": first.row,
            "members": first.members,
            "dataset": entries.stand_in(setting.dataset)[0],
            "arch": entries.arch(setting.arch).name,
            **dict(setting.overrides),
        }
        parts = [first.row]
        parts += [f"x{first.members}"] if len(spec["members"]) > 1 else []
        parts += [setting.dataset] if len(spec["datasets"]) > 1 else []
        parts += [setting.arch] if len(spec["archs"]) > 1 else []
        parts += [f"{k}={v}" for k, v in setting.overrides]
        missing = [r for c in cells for r in c.records.values() if not r.path.exists()]
        if first.victim is None:
            status = "planned"
        else:
            status = _status(self.plan, missing) if missing else "done"
        if missing and not self.partial:
            raise UserError(f"{missing[0].path}: is missing; run snakemake, or add --partial")
        if status != "done":
            return Row(" ".join(parts), keys, cells, status, {}, {}, ())
        verdicts = {c: [self.verdict(cell, c) for cell in cells] for c in self.accuracies}
        found = tuple(dict.fromkeys(f for cell in cells for f in self._flags(cell)))
        costs = meta(self._read(next(iter(first.records.values()))))["cost"]
        return Row(" ".join(parts), keys, cells, "done", verdicts, costs, found)

    @property
    def accuracies(self) -> list[str]:
        """Columns that are accuracies."""
        return [c for c in self.table.columns if c not in COSTS]

    def _read(self, record: Record) -> Arrays:
        if record.id not in self._arrays:
            arrays = read_arrays(record.path)
            if meta(arrays)["spec"] != json.loads(json.dumps(record.spec)):
                raise UserError(f"{record.path}: is of another plan; delete it and evaluate again")
            manifest.check_rests_on(record.path, meta(arrays)["weights"])
            check_budget(arrays, record.attacks, str(record.path))
            self._arrays[record.id] = arrays
        return self._arrays[record.id]

    def verdict(self, cell: Cell, column: str) -> Verdicts:
        """Per-image verdicts of one accuracy column at one seed."""
        if column == "clean":
            right: Verdicts = self._read(next(iter(cell.records.values())))["clean/right"]
            return right
        for suite, record in cell.records.items():
            if column == f"{suite}_worst":  # an adaptive suite adds to the core, never replaces it
                suites = {s for s in (CORE, suite) if s in cell.records}
                return metrics.worst([v for s in suites for v in self._suite(cell, s)])
            if column in dict(record.attacks):
                verdicts: Verdicts = self._read(record)[f"{column}/right"]
                return verdicts
        raise UserError(f"params.yaml: tables: column {column} is in none of the table's suites")

    def _suite(self, cell: Cell, suite: str) -> list[Verdicts]:
        record = cell.records[suite]
        return [self._read(record)[f"{name}/right"] for name, _ in record.attacks]

    def _flags(self, cell: Cell) -> list[Flag]:
        everything = [v for s in cell.records for v in self._suite(cell, s)]
        ce = {
            name: self._read(record)[f"{name}/right"]
            for record in cell.records.values()
            for name, spec in record.attacks
            if spec["component"] == "pgd" and spec["fields"]["loss"] == "ce"
        }
        first = self._read(next(iter(cell.records.values())))
        return flags(first, ce, everything)

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
        found |= {c: row.costs[c] for c in COSTS}
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
        }
        reference = self.by_victim.get(row.cells[0].reference or "")
        if reference is not None and reference is not row and reference.status == "done":
            against = reference.verdicts[column]
            cell["against"] = {"row": reference.label, **metrics.paired(vectors, against)}
        return cell

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


def _status(plan: Plan, missing: list[Record]) -> str:
    """failed, running or not built, from the logs of what a row still needs."""
    logs = []
    for record in missing:
        logs.append(Path("logs/evaluate") / f"{record.id}.log")
        for element in record.victim.elements:
            run = plan.run(element.run)
            if not (run.folder / "weights.safetensors").exists():
                logs.append(Path("logs") / run.stage / f"{run.id}.log")
    texts = [log.read_text(errors="replace") for log in logs if log.exists()]
    if any("\nerror: " in f"\n{t}" or "Traceback" in t for t in texts):
        return "failed"
    return "running" if texts else "not built"


def markdown(tabulation: Tabulation, details: dict[str, Any]) -> str:
    """The table for people: percent with 95 % half-widths, costs, flags, what was cut."""
    table, spec = tabulation.table, tabulation.table.spec
    columns = list(table.columns)
    lines = [f"# {spec['entry']['title']}", "", _about(tabulation), ""]
    lines.append("| " + " | ".join(["method", *columns, "vs reference", "flags"]) + " |")
    lines.append("|---" * (len(columns) + 3) + "|")
    for row in tabulation.rows:
        found = details[row.label]
        texts = [_text(found, c) for c in columns]
        tail = [_against(found), " ".join(f.check for f in row.flags)]
        if row.status != "done":
            texts, tail = [row.status] + [""] * (len(columns) - 1), ["", ""]
        lines.append("| " + " | ".join([row.label, *texts, *tail]) + " |")
    fired = [f"- {r.label}: {f.check}: {f.text}" for r in tabulation.rows for f in r.flags]
    if fired:
        lines += ["", "Red flags:", "", *fired]
    return "\n".join(lines) + "\n"


def _about(tabulation: Tabulation) -> str:
    entries, entry = tabulation.plan.entries, tabulation.table.spec["entry"]
    stand_ins = [
        f"{entries.stand_in(d)[0]} standing in for {d}"
        for d in entry["datasets"]
        if entries.stand_in(d)[0] != d
    ]
    shown = {a for s in tabulation.table.suites.values() for a in s}
    cuts = [f"{a} {_cut(c)}" for a, c in entries.part("attacks").items() if a in shown]
    parts = [
        f"Scale {entries.scale_name}; {entry['images']} test images; seeds {entry['seeds']}; "
        f"checkpoint {entry['checkpoint']}; percent with 95 % half-width; "
        f"vs reference: core_worst (last accuracy column without one) minus {entry['reference']} "
        "with as many members, paired.",
        *([f"Stand-ins: {', '.join(stand_ins)}."] if stand_ins else []),
        *([f"Cut by the scale: {'; '.join(cuts)}."] if cuts else []),
    ]
    return " ".join(parts)


def _cut(cut: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in cut.items())


def _text(found: dict[str, Any], column: str) -> str:
    value = found.get(column, "")
    if isinstance(value, dict):
        half = (value["high"] - value["low"]) / 2
        text = f"{100 * value['mean']:.1f} ± {100 * half:.1f}"
        published = value["published"]
        return text if published is None else f"{text} ({100 * published:.1f})"
    if isinstance(value, int) and value >= 100_000:
        return f"{value:.2e}"
    return str(value)


def headline(details: dict[str, Any]) -> str | None:
    """The column that ranks: core_worst, else the last accuracy."""
    columns = [c for c, v in details.items() if isinstance(v, dict) and "mean" in v]
    if f"{CORE}_worst" in columns:
        return f"{CORE}_worst"
    return columns[-1] if columns else None


def _against(found: dict[str, Any]) -> str:
    column = headline(found)
    if column is None or "against" not in found[column]:
        return ""
    a = found[column]["against"]
    return f"{100 * a['difference']:+.1f} [{100 * a['low']:+.1f}, {100 * a['high']:+.1f}]"


def numbers(details: dict[str, Any]) -> dict[str, Any]:
    """For `dvc metrics diff`: row, column, percent; nothing that changes without a result."""
    return {
        label: {c: round(100 * v["mean"], 3) for c, v in row.items() if _is_accuracy(v)}
        for label, row in details.items()
    }


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, dict) and "mean" in value


def tabulate(plan: Plan, table: Table, partial: bool) -> str:
    """Write all files of a table, the .csv last; returns the text for people."""
    tabulation = Tabulation(plan, table, partial)
    details = tabulation.details()
    text = markdown(tabulation, details)
    receipt = {"plan": table.digest if not partial else "partial", "scale": plan.scale}
    values = {"receipt": receipt, "rows": details}
    table.path.parent.mkdir(parents=True, exist_ok=True)
    table.metrics.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(table.metrics, _json(numbers(details)))
    title = f"{table.spec['entry']['title']} (scale {plan.scale})"
    write_atomic(table.path.with_suffix(".png"), dots.draw(details, title))
    write_atomic(table.path.with_suffix(".md"), text.encode())
    write_atomic(table.path.with_suffix(".json"), _json(values))
    csv = tabulation.frame(details).to_csv(index=False, lineterminator="\n")
    write_atomic(table.path, csv.encode())
    return text


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=False) + "\n").encode()


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tabulate", description=__doc__)
    parser.add_argument("table", help="file of a table, such as results/table1.csv")
    parser.add_argument("--partial", action="store_true", help="show rows still missing as such")
    args = parser.parse_args(argv)
    plan = load_plan()
    print(tabulate(plan, plan.table(args.table), args.partial), end="")


if __name__ == "__main__":
    report(main)
