"""How far a row is whose records are not all there."""

from pathlib import Path

from pipeline.job.logs import find_error, read_lines
from pipeline.plan import Plan, Record
from pipeline.store.lease import list_held


def status_of(plan: Plan, missing: list[Record]) -> str:
    """running or failed, by the leases and logs of what a row still needs; else not built."""
    logs = {
        f"records/{record.id}": Path("logs/evaluate") / f"{record.id}.log" for record in missing
    }
    for record in missing:
        for run in (plan.run(element.run) for element in record.victim.elements):
            if not run.is_here():
                logs[f"runs/{run.id}"] = Path("logs") / run.stage / f"{run.id}.log"

    # a log may be of an earlier try, which was stopped or failed: what runs holds its lease
    if logs.keys() & list_held().keys():
        return "running"
    return "failed" if any(map(_has_failed, logs.values())) else "not built"


def _has_failed(log: Path) -> bool:
    """Whether a job did more than write the head of its log, and did not end well."""
    began = any(not line.startswith("#") for line in read_lines(log))
    return began and bool(find_error(log))
