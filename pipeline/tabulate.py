"""Build a table from records: `python -m pipeline.tabulate results/table1.csv [--partial]`.

Writes .csv (fractions), .md (percent), .json (intervals, receipt), .png, and numbers alone under
metrics/ for `dvc metrics diff`. Nothing is computed twice: records hold every verdict.
"""

import argparse
import json
from typing import Any

from pipeline.job.report import report
from pipeline.plan import Plan, Table, load_plan
from pipeline.store.files import write_atomic
from pipeline.tables import dots
from pipeline.tables.markdown import markdown
from pipeline.tables.rows import Tabulation


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
