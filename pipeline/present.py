"""Write results/report.html, a page to look at: `python -m pipeline.present`.

It shows results/table1.csv, or the whole of it where that is finished, and every other table,
figure and the claims that are finished: what is missing is left out.
"""

import argparse

from pipeline.job.report import report
from pipeline.pages.page import render
from pipeline.plan import Plan, load_plan
from pipeline.plan.workflow import PAGE, presented, written
from pipeline.store.receipts import write_target
from pipeline.store.sums import sum_of


def present(plan: Plan) -> str:
    """Write the page and its receipt; what was written, in words."""
    table, *others = presented(plan)
    page = render(plan, table, others, written()).encode()
    shown = [table, *others]
    receipts = [target.path.with_suffix(".json") for target in shown]
    rests_on = {path.as_posix(): sum_of(path) for path in [*receipts, *written()]}
    receipt = {"plan": table.digest, "scale": plan.scale, "rests_on": rests_on}
    write_target(PAGE.with_suffix(".json"), {"receipt": receipt}, {PAGE: page})
    return (
        f"{PAGE}: {len(page) / 1e6:.1f} MB, {len(shown)} tables and figures; open it in a browser"
    )


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.present", description=__doc__)
    parser.parse_args(argv)
    print(present(load_plan()))


if __name__ == "__main__":
    report(main)
