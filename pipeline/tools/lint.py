"""Red flags of the plan's records: `python -m pipeline lint [TABLE ...]`, of all that are here.

Reads records and data/reported/ alone. Exit code 1 when a flag fires that makes a number of ours
worthless; published numbers only warn, since they cannot be corrected here.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.flags import published
from pipeline.flags.evidence import Evidence, by_images, check_budget
from pipeline.flags.flags import Flag, flags
from pipeline.job.report import report
from pipeline.plan import Plan, Record, load_plan
from pipeline.store.records import read_record


def wanted(plan: Plan, tables: list[str]) -> dict[str, Record]:
    """Records of the tables' victims; all when no table is named."""
    if not tables:
        return plan.graph.records
    return {r.id: r for t in tables for r in plan.needs(plan.table(t))[0]}


def by_victim(plan: Plan, tables: list[str]) -> dict[str, list[Record]]:
    """Those of them that are on disk."""
    records: dict[str, list[Record]] = {}
    for record in wanted(plan, tables).values():
        if record.path.exists():
            records.setdefault(record.victim.id, []).append(record)
    return records


def list_unseen(plan: Plan, tables: list[str]) -> Iterator[str]:
    """What was not looked at, and what to do about it, since silence reads as all clear."""
    records = wanted(plan, tables)
    lost = [r for r in records.values() if not r.path.exists()]
    if lost and (tables or len(lost) == len(records)):
        of = " ".join(tables) or "this plan"
        yield (
            f"{len(lost)} of {len(records)} records of {of} are not here: nothing is said of them; "
            "dvc pull results/records, or make them"
        )

    if not tables:  # what was never asked for is not missed
        known = {record.path for record in records.values()}
        other = [path for path in Path("results/records").glob("*/*.npz") if path not in known]
        if other:
            yield (
                f"{len(other)} other records in results/records are of another scale or of entries "
                f"that have changed since: nothing is said of them; this is scale {plan.scale}"
            )


def judge(records: list[Record]) -> list[Flag]:
    """Flags of one victim's records on the same images."""
    judged = []
    for record in records:
        arrays = read_record(record.path, [name for name, _ in record.attacks])
        try:
            check_budget(arrays, record.attacks, str(record.path))
        except UserError as error:
            # What left its ball makes every other check meaningless.
            return [Flag("C1", str(error))]
        judged.append((arrays, list(record.attacks)))
    return flags(Evidence(judged))


def lines(plan: Plan, tables: list[str]) -> Iterator[tuple[Flag, str]]:
    """Every flag with the line that says it."""
    for victim, records in by_victim(plan, tables).items():
        for group in sorted(by_images(records), key=lambda g: (g[0].images, g[0].split)):
            images = f"{group[0].images} {group[0].split} images"
            for flag in judge(group):
                yield flag, f"{victim}, {images}: {flag.check}: {flag.text}"


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline lint", description=__doc__)
    parser.add_argument(
        "tables", nargs="*", help="tables, such as results/table1.csv; all of the scale if none"
    )
    plan = load_plan()
    tables, failed = parser.parse_args(argv).tables, False
    for said in list_unseen(plan, tables):
        print(f"warn {said}")

    for flag, line in lines(plan, tables):
        print(f"{'FAIL' if flag.fails else 'warn'} {line}")
        failed = failed or flag.fails

    for line in published.lint():
        print(f"note {line}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    report(main)
