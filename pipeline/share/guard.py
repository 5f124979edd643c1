"""The guard: nothing that a colleague has recorded is computed again by accident."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import UserError
from pipeline.plan import Artifact, Dataset, Plan, Run, Snapshots
from pipeline.plan.state import Needs, closure, count_by_stage, sinks
from pipeline.plan.workflow import artifact_of
from pipeline.store import manifest
from pipeline.store.manifest import Line

RETRAIN = "RETRAIN"
FORCED = "they are here: nothing makes them again without --force, --forceall or --forcerun"


class Job(Protocol):
    """What Snakemake shows of a job that it is going to run."""

    rule: object
    wildcards: Mapping[str, str]
    output: Iterable[str]


@dataclass(frozen=True)
class Again:
    """What would be made again although it is recorded, and what to fetch instead."""

    made: list[Artifact]
    derived: list[Run]  # trainings repeated for the snapshots of an average among `made`
    fetch: list[str]

    @property
    def is_dear(self) -> bool:
        """Whether it costs training or attacks; preparing data does not."""
        return any(not isinstance(a, Dataset) for a in self.made)


def check_jobs(plan: Plan, jobs: Iterable[Job]) -> None:
    """Raise UserError when these jobs would make again what the manifest lists."""
    asked = [(artifact_of(plan, str(j.rule), dict(j.wildcards.items())), j) for j in jobs]
    made = [a for a, _ in asked if a is not None]

    needs = closure(plan, sinks(plan, made), manifest.read())
    holes = [a for a, job in asked if a is not None and not all(map(_is_there, job.output))]

    again = _find_again(plan, made, needs, holes)
    if not again.made:
        return
    if not again.is_dear:
        print(explain(again))
    elif os.environ.get(RETRAIN) == "yes":
        print(f"{RETRAIN}=yes: {count_by_stage(again.made)} recorded already will be made again")
    else:
        raise UserError(f"{explain(again)}\nor say {RETRAIN}=yes (environment) to make them again")


def _is_there(name: str) -> bool:
    return Path(name).exists()


def warn(plan: Plan, targets: Iterable[Artifact]) -> None:
    """Print what a run towards these targets would be refused for."""
    wanted = list(targets)
    # As if nothing were recorded: what a run without a pull would make.
    made = list(closure(plan, wanted, {}).compute.values())
    again = _find_again(plan, made, closure(plan, wanted, manifest.read()), made)
    if again.made:
        print(f"\n{explain(again)}")


def _find_again(plan: Plan, made: list[Artifact], needs: Needs, missing: list[Artifact]) -> Again:
    """What of `made` is recorded; fetched is what is needed of it, or here with a hole."""
    listed = manifest.read()
    known = [a for a in made if a.path.as_posix() in listed]
    holes = [p.as_posix() for a in missing if a.is_here() and (p := a.path).as_posix() in listed]
    fetch = [*needs.pull, *(p for p in holes if p not in needs.pull)]
    return Again(known, _find_derived(plan, known, {a.path for a in made}), fetch)


def _find_derived(plan: Plan, known: list[Artifact], made: set[Path]) -> list[Run]:
    """Recorded trainings whose snapshots an average lacks: they are trained through again."""
    runs = (run for run in known if isinstance(run, Run))
    parts = (part for run in runs for part in run.inputs(plan.graph))
    lost = (part for part in parts if isinstance(part, Snapshots) and not part.is_here())
    return [snapshots.run for snapshots in lost if snapshots.run.path not in made]


def explain(again: Again) -> str:
    """What would be made again, what that costs, and the line that fetches it instead."""
    listed = manifest.read()
    lines = [listed[a.path.as_posix()] for a in again.made]
    lines.sort(key=lambda line: -line.seconds)
    shown = [f"  {line.artifact} ({_describe_cost(line)})" for line in lines]
    derived = [listed[n] for r in again.derived if (n := r.path.as_posix()) in listed]
    shown += [f"  snapshots of {line.artifact} ({_describe_cost(line)})" for line in derived]

    total = spent(sum(line.seconds for line in (*lines, *derived)))
    advice = f"fetch them instead:\n  {pull_line(again.fetch)}" if again.fetch else FORCED
    return (
        f"{count_by_stage(again.made)} would be made again although recorded "
        f"({total} when they were made):\n" + "\n".join([*shown, advice])
    )


def _describe_cost(line: Line) -> str:
    return f"{spent(line.seconds)} on {line.host}"


def spent(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds / 3600:.2f} h" if seconds >= 36 else f"{seconds:.1f} s"


def pull_line(paths: Iterable[str]) -> str:
    """The command that fetches exactly these."""
    return f"dvc pull {' '.join(paths)}"
