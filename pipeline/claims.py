"""What the papers say against numbers: `python -m pipeline.claims` writes results/claims.md.

First our records: each sentence of data/claims/ours.csv says how one row of a table stands to
another; the paired difference decides. Then the papers' own tables: each sentence of
data/claims/printed.csv is computed again from data/reported/, and so is every printed average.
"""

import argparse
from pathlib import Path

from pipeline.job.report import report
from pipeline.plan import Plan, load_plan
from pipeline.store.files import write_atomic
from pipeline.tables.claims import OURS, OURS_FILE, PAPERS, PRINTED, Ours, Printed, read_claims

TARGET = Path("results/claims.md")


def build_page(plan: Plan) -> str:
    """The text of results/claims.md."""
    ours, printed = Ours(plan), Printed()
    lines = [
        "# Claims",
        "",
        f"Scale {plan.scale}. Ours: paired difference in points with its 95 % interval.",
        "",
        "| paper | sentence | verdict | difference |",
        "|---|---|---|---|",
    ]
    for claim in read_claims(OURS_FILE, OURS):
        verdict, text = ours.verdict(claim)
        lines.append(f"| {claim['paper']} | {claim['sentence']} | {verdict} | {text} |")

    lines += ["", "# The papers' sentences in their own tables", ""]
    lines += ["| paper | where | sentence | verdict | the cells give |", "|---|---|---|---|---|"]
    for claim in read_claims(Path("data/claims/printed.csv"), PRINTED):
        verdict, text = printed.verdict(claim)
        cells = [claim["paper"], claim["where"], claim["sentence"], verdict, text]
        lines.append("| " + " | ".join(cells) + " |")

    lines += ["", "# Printed averages that are not the mean of their row", ""]
    wrong_means = [(p, *wrong) for p in PAPERS for wrong in printed.averages(p)]
    lines += [f"- {p}: {name}: printed {a:.1f}, mean {b:.2f}" for p, name, a, b in wrong_means]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.claims", description=__doc__)
    parser.parse_args(argv)
    text = build_page(load_plan())
    TARGET.parent.mkdir(exist_ok=True)
    write_atomic(TARGET, text.encode())
    print(text, end="")


if __name__ == "__main__":
    report(main)
