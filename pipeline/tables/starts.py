"""Which rows of a table start from the same weights: that makes their differences tight."""

from pipeline.plan import Plan
from pipeline.plan.graph.artifacts import Victim
from pipeline.plan.params.words import digest
from pipeline.tables.rows import Row


def groups(plan: Plan, rows: list[Row]) -> list[list[str]]:
    """Labels of rows whose members begin with the same draws in every seed, two or more each."""
    by_start: dict[object, list[str]] = {}
    for row in rows:
        victims = [cell.victim for cell in row.cells if cell.victim]
        if victims and len(victims) == len(row.cells):
            start = tuple(_describe_start(plan, victim) for victim in victims)
            by_start.setdefault(start, []).append(row.label)
    return [labels for labels in by_start.values() if len(labels) > 1]


def _describe_start(plan: Plan, victim: Victim) -> tuple[tuple[str, int], ...]:
    """What decides the initial weights of a victim's members: arch, seed, file, and their number.

    They are a function of (seed, member): `Maker`.
    """
    trained = dict.fromkeys(plan.training(plan.run(part.run)).id for part in victim.elements)
    starts = []
    for run in map(plan.run, trained):
        parts = [run.stage, run.dataset.digest, run.spec["arch"], run.spec["seed"]]
        init = run.spec.get("init", run.spec.get("sha256"))
        starts.append((digest({"start": [*parts, init]}), run.members))
    return tuple(starts)
