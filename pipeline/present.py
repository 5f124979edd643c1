"""Write results/report.html, a page to look at: `python -m pipeline.present`.

It shows results/table1.csv, or the whole of it where that is finished, and every other table,
figure and the claims that are finished: what is missing, or no more today's, is left out.
"""

import argparse

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.pages.page import render
from pipeline.plan import Plan, Table, load_plan
from pipeline.plan.presented import PAGE, find_shown, page, written
from pipeline.store.receipts import write_target
from pipeline.store.sums import sum_of


def present(plan: Plan) -> str:
    """Write the page and its receipt; what was written, in words."""
    shown = find_shown(plan)
    tables = [target for target in shown[:1] if isinstance(target, Table) and target.is_here()]
    if not tables:
        raise UserError("no table is finished as params.yaml has it today; run: make table1")

    today, texts = page(plan), written(plan)
    text = render(plan, tables[0], shown[1:], texts).encode()
    receipts = [target.path.with_suffix(".json") for target in shown]
    rests_on = {path.as_posix(): sum_of(path) for path in [*receipts, *texts]}
    receipt = {"plan": today.digest, "scale": plan.scale, "rests_on": rests_on}
    write_target(today.path.with_suffix(".json"), {"receipt": receipt}, {today.path: text})
    return (
        f"{PAGE}: {len(text) / 1e6:.1f} MB, {len(shown)} tables and figures; open it in a browser"
    )


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.present", description=__doc__)
    parser.parse_args(argv)
    print(present(load_plan()))


if __name__ == "__main__":
    report(main)
