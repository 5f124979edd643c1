"""The guard: nothing that a colleague has recorded is computed again unawares."""

import os
from collections.abc import Iterable, Mapping
from typing import Protocol

from pipeline.errors import UserError
from pipeline.plan import Dataset, Plan, Run, manifest
from pipeline.plan.manifest import Line
from pipeline.plan.needs import Artifact, Needs, closure, sinks

RETRAIN = "RETRAIN"


class Job(Protocol):
    """What Snakemake shows of a job that it is going to run."""

    rule: object
    wildcards: object


def artifact_of(plan: Plan, rule: str, wildcards: Mapping[str, str]) -> Artifact | None:
    """The artifact that a job of the workflow makes; None for jobs the manifest never lists."""
    if rule in ("train", "average", "adopt"):
        return plan.run(wildcards["run"])
    if rule == "transfer":
        return plan.set(wildcards["set"])
    if rule == "evaluate":
        return plan.record(f"{wildcards['victim']}/{wildcards['suite']}")
    if rule == "tabulate":
        return plan.table((wildcards["folder"] + wildcards["table"]).replace("/", "_"))
    if rule in ("plot", "figure"):
        return plan.figure(wildcards["figure"])
    if rule == "prepare":
        return plan.dataset(wildcards["dataset"])
    return None


def check_jobs(plan: Plan, jobs: Iterable[Job]) -> None:
    """Raise UserError when these jobs would make again what the manifest lists."""
    made = [artifact_of(plan, str(j.rule), dict(j.wildcards.items())) for j in jobs]  # type: ignore[attr-defined]
    targets = sinks(plan, [a for a in made if a is not None])
    needs = closure(plan, targets, manifest.read())
    if not refused(needs):
        return
    if os.environ.get(RETRAIN) == "yes":
        print(f"{RETRAIN}=yes: {len(needs.pull)} recorded artifacts are made again")
        return
    raise UserError(explain(needs))


def warn(plan: Plan, targets: Iterable[Artifact]) -> None:
    """Print what a run towards these targets would be refused for."""
    needs = closure(plan, targets, manifest.read())
    if refused(needs):
        print(f"\n{explain(needs)}")


def refused(needs: Needs) -> list[Line]:
    """Lines of recorded artifacts that cost training or attacks, dearest first."""
    listed = manifest.read()
    dear = [listed[p] for p, a in needs.pull.items() if not isinstance(a, Dataset)]
    return sorted(dear, key=lambda line: -line.seconds)


def explain(needs: Needs) -> str:
    """What would be made again, what that costs, and the line that fetches it instead."""
    lines = refused(needs)
    runs = sum(isinstance(a, Run) for a in needs.pull.values())
    shown = "".join(f"\n  {line.artifact} ({cost(line.seconds)} on {line.host})" for line in lines)
    hours = cost(sum(line.seconds for line in lines))
    return (
        f"{runs} runs and {len(lines) - runs} records would be made again although they are "
        f"recorded ({hours} when they were made):{shown}\nfetch them instead:\n"
        f"  {pull_line(needs)}\nor say {RETRAIN}=yes (environment) to make them again"
    )


def cost(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds / 3600:.2f} h" if seconds >= 36 else f"{seconds:.1f} s"


def pull_line(needs: Needs) -> str:
    """The command that fetches exactly what is missing."""
    return f"dvc pull {' '.join(needs.pull)}"
