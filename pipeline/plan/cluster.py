"""What a table's missing jobs would ask of a cluster, stage by stage, before any is submitted."""

from collections.abc import Iterable

from pipeline.plan import Plan, Record, Run
from pipeline.plan.estimate import describe, seconds
from pipeline.plan.resources import Resources
from pipeline.plan.state import NEED, State

Rows = list[list[str]]
HEAD = ["stage", "jobs", "GPUs a job", "memory a job", "longest time asked", "estimate in all"]


def report(plan: Plan, found: Iterable[State]) -> Rows:
    """One row a stage: jobs, what one of them asks for, GPU hours or CPU hours of all."""
    resources, rows = Resources(plan), [HEAD]
    needed = [s for s in found if s.status == NEED]
    for stage in ("train", "average", "evaluate"):
        artifacts = [_artifact(plan, s) for s in needed if s.stage == stage]
        if artifacts:
            rows.append(_row(plan, resources, stage, artifacts))
    return rows


def _row(plan: Plan, resources: Resources, stage: str, artifacts: list[Run | Record]) -> list[str]:
    gpus, memory = resources.gpus(stage), resources.stage(stage)["mem_mb"]
    minutes = max(resources.minutes(stage, a) for a in artifacts)
    total = describe(seconds(plan, artifacts))
    unit = "of GPUs" if gpus else "of CPUs"
    longest = f"{minutes // 60} h {minutes % 60:02d} min"
    return [stage, str(len(artifacts)), str(gpus), f"{memory} MB", longest, f"{total} {unit}"]


def _artifact(plan: Plan, state: State) -> Run | Record:
    return plan.record(state.id) if state.stage == "evaluate" else plan.run(state.id)
