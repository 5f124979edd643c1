"""What the papers say against numbers: `python -m pipeline.claims` writes results/claims.md.

First our records: each sentence of data/claims/ours.csv says how one row of a table stands to
another; the paired difference decides. Then the papers' own tables: each sentence of
data/claims/printed.csv is computed again from data/reported/, and so is every printed average.
"""

import argparse

from pipeline.core.intervals import FEWEST
from pipeline.job.report import report
from pipeline.plan import Plan, load_plan, presented
from pipeline.tables.claims import OURS, OURS_FILE, PRINTED, Ours, Printed, read_claims
from pipeline.tables.reported import list_papers


def build_page(plan: Plan) -> str:
    """The text of results/claims.md."""
    ours, printed = Ours(plan), Printed()
    claims = read_claims(OURS_FILE, OURS)
    tests = ours.count_tests(claims)
    lines = [
        "# Claims",
        "",
        f"{_describe_scale(plan)} Ours: paired difference in points with its 95 % interval; "
        f"verdicts hold for all {tests} tests of this page together (Bonferroni), and there is "
        f"none where a data set or arch stands in, the scale cuts training or attack, or there are "
        f"fewer than {FEWEST} seeds. Kind: a sentence of the paper, or a "
        "question of ours (audit).",
        "",
        "| paper | kind | sentence | verdict | difference |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        cells = [claim["paper"], claim["kind"], claim["sentence"], *ours.verdict(claim, tests)]
        lines.append("| " + " | ".join(cells) + " |")

    lines += ["", "# The papers' sentences in their own tables", ""]
    lines += [
        "contradicted: the number or order stated is not the table's. impossible: no such numbers "
        "can be. unlikely: a stronger attack leaves more. exception: of a hedged sentence. by one "
        "reading: another holds."
    ]
    lines += ["", "| paper | kind | where | sentence | the paper's words | verdict | cells give |"]
    lines += ["|---" * 7 + "|"]
    for claim in read_claims(presented.PRINTED, PRINTED):
        stated = [claim[key] for key in ("paper", "kind", "where", "sentence", "quote")]
        lines.append("| " + " | ".join([*stated, *printed.verdict(claim)]) + " |")

    lines += ["", "# Printed averages that are not the mean of their row", ""]
    wrong_means = [(p, *wrong) for p in list_papers() for wrong in printed.averages(p)]
    lines += [f"- {p}: {name}: printed {a:.1f}, mean {b:.2f}" for p, name, a, b in wrong_means]
    return "\n".join(lines) + "\n"


def _describe_scale(plan: Plan) -> str:
    """The scale, what stands in at it, and what it cuts."""
    scale = plan.entries.scale
    stand_ins = [f"{v['dataset']} for {k}" for k, v in scale.get("stand_ins", {}).items()]
    stand_ins += [f"{v} for {k}" for k, v in scale.get("archs", {}).items()]
    cuts = sorted({*scale} & {"recipe", "recipes", "attacks", "images", "seeds", "members"})
    parts = [f"Scale {plan.scale}."]
    parts += [f"Stand-ins: {', '.join(stand_ins)}."] if stand_ins else []
    parts += [f"Cut by the scale: {', '.join(cuts)}."] if cuts else []
    return " ".join(parts)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.claims", description=__doc__)
    parser.parse_args(argv)
    plan = load_plan()
    text = build_page(plan)
    presented.save_text(plan, presented.claims(plan), {presented.CLAIMS: text.encode()})
    print(text, end="")


if __name__ == "__main__":
    report(main)
