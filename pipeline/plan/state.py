"""What targets rest on, what of it exists, and what making the rest would take."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.plan import Figure, Plan, Record, Run, Target, Victim
from pipeline.plan.estimate import describe, seconds

HAVE, NEED, SPARE = "have", "need", "spare"  # spare: neither there nor asked for
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


@dataclass(frozen=True)
class State:
    """One artifact; `seconds` estimates what making it takes, None is unknown."""

    stage: str
    id: str
    path: Path  # the file that says it is there
    status: str
    seconds: float | None


def is_current(target: Target) -> bool:
    """Whether the table or figure on disk was made from exactly this plan."""
    try:
        made_from = json.loads(target.path.with_suffix(".json").read_text())["receipt"]["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    here = target.path.exists() and target.path.with_suffix(".csv").exists()
    return here and bool(made_from == target.digest)


def is_built(run: Run) -> bool:
    """Whether a run has its weights and their description."""
    return all((run.folder / name).exists() for name in ("weights.safetensors", "run.json"))


def states(plan: Plan, targets: Iterable[Target]) -> list[State]:
    """Everything that tables and figures rest on, parents first, each once; figures last."""
    records: dict[str, Record] = {}
    runs: dict[str, Run] = {}
    stale: set[str] = set()
    asked: list[Victim] = []
    drawn = []
    for target in targets:
        needed, behind = plan.needs(target)
        records |= {r.id: r for r in needed}
        runs |= {r.id: r for r in behind}
        current = is_current(target)
        stale |= set() if current else {r.id for r in needed if not r.path.exists()}
        asked += [] if current else plan.shown(target)
        if isinstance(target, Figure) and target.reads_weights:
            status, cost = HAVE if current else NEED, seconds(plan, [target])
            drawn.append(State("figure", target.name, target.path, status, cost))
    sets = {id: plan.set(id) for record in records.values() for id in record.sets}
    crafted = {s for id in stale for s in records[id].sets if not sets[s].path.exists()}
    asked += [*(records[id].victim for id in stale), *(sets[id].surrogate for id in crafted)]
    made, lost = _to_make(runs, {e.run for victim in asked for e in victim.elements})
    used: list[Run | Victim] = [*(runs[id] for id in made | lost), *asked]
    found = _data(plan, {r.dataset.name for r in runs.values()}, {u.dataset.name for u in used})
    for run in runs.values():
        status = NEED if run.id in made else HAVE if is_built(run) else SPARE
        cost = seconds(plan, [run])
        found.append(State(run.stage, run.id, run.folder / "weights.safetensors", status, cost))
        if run.id in lost:
            found.append(State("trajectory", run.id, run.snapshots, NEED, cost))
    for id, wanted in sets.items():
        status = NEED if id in crafted else HAVE if wanted.path.exists() else SPARE
        found.append(State("transfer", id, wanted.path, status, seconds(plan, [wanted])))
    for record in records.values():
        status = NEED if record.id in stale else HAVE if record.path.exists() else SPARE
        cost = seconds(plan, [record])
        found.append(State("evaluate", record.id, record.path, status, cost))
    return found + drawn


def _to_make(runs: dict[str, Run], wanted: set[str]) -> tuple[set[str], set[str]]:
    """Runs to make so that `wanted` are there, and trainings whose snapshots were lost."""
    made, lost = set(), set()
    for run in reversed(runs.values()):  # parents come after what needs them
        if run.id in wanted and not is_built(run):
            made.add(run.id)
            wanted |= set(run.parents)
            first = run.spec["average"]["fields"].get("start") if run.stage == "average" else None
            if first is not None:
                (source,) = (runs[p] for p in run.parents)
                is_lost = not (source.snapshots / f"from{first}.json").exists()
                lost |= {source.id} if is_lost and is_built(source) else set()
    return made, lost


def _data(plan: Plan, names: set[str], used: set[str]) -> list[State]:
    """Prepared data sets; preparing takes one process each, fetching what the network takes."""
    found = []
    for name in sorted(names):
        path = plan.dataset(name).folder / "test.safetensors"
        status = HAVE if path.exists() else NEED if name in used else SPARE
        found.append(State("prepare", name, path, status, seconds(plan, [])))
    return found


def headline(plan: Plan, targets: Sequence[Target], needed: list[State]) -> str:
    """One line: scale, data sets with what they stand in for, what is to make at what cost."""
    counts = Counter(state.stage for state in needed)
    jobs = ", ".join(
        f"{counts[s]} {what}{'s' if counts[s] > 1 else ''}"
        for s, what in STAGES.items()
        if counts[s]
    )
    known = [s.seconds for s in needed if s.seconds is not None]
    cost = describe(sum(known) if len(known) == len(needed) else None)
    return (
        f"scale {plan.scale}: {', '.join(_data_sets(plan, targets))}; to make: {jobs or 'nothing'}"
        + (f"; estimate {cost} at {plan.entries.gflops:g} GFLOP/s" if needed else "")
    )


def _data_sets(plan: Plan, targets: Sequence[Target]) -> list[str]:
    names = dict.fromkeys(c.setting.dataset for target in targets for c in target.cells)
    found = {name: plan.entries.stand_in(name) for name in names}
    return [
        name if of == name else f"{of} for {name} (eps x {float(factor):.4g})"
        for name, (of, factor) in found.items()
    ]
