"""What targets rest on: what is here, what only others have, what making the rest would take."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.plan import Artifact, Figure, Plan, Record, Snapshots, Table, Target
from pipeline.plan.estimate import describe, seconds
from pipeline.plan.graph.targets import walk
from pipeline.plan.speeds import Speeds, measure
from pipeline.store.manifest import Manifest

HAVE, NEED, UNNEEDED = "have", "need", "not needed"  # not needed: neither here nor asked for
STAGES = {
    "prepare": "data set",
    "adopt": "adopted run",
    "train": "training",
    "trajectory": "re-derivation",
    "average": "average",
    "transfer": "transfer set",
    "evaluate": "evaluation",
    "figure": "figure",
}
ORDER = {"prepare": 0, "transfer": 2, "evaluate": 3, "figure": 4}  # of a list; all runs are 1


@dataclass
class Needs:
    """Paths by what is to be done about them, inputs before what they are for."""

    pull: dict[str, Artifact] = field(default_factory=dict)
    compute: dict[str, Artifact] = field(default_factory=dict)


def closure(plan: Plan, targets: Iterable[Artifact], listed: Manifest) -> Needs:
    """What getting the targets takes: nothing below an artifact that is here or can be pulled."""
    needs = Needs()

    def is_got(artifact: Artifact) -> bool:
        if artifact.is_here():
            return True
        path = artifact.path.as_posix()
        if path in listed:
            needs.pull[path] = artifact
        return path in listed

    for artifact in walk(plan.graph, targets, is_got):
        needs.compute[artifact.path.as_posix()] = artifact
    return needs


def sinks(plan: Plan, wanted: Iterable[Artifact]) -> list[Artifact]:
    """Those of several artifacts that no other one of them needs, directly or not."""
    artifacts = list(wanted)
    parts = (part for artifact in artifacts for part in artifact.inputs(plan.graph))
    below = {artifact.path for artifact in walk(plan.graph, parts)}
    return [artifact for artifact in artifacts if artifact.path not in below]


@dataclass(frozen=True)
class State:
    """One artifact; `seconds` estimates what making it takes, None is unknown."""

    artifact: Artifact
    status: str
    seconds: float | None

    @property
    def stage(self) -> str:
        """The stage that makes it."""
        return self.artifact.stage

    @property
    def id(self) -> str:
        """Its name."""
        return self.artifact.id


def states(plan: Plan, targets: Iterable[Artifact], speeds: Speeds | None = None) -> list[State]:
    """Everything that tables and figures rest on, parents first, each once; figures last."""
    wanted, speeds = list(targets), speeds or Speeds(plan.entries.gflops)
    needed = closure(plan, wanted, {}).compute
    rested_on = [a for a in walk(plan.graph, wanted) if a.stage in STAGES]

    listed = []
    for artifact in sorted(rested_on, key=lambda a: ORDER.get(a.stage, 1)):
        is_needed = artifact.path.as_posix() in needed

        # a training that is made leaves its snapshots by the way
        lost = is_needed and isinstance(artifact, Snapshots) and artifact.run.is_here()
        if isinstance(artifact, Snapshots) and not lost:
            continue

        status = NEED if is_needed else HAVE if artifact.is_here() else UNNEEDED
        listed.append(State(artifact, status, seconds(plan, [artifact], speeds.of)))
    return listed


def count_by_stage(artifacts: Iterable[Artifact | State]) -> str:
    """In words: 1 data set, 3 trainings; "nothing" of none."""
    counts = Counter(artifact.stage for artifact in artifacts)
    parts = (
        f"{counts[s]} {name}{'s' * (counts[s] > 1)}" for s, name in STAGES.items() if counts[s]
    )
    return ", ".join(parts) or "nothing"


def headline(
    plan: Plan, targets: Sequence[Target], needed: list[State], speeds: Speeds | None = None
) -> str:
    """One line: scale, data sets with what they stand in for, what is to make at what cost."""
    cost, speeds = describe(add_up(needed)), speeds or Speeds(plan.entries.gflops)
    return (
        f"scale {plan.scale}: {', '.join(describe_data(plan, targets))}; "
        f"to make: {count_by_stage(needed)}"
        + (f"; estimate {cost} {speeds.describe()}" if needed else "")
        + describe_transfer(plan, targets, needed)
    )


def survey(plan: Plan, targets: Sequence[Table | Figure]) -> tuple[str, list[State]]:
    """The headline of what targets still need, and all that they rest on."""
    speeds = measure(plan, targets)
    listed = states(plan, targets, speeds)
    return headline(plan, targets, [s for s in listed if s.status == NEED], speeds), listed


def add_up(needed: Iterable[State]) -> float | None:
    """Seconds of all; None where those of one are unknown."""
    known = [state.seconds for state in needed]
    return None if None in known else sum(s for s in known if s is not None)


def describe_transfer(plan: Plan, targets: Sequence[Target], needed: list[State]) -> str:
    """What of the estimate is for transferred images alone: sets, their surrogates, verdicts."""
    asked = [part for target in targets for part in target.inputs(plan.graph)]
    direct = [part for part in asked if not (isinstance(part, Record) and part.sets)]
    kept = {artifact.path for artifact in walk(plan.graph, direct)}

    total, of_it = add_up(needed), add_up(s for s in needed if s.artifact.path not in kept)
    return f", of it transfer {100 * of_it / total:.0f} %" if total and of_it else ""


def describe_data(plan: Plan, targets: Sequence[Target]) -> list[str]:
    """The data sets of some targets, each with what stands in for it and its factor on radii."""
    names = dict.fromkeys(c.setting.dataset for target in targets for c in target.cells)
    stand_ins = {name: plan.entries.stand_in(name) for name in names}
    return [
        name if of == name else f"{of} for {name} (eps x {float(factor):.4g})"
        for name, (of, factor) in stand_ins.items()
    ]
