"""What a table needs, what exists, what the rest would cost: `python -m pipeline.plan [TARGET]`.

Without a target: the tables of the scale. `need` will be made, `have` is there, `spare` is absent
but nothing asks for it.
"""

import argparse

from pipeline.errors import report
from pipeline.plan import Plan, Table, guard, load_plan
from pipeline.plan.cluster import report as report_cluster
from pipeline.plan.equal import prove
from pipeline.plan.estimate import describe
from pipeline.plan.pull import pull
from pipeline.plan.state import NEED, State, headline, is_current, states
from pipeline.plan.unused import unused


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description=__doc__)
    parser.add_argument("target", nargs="?", help="file of a table, such as results/table1.csv")
    parser.add_argument("--pull", action="store_true", help="fetch just what the target needs")
    parser.add_argument("--unused", action="store_true", help="list what no table needs")
    parser.add_argument("--equal", metavar="COMPONENT", help="prove a refactoring: methods/trades")
    parser.add_argument("--cluster", action="store_true", help="what its jobs ask of a cluster")
    args = parser.parse_args(argv)
    if args.unused:
        print(unused())
        return
    if args.equal is not None:
        print(prove(args.equal))
        return
    plan = load_plan()
    tables = list(plan.tables.values()) if args.target is None else [plan.table(args.target)]
    if args.cluster:
        print(_cluster(plan, args.target))
        return
    if args.pull:
        print(pull(plan, tables))
    elif args.target is None:
        print(_tables(plan))
    else:
        print(_target(plan, tables[0]))
    guard.warn(plan, tables)


def _cluster(plan: Plan, target: str | None) -> str:
    """The one-line summary, then the jobs by stage; of every table of the scale by default."""
    names = plan.entries.section("tables")
    tables = [plan.tables[name] for name in names] if target is None else [plan.table(target)]
    found = states(plan, tables)
    line = headline(plan, tables, [s for s in found if s.status == NEED])
    return "\n".join([line, "", *_aligned(report_cluster(plan, found))])


def _target(plan: Plan, table: Table) -> str:
    """The one-line summary, then runs and records, one a line."""
    found = states(plan, [table])
    line = headline(plan, [table], [s for s in found if s.status == NEED])
    rows = [[s.status, s.stage, s.id, _cost(s)] for s in found]
    state = "is up to date" if is_current(table) else "is to be made"
    return "\n".join([f"{table.path} {state}", line, "", *_aligned(rows)])


def _cost(state: State) -> str:
    is_costly = state.status == NEED and state.stage != "prepare"
    return f"estimate {describe(state.seconds)}" if is_costly else ""


def _tables(plan: Plan) -> str:
    """One line a table: file, rows, runs and records, state."""
    rows = [["table", "rows", "runs", "records", "state", "estimate of what is missing"]]
    for table in plan.tables.values():
        records, runs = plan.needs(table)
        needed = [s for s in states(plan, [table]) if s.status == NEED]
        costs = [s.seconds for s in needed]
        total = None if None in costs else sum(c for c in costs if c is not None)
        counts = [len({c.row for c in table.cells}), len(runs), len(records)]
        state = "up to date" if is_current(table) else "to be made"
        cells = [str(table.path), *map(str, counts), state, describe(total)]
        rows.append(cells)
    line = headline(plan, list(plan.tables.values()), [])
    return "\n".join([line.partition("; to make")[0], "", *_aligned(rows)])


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as text, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    report(main)
