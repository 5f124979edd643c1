"""What a target needs, what exists, what the rest would cost: `python -m pipeline.plan [TARGET]`.

Without a target: the tables and figures of the scale. `need` will be made, `have` is here,
`not needed` is absent and nothing asks for it. `--row aute --seed 0` is that part of a table alone.
"""

import argparse
import re
import shlex
from collections.abc import Iterable

from pipeline.cluster.cluster import report as report_cluster
from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.plan import Artifact, Figure, Plan, Table, load_plan, shared
from pipeline.plan.estimate import describe
from pipeline.plan.graph.targets import walk
from pipeline.plan.speeds import measure
from pipeline.plan.state import NEED, State, headline, states, survey
from pipeline.share import guard
from pipeline.share.equal import prove
from pipeline.share.pull import pull
from pipeline.share.unused import unused
from pipeline.tools import cell


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description=__doc__)
    parser.add_argument("target", nargs="?", help="file of a table or figure: results/table1.csv")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--pull", action="store_true", help="fetch just what the target needs")
    one.add_argument("--unused", action="store_true", help="list what no table needs")
    one.add_argument("--equal", metavar="COMPONENT", help="prove a refactoring: methods/trades")
    one.add_argument("--cluster", action="store_true", help="what its jobs ask of a cluster")
    one.add_argument(
        "--budget", metavar="24h", type=read_hours, help="rows that decide most printed numbers"
    )
    one.add_argument("--row", help="one row of the table alone, or a unique beginning of an id")
    parser.add_argument("--members", type=int, help="of that row, where it stands with several")
    parser.add_argument("--seed", type=int, help="of that row; all if none")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, help="make it: what follows goes to snakemake"
    )
    args = parser.parse_args(argv)
    for name in ("unused", "equal", "budget"):
        if args.target is not None and getattr(args, name) not in (None, False):
            parser.error(f"--{name}: is of no single target; leave out {args.target}")
    check_row(args)

    if args.unused:
        print(unused())
        return
    if args.equal is not None:
        print(prove(args.equal))
        return

    plan = load_plan()
    if args.budget is not None:
        print(_decide(plan, args.budget))
        return
    targets = list(plan.targets.values()) if args.target is None else [plan.target(args.target)]

    if args.row is not None:
        show_row(plan, args)
        return
    if args.cluster:
        print(_cluster(plan, args.target))
        return
    if args.pull:
        print(pull(plan, targets))
    elif args.target is None:
        print(_targets(plan))
    else:
        print(_target(plan, targets[0]))

    guard.warn(plan, targets)
    say_stale(plan, targets)


def read_hours(text: str) -> float:
    """Hours of 90m, 24h, 2d; hours alone need no unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90m, 24h or 2d")
    return float(found[1]) * {"m": 1 / 60, "h": 1, "": 1, "d": 24}[found[2]]


def _decide(plan: Plan, hours: float) -> str:
    """Rows of the papers' tables that are not run and decide most numbers within some hours.

    Where the scale cuts or stands in for what is printed, those of `paper`.
    """
    from pipeline.tables.reproduced import PAPER, Reproduced  # pandas only where it is needed

    chosen = Reproduced(plan).choose(hours)
    if not chosen and plan.scale != PAPER:
        plan = Plan({**plan.entries.params, "scale": PAPER})
        chosen = Reproduced(plan).choose(hours)
    if not chosen:
        return f"scale {plan.scale}: no row that is not run yet fits into {hours:g} hours"

    numbers, costs = sum(c for _, c, _ in chosen), sum(c for _, _, c in chosen)
    lines = [f"{name}: {count} numbers, {cost:.1f} hours" for name, count, cost in chosen]
    total = f"{numbers} printed numbers in {costs:.1f} hours, as estimated"
    return "\n".join([f"scale {plan.scale}: {total}", *lines])


def check_row(args: argparse.Namespace) -> None:
    """Refuse what only makes sense of a row, where none is named."""
    given = [n for n in ("members", "seed", "run") if getattr(args, n) is not None]
    if args.row is None and given:
        raise UserError(f"--{given[0]}: is of a row; name one with --row")
    if args.row is not None and args.target is None:
        raise UserError("--row: is of one table; name it")


def show_row(plan: Plan, args: argparse.Namespace) -> None:
    """What a row needs, or, asked to run, Snakemake on it."""
    table, records = cell.cut_to_row(
        plan, plan.table(args.target), args.row, args.members, args.seed
    )
    line, listed = survey(plan, [table])
    rows = [[s.status, s.stage, s.id, _cost(s)] for s in listed]
    print("\n".join([line, "", *_align(rows)]))
    say_stale(plan, [table])
    if args.run is None:
        print(f"\nto make it, add --run, or: {shlex.join(cell.command(records, []))}")
    elif any(s.status == NEED for s in listed):
        cell.run(records, args.run)


def say_stale(plan: Plan, targets: Iterable[Artifact]) -> None:
    """What was made with other shared code than today's, of all that targets rest on."""
    if line := shared.Stale(plan, walk(plan.graph, targets)).line():
        print(f"\n{line}")


def _cluster(plan: Plan, target: str | None) -> str:
    """The one-line summary, then the jobs by stage; of everything at the scale by default."""
    names = [*plan.entries.section("tables"), *plan.figures]
    targets = [plan.targets[n] for n in names] if target is None else [plan.target(target)]
    line, listed = survey(plan, targets)
    return "\n".join([line, "", *_align(report_cluster(plan, listed))])


def _target(plan: Plan, target: Table | Figure) -> str:
    """The one-line summary, then runs and records, one a line."""
    line, listed = survey(plan, [target])
    rows = [[s.status, s.stage, s.id, _cost(s)] for s in listed]
    state = "is up to date" if target.is_here() else "is to be made"
    return "\n".join([f"{target.path} {state}", line, "", *_align(rows)])


def _cost(state: State) -> str:
    is_costly = state.status == NEED and state.stage != "prepare"
    return f"estimate {describe(state.seconds)}" if is_costly else ""


def _targets(plan: Plan) -> str:
    """One line a table or figure: file, rows, runs and records, state."""
    speeds = measure(plan, plan.targets.values())
    rows = [["target", "rows", "runs", "records", "state", "estimate of what is missing"]]
    for target in plan.targets.values():
        records, runs = plan.needs(target)

        needed = [s for s in states(plan, [target], speeds) if s.status == NEED]
        costs = [s.seconds for s in needed]
        total = None if None in costs else sum(c for c in costs if c is not None)
        counts = [len({c.row for c in target.cells}), len(runs), len(records)]
        state = "up to date" if target.is_here() else "to be made"
        cells = [str(target.path), *map(str, counts), state, describe(total)]
        rows.append(cells)

    line = headline(plan, list(plan.targets.values()), [], speeds)
    return "\n".join([line.partition("; to make")[0], "", *_align(rows)])


def _align(rows: list[list[str]]) -> list[str]:
    """Rows as text, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    report(main)
