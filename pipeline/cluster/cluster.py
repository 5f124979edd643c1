"""What a table's missing jobs would ask of a cluster, stage by stage, before any is submitted."""

from collections import Counter
from collections.abc import Iterable

from pipeline.cluster import site
from pipeline.cluster.resources import ASKING, Resources
from pipeline.plan import Artifact, Plan, Run
from pipeline.plan.estimate import describe, seconds
from pipeline.plan.memory import HELD
from pipeline.plan.state import NEED, State

Rows = list[list[str]]
HEAD = ["stage", "jobs", "GPUs a job", "GPU memory a job", "memory a job", "time a job", "slices"]
HEAD += ["estimate in all"]


def report(plan: Plan, listed: Iterable[State]) -> Rows:
    """One row a stage: jobs, what one of them asks for, GPU hours or CPU hours of all."""
    resources, rows = Resources(plan, site.here()), [HEAD]
    needed = [s for s in listed if s.status == NEED]

    for stage, asking in ASKING.items():
        artifacts = [s.artifact for s in needed if s.stage == stage]
        if artifacts:
            packs = _count_packs(resources, artifacts) if stage == "train" else {1: len(artifacts)}
            rows.append([stage, *_build_row(plan, resources, asking, artifacts, packs)])
    return rows


def _count_packs(resources: Resources, runs: Iterable[Artifact]) -> dict[int, int]:
    """How many SLURM jobs of how many trainings each; the last of a group may hold fewer."""
    groups = Counter(resources.group(run) for run in runs if isinstance(run, Run))
    packs: Counter[int] = Counter()
    for (_, size), count in groups.items():
        packs[size] += -(-count // size)  # rounded up
    return dict(packs)


def _build_row(
    plan: Plan,
    resources: Resources,
    stage: str,
    artifacts: list[Artifact],
    packs: dict[int, int],
) -> list[str]:
    gpus, memory = resources.gpus(stage), resources.stage(stage)["mem_mb"] * max(packs)
    minutes = max(resources.slice(stage, a) for a in artifacts)
    slices = max(-(-resources.minutes(stage, a) // resources.slice(stage, a)) for a in artifacts)

    total = describe(seconds(plan, artifacts))
    unit = "of GPUs" if gpus else "of CPUs"
    longest = f"{minutes // 60} h {minutes % 60:02d} min"
    pieces = f"up to {slices}" if slices > 1 else "1"
    jobs = str(sum(packs.values())) + (f" ({len(artifacts)} runs)" if max(packs) > 1 else "")
    held = _describe_held(plan, artifacts, max(packs)) if gpus else "none"
    return [jobs, str(gpus), held, f"{memory} MB", longest, pieces, f"{total} {unit}"]


def _describe_held(plan: Plan, artifacts: list[Artifact], side_by_side: int) -> str:
    """The most that one job's runs hold on a GPU, as estimated."""
    held = [HELD[a.stage](plan, a) for a in artifacts if a.stage in HELD]
    known = [size for size in held if size is not None]
    if not known:
        return "unknown"
    more = " or more" if None in held else ""  # an arch says too little
    return f"about {max(known) * side_by_side / 1e9:.1f} GB{more}"
