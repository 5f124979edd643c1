"""Build a table from records: `python -m pipeline.tabulate results/table1.csv [--partial]`.

Writes .csv (fractions), .md and .tex (percent), .json (intervals, receipt), .png, .pdf, and each
row's numbers alone under metrics/ for DVC. Nothing is computed twice: records hold every verdict.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.job.report import report
from pipeline.plan import Plan, Table, load_plan
from pipeline.store.receipts import write_target
from pipeline.store.sums import sum_of
from pipeline.tables import dots
from pipeline.tables.labels import name_data
from pipeline.tables.latex import latex
from pipeline.tables.markdown import markdown
from pipeline.tables.rows import Tabulation

PARTIAL = Path("work/partial")


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """For `dvc metrics`: percent by column; nothing that changes without a result."""
    return {c: round(100 * v["mean"], 3) for c, v in row.items() if _is_accuracy(v)}


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, dict) and "mean" in value


def tabulate(plan: Plan, table: Table, partial: bool) -> str:
    """Write all files of a table, the receipt last; returns the text for people.

    A partial one is no result: its files lie in work/partial/, and the table stays as it is.
    """
    tabulation = Tabulation(plan, table, partial)
    details = tabulation.details()
    text = markdown(tabulation, details)
    entry = table.spec["entry"]
    data = name_data(plan.entries, entry["datasets"])
    pictures = dots.draw(details, f"{entry['title']}\n{data}; scale {plan.scale}")

    files = {
        **{file: _dump_json(numbers(details[row])) for row, file in table.metrics.items()},
        **{table.path.with_suffix(suffix): pictures[suffix] for suffix in (".png", ".pdf")},
        table.path.with_suffix(".tex"): latex(tabulation, details).encode(),
        table.path.with_suffix(".md"): text.encode(),
        table.path: tabulation.frame(details).to_csv(index=False, lineterminator="\n").encode(),
    }

    records = [r for r in plan.needs(table)[0] if r.path.exists()]
    rests_on = {r.path.as_posix(): sum_of(r.path) for r in records}
    receipt = {"plan": table.digest, "scale": plan.scale, "rests_on": rests_on}
    receipt_path = table.path.with_suffix(".json")

    if partial:
        files = {partial_path(file): content for file, content in files.items()}
        receipt_path = partial_path(receipt_path)
    else:
        for file in table.strays():
            file.unlink()
    write_target(receipt_path, {"receipt": receipt, "rows": details}, files)
    return text


def partial_path(file: Path) -> Path:
    """Where a partial table has what a whole one has at `file`."""
    return PARTIAL / file.relative_to("results")


def _dump_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=False) + "\n").encode()


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tabulate", description=__doc__)
    parser.add_argument("table", help="file of a table, such as results/table1.csv")
    parser.add_argument("--partial", action="store_true", help="show rows still missing as such")
    args = parser.parse_args(argv)
    plan = load_plan()
    table = plan.table(args.table)
    print(tabulate(plan, table, args.partial), end="")
    if args.partial:
        print(f"files: {partial_path(table.path.with_suffix('.*'))}")


if __name__ == "__main__":
    report(main)
