"""What a table's rows cost: `python -m pipeline costs results/red/table1.csv`.

Writes <table>.cost.csv: parameters, multiply-adds and milliseconds of one query, FLOPs and seconds
of training with parents, seconds of evaluation. Times were measured when each artifact was made,
on the machine that is named; they are blank for what was pulled without them, and are in no
receipt and no metrics.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.job.report import report
from pipeline.plan import Plan, Run, Table, load_plan
from pipeline.plan.graph.column_names import COSTS
from pipeline.plan.graph.targets import Cell
from pipeline.store.files import write_atomic
from pipeline.store.records import meta, read_record
from pipeline.store.sums import as_seconds, read_mapping
from pipeline.tables.rows import describe

TIMES = ("seconds", "latency_ms")


def _read_times(path: Path) -> dict[str, Any]:
    """Numbers and device in a file of times; nothing where it was not pulled, or damaged."""
    times = {}
    for key, value in read_mapping(path).items():
        is_time = key in TIMES and as_seconds(value) is not None
        if is_time or (key == "device" and isinstance(value, str)):
            times[key] = value
    return times


def _find_behind(plan: Plan, run: Run) -> dict[str, Run]:
    """A run, its parents and theirs."""
    runs = {run.id: run}
    for parent in run.parents:
        runs |= _find_behind(plan, plan.run(parent))
    return runs


def _sum_training(plan: Plan, cell: Cell) -> tuple[Any, set[str]]:
    """Seconds of all trainings behind a victim, blank if one is unknown, and where they ran."""
    runs: dict[str, Run] = {}
    for element in cell.victim.elements if cell.victim else ():
        runs |= _find_behind(plan, plan.run(element.run))
    times_of_runs = [
        _read_times(r.folder / "run.time.json") for r in runs.values() if r.stage == "train"
    ]
    # One unknown time makes the sum unknown: a part of it would look like the whole. Nobody knows
    # what the training of adopted weights took.
    is_adopted = any(run.stage == "adopt" for run in runs.values())
    known = not is_adopted and all("seconds" in times for times in times_of_runs)
    seconds = round(sum(times["seconds"] for times in times_of_runs), 1) if known else ""
    return seconds, {times["device"] for times in times_of_runs if "device" in times}


def line(plan: Plan, cell: Cell) -> dict[str, Any]:
    """One row at its first seed."""
    row = {**describe(plan, cell), "scale": plan.scale}
    made = [record for record in cell.records.values() if record.path.exists()]
    if not made:
        return row

    cost = meta(read_record(made[0].path, ()))["cost"]
    times = [_read_times(record.path.with_suffix(".time.json")) for record in made]
    latencies = [t["latency_ms"] for t in times if "latency_ms" in t]

    training, devices = _sum_training(plan, cell)
    devices |= {t["device"] for t in times if "device" in t}
    known = len(made) == len(cell.records) and all("seconds" in t for t in times)
    return {
        **row,
        **{key: cost[key] for key in COSTS if key != "members"},
        # The least: whatever else ran at the time can only add.
        "latency_ms": round(min(latencies), 3) if latencies else "",
        "train_seconds": training,
        "evaluate_seconds": round(sum(t["seconds"] for t in times), 1) if known else "",
        "device": "; ".join(sorted(devices)),
    }


def costs(plan: Plan, table: Table) -> pd.DataFrame:
    """One line a row, whatever its seeds."""
    rows: dict[Any, Cell] = {}
    for cell in table.cells:
        s = cell.setting
        rows.setdefault((cell.row, cell.members, s.dataset, s.arch, s.overrides), cell)
    return pd.DataFrame([line(plan, cell) for cell in rows.values()])


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline costs", description=__doc__)
    parser.add_argument("table", help="file of a table, such as results/red/table1.csv")
    plan = load_plan()
    table = plan.table(parser.parse_args(argv).table)

    frame = costs(plan, table)
    target = table.path.with_suffix(".cost.csv")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, frame.to_csv(index=False, lineterminator="\n").encode())
    print(frame.to_string(index=False))


if __name__ == "__main__":
    report(main)
