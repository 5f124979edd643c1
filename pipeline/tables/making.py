"""How far a row is whose records are not all there."""

from pipeline.job.logs import find_error, find_log, lease_of
from pipeline.plan import Artifact, Plan, Record
from pipeline.store.lease import list_held


def status_of(plan: Plan, missing: list[Record]) -> str:
    """running or failed, by the leases and logs of what a row still needs; else not built."""
    needed = list[Artifact](missing)
    for record in missing:
        runs = (plan.run(element.run) for element in record.victim.elements)
        needed += [run for run in runs if not run.is_here()]

    # a log may be of an earlier try, which was stopped or failed: what runs holds its lease
    if list_held().keys() & set(map(lease_of, needed)):
        return "running"
    return "failed" if any(find_error(find_log(each)) for each in needed) else "not built"
