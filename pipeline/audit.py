"""What published gains are made of: `python -m pipeline.audit` writes results/audit.csv and .md,
.png and .pdf.

Each claim of data/claims/gains.csv is taken apart step by step, from the records of the tables that
it names; docs/audit.md says how to read it and which verdicts there are.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.intervals import Mean
from pipeline.job.report import report
from pipeline.plan import Plan, load_plan, presented
from pipeline.tables import waterfall
from pipeline.tables.chain import Claim, Step, change, family, holm, judge, tested
from pipeline.tables.gains import RATIOS, Gains

TARGET = Path("results/audit.csv")

Line = dict[str, Any]


def lines_of(claim: Claim, verdict: str, p: float | None, claims: int) -> list[Line]:
    """One line a step of results/audit.csv; the verdict stands in the last."""
    lines: list[Line] = []
    before: Step | None = None
    for number, (step, is_tested) in enumerate(zip(claim.steps, tested(claim), strict=True), 1):
        gain = step.gain
        line: Line = {"paper": claim.paper, "claim": claim.name, "published": claim.published}
        line |= {"where": claim.where, "step": number, "changes": step.changes}
        line |= {"lacks": step.lacks, "flags": step.untrusted, "tested": is_tested}
        line |= _list_numbers("", gain) | _list_numbers(
            "change_", change(before, step) if before else None
        )
        line |= _list_family(gain, claims)
        line |= {"seeds": gain.seeds if gain else None, "n": gain.images if gain else None}
        line |= {"p_holm": None, "verdict": ""}

        lines.append(line)
        before = step if gain else before

    lines[-1] |= {"p_holm": p, "verdict": verdict}
    return lines


def _list_numbers(prefix: str, mean: Mean | None) -> Line:
    """Value, low and high in points; empty where there is none."""
    name = prefix.rstrip("_") or "gain"
    keys = (name, f"{prefix}low", f"{prefix}high")
    if mean is None:
        return dict.fromkeys(keys)
    bounds = mean.spread() or (None, None)
    triple = (mean.value, *bounds)
    return {k: None if v is None else round(100 * v, 3) for k, v in zip(keys, triple, strict=True)}


def _list_family(gain: Mean | None, claims: int) -> Line:
    bounds = (family(gain, claims) if gain else None) or (None, None)
    pairs = zip(("low_family", "high_family"), bounds, strict=True)
    return {key: None if bound is None else round(100 * bound, 3) for key, bound in pairs}


def page(gains: list[tuple[Claim, str, list[Line]]], scale: str) -> str:
    """results/audit.md."""
    text = ["# What the published gains are made of", ""]
    text.append(
        f"Scale {scale}. Points; [95 % interval]: of methods from three seeds, of these nets from "
        "one. A step changes one thing and keeps the earlier ones; what it changes is paired on "
        "image and seed. A verdict needs three seeds, no stand-in and no cut attack."
    )

    for claim, verdict, lines in gains:
        printed = f"printed {claim.published} ({claim.where})" if claim.published else "not printed"
        text += ["", f"## {claim.paper}: {claim.name}", "", f"{printed}. **{verdict}**", ""]
        text += ["| step | gain | change | training FLOPs | MACs | parameters | flags |"]
        text += ["|---|---|---|---|---|---|---|"]
        for line in lines:
            gain = line["lacks"] or _format_points(line, "gain", "")
            costs = [f"x{line[c]:.2f}" if line[c] else "" for c in RATIOS]
            row = [
                f"{line['step']} {line['changes']}",
                gain,
                _format_points(line, "change", "change_"),
            ]
            text.append("| " + " | ".join([*row, *costs, line["flags"]]) + " |")
    return "\n".join(text) + "\n"


def _format_points(line: Line, key: str, prefix: str) -> str:
    value, low, high = line[key], line[f"{prefix}low"], line[f"{prefix}high"]
    if value is None:
        return ""
    return f"{value:+.1f}" + ("" if low is None else f" [{low:+.1f}, {high:+.1f}]")


def audit(plan: Plan) -> str:
    """Write the audit's files, the receipt last; returns the text for people."""
    gains = Gains(plan)
    claims = gains.claims()
    adjusted = holm([claim.p for claim in claims])
    verdicts = [judge(claim, len(claims)) for claim in claims]

    judged = []
    for claim, verdict, p in zip(claims, verdicts, adjusted, strict=True):
        lines = lines_of(claim, verdict, p, len(claims))
        for line, asked in zip(lines, gains.lines[claim.name], strict=True):
            line |= {k: asked[k] for k in ("table", "ours", "baseline", "column")}
            line |= gains.ratios(asked) | {"scale": plan.scale}
        judged.append((claim, verdict, lines))

    text = page(judged, plan.scale)
    pictures = waterfall.draw(claims, verdicts)
    frame = pd.DataFrame([line for _, _, lines in judged for line in lines])
    files = {
        **{TARGET.with_suffix(suffix): picture for suffix, picture in pictures.items()},
        TARGET.with_suffix(".md"): text.encode(),
        TARGET: frame.to_csv(index=False, lineterminator="\n").encode(),
    }

    presented.save_text(plan, presented.audit(plan), files)
    return text


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.audit", description=__doc__)
    parser.parse_args(argv)
    print(audit(load_plan()), end="")
    print(f"files: {TARGET.with_suffix('.*')}")


if __name__ == "__main__":
    report(main)
