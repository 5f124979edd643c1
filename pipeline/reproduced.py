"""Did we reproduce it: `python -m pipeline.reproduced` writes results/reproduced.csv and .md.

Every published number of data/reported/ with ours, which settings match, and one of: reproduced,
differs by x, cannot tell, settings unknown, not at this scale, not run (with its hours).
"""

import argparse
from pathlib import Path

import pandas as pd

from pipeline.job.report import report
from pipeline.plan import Plan, load_plan
from pipeline.store.files import write_atomic
from pipeline.tables.reproduced import COLUMNS, Reproduced, totals

TARGET = Path("results/reproduced.csv")
SHOWN = ("paper", "table", "row", "column", "published", "ours", "difference", "verdict", "hours")


def write(plan: Plan) -> str:
    """Write both files; returns the text for people."""
    lines = list(Reproduced(plan).lines())
    text = pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n")
    first, *others = totals(lines)

    page = [first, "", f"# Did we reproduce it? (scale {plan.scale})", ""]
    page += [f"- {other}" for other in others]
    page += ["", "| " + " | ".join(SHOWN) + " |", "|---" * len(SHOWN) + "|"]
    page += ["| " + " | ".join(line[key] for key in SHOWN) + " |" for line in lines]

    TARGET.parent.mkdir(exist_ok=True)
    write_atomic(TARGET.with_suffix(".md"), ("\n".join(page) + "\n").encode())
    write_atomic(TARGET, text.encode())
    return "\n".join([first, *others]) + "\n"


def main(argv: list[str] | None) -> None:
    """Command line."""
    argparse.ArgumentParser(prog="python -m pipeline.reproduced", description=__doc__).parse_args(
        argv
    )
    print(write(load_plan()), end="")


if __name__ == "__main__":
    report(main)
