"""What an artifact needs: what is here, what only others have, what must be computed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.plan import Dataset, Plan, Record, Run, Target, TransferSet, Victim
from pipeline.plan.state import is_built, is_current
from pipeline.store.manifest import Manifest

SPLITS = ("train", "validation", "test")
Artifact = Target | Record | TransferSet | Run | Dataset


@dataclass
class Needs:
    """Paths by what is to be done about them, inputs before what they are for."""

    pull: dict[str, Artifact] = field(default_factory=dict)
    compute: dict[str, Artifact] = field(default_factory=dict)


def path_of(artifact: Artifact) -> Path:
    """The name under which an artifact is recorded."""
    if isinstance(artifact, Target | Record | TransferSet):
        return artifact.path
    return artifact.folder


def is_here(artifact: Artifact) -> bool:
    """Whether it lies complete on disk; a table or figure must be today's."""
    if isinstance(artifact, Target):
        return is_current(artifact)
    if isinstance(artifact, Run):
        return is_built(artifact)
    if isinstance(artifact, Dataset):
        return all((artifact.folder / f"{s}.safetensors").exists() for s in SPLITS)
    return artifact.path.exists()


def inputs(plan: Plan, artifact: Artifact) -> list[Artifact]:
    """What computing it reads."""
    if isinstance(artifact, Target):
        shown = plan.shown(artifact)
        data = {v.dataset.name: v.dataset for v in shown}.values()
        return [*plan.needs(artifact)[0], *data, *(r for v in shown for r in _runs(plan, v))]
    if isinstance(artifact, Record):
        sets = [plan.set(id) for id in artifact.sets]
        return [artifact.victim.dataset, *sets, *_runs(plan, artifact.victim)]
    if isinstance(artifact, TransferSet):
        return [artifact.surrogate.dataset, *_runs(plan, artifact.surrogate)]
    if isinstance(artifact, Run):
        return [artifact.dataset, *(plan.run(p) for p in artifact.parents)]
    return []


def _runs(plan: Plan, victim: Victim) -> list[Run]:
    return [plan.run(element.run) for element in victim.elements]


def closure(plan: Plan, targets: Iterable[Artifact], listed: Manifest) -> Needs:
    """What getting the targets takes: nothing below an artifact that is here or can be pulled."""
    needs = Needs()
    seen: set[str] = set()

    def visit(artifact: Artifact) -> None:
        path = path_of(artifact).as_posix()
        if path in seen:
            return
        seen.add(path)
        if is_here(artifact):
            return
        if path in listed:
            needs.pull[path] = artifact
            return
        for part in inputs(plan, artifact):
            visit(part)
        needs.compute[path] = artifact

    for target in targets:
        visit(target)
    return needs


def sinks(plan: Plan, wanted: Iterable[Artifact]) -> list[Artifact]:
    """Those of several artifacts that no other one of them needs, directly or not."""
    artifacts = list(wanted)
    below: set[str] = set()

    def visit(artifact: Artifact) -> None:
        for part in inputs(plan, artifact):
            path = path_of(part).as_posix()
            if path not in below:
                below.add(path)
                visit(part)

    for artifact in artifacts:
        visit(artifact)
    return [a for a in artifacts if path_of(a).as_posix() not in below]
