"""How far a row is whose records are not all there."""

from pathlib import Path

from pipeline.plan import Plan, Record


def status_of(plan: Plan, missing: list[Record]) -> str:
    """failed, running or not built, from the logs of what a row still needs."""
    logs = []
    for record in missing:
        logs.append(Path("logs/evaluate") / f"{record.id}.log")
        for element in record.victim.elements:
            run = plan.run(element.run)
            if not run.is_here():
                logs.append(Path("logs") / run.stage / f"{run.id}.log")

    # A log begins with the job: one that is there without an error belongs to a job that runs.
    texts = [log.read_text(errors="replace") for log in logs if log.exists()]
    if any("\nerror: " in f"\n{t}" or "Traceback" in t for t in texts):
        return "failed"
    return "running" if texts else "not built"
