"""What a run or a record costs, before it is made: an estimate, and no part of any identity.

Forward passes are counted in multiply-adds (`macs` of an arch, two FLOPs each); a backward pass
costs as much as a forward in the images alone, twice as much in the weights too. Attacks stop on
fooled images, so an evaluation is an upper bound.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from pipeline.plan import Artifact, Dataset, Figure, Plan, Record, Run, Snapshots, TransferSet
from pipeline.plan.graph.artifacts import Element
from pipeline.plan.graph.averages import count_snapshots
from pipeline.plan.graph.outside import MODULE
from pipeline.plan.params.checks import ON_TEST
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry
from pipeline.plan.passes import passes

NATIVE = 32  # pixels of a side at which `macs` are stated
TEST_IMAGES = 10000  # of CIFAR, MNIST and Tiny-ImageNet, which state no number
# Passes of a step beside its crafting, by method: clean images too, a penalty's double backward,
# several views. Others make the 3 of one forward and a backward that costs twice as much
# (`python -m bench.train` counts them).
UPDATE = {
    "arow": 7,
    "aute": 5,
    "awp": 6,
    "gal": 6,
    "hat": 10,
    "iad": 7,
    "igat": 6,
    "mart": 6,
    "more": 15,
    "rslad": 6,
    "soe": 6,
    "trades": 7,
    "trs": 14,
}
ONCE = 3
SEVERAL = {"ccg": 2, "stat": 3}  # examples of an image, each crafted and learnt
PROCESS = 1  # seconds until a job of a workflow on one machine computes; alone it takes three


def seconds(
    plan: Plan, artifacts: Iterable[Artifact], speed: Callable[[str], float] | None = None
) -> float | None:
    """Seconds on one machine of the scale's `gflops`; None when an arch's MACs are not stated.

    `speed` says the GFLOP/s of a stage instead. What has no FLOPs to speak of (data, tables, plots)
    costs nothing.
    """
    total = 0.0
    for artifact in artifacts:
        if artifact.stage in FLOPS:
            flops = _count_once(plan, artifact)
            if flops is None:
                return None
            gflops = speed(artifact.stage) if speed else plan.entries.gflops
            total += PROCESS + flops / (gflops * 1e9)
    return total


def _count_once(plan: Plan, artifact: Artifact) -> int | None:
    """FLOPs of an artifact, for whose job Snakemake asks several times."""
    key = ("flops", artifact.path)
    return plan.entries.once(key, lambda: FLOPS[artifact.stage](plan, artifact))


def describe(estimate: float | None) -> str:
    """The estimate in words a person plans with."""
    if estimate is None:
        return "unknown (an arch states no `macs`, or a data set no `images`)"
    if estimate < 90:
        return f"{estimate:.0f} seconds"
    return f"{estimate / 60:.0f} minutes" if estimate < 5400 else f"{estimate / 3600:.1f} hours"


def run_flops(plan: Plan, run: Run) -> int | None:
    """FLOPs of a training, or of an average's pass over the training images."""
    if run.stage == "adopt":
        return 0
    spec = run.spec
    while spec["stage"] == "average":
        spec = plan.run(run.parents[0]).spec

    macs, images = forward_macs(plan, run), _training_images(plan.entries, run.dataset)
    if macs is None or images is None:
        return None

    images = min(images, spec["recipe"]["train_images"] or images)
    crafting = passes(spec["attack"]) if spec["attack"] else 0

    if run.stage == "average":
        once = images * _pass_cost(run.spec["average"]["fields"]["bn_data"], crafting) * 2 * macs
        if not run.spec.get("best"):
            return once
        return count_snapshots(plan.graph, run) * (once + _count_judged(run, spec) * 2 * macs)

    assistants = _assistants(plan, run)
    if assistants is None:
        return None

    if not assistants or spec["method"]["fields"].get("student_input") == "own":
        crafting += _particle_passes(spec, run.members)
    if earlier := run.edges.get("earlier"):  # examples are crafted against those before, too
        crafting *= 1 + len(earlier.elements)

    frozen = [forward_macs(plan, plan.run(e.run)) for e in _list_asked(plan, run)]
    if None in frozen:
        return None

    # Parents answer once.
    component = spec["method"]["component"]
    once = (crafting + UPDATE.get(component, ONCE)) * SEVERAL.get(component, 1)
    own = once * macs + sum(m for m in frozen if m)
    along = sum((_particle_passes(spec, len(assistants)) + ONCE) * m for m in assistants)

    epochs: int = spec["recipe"]["epochs"]
    every: int = spec["recipe"]["validate_every"]
    judged = -(-epochs // every) * _count_judged(run, spec) * macs if every else 0
    return 2 * (images * epochs * (own + along) + judged)


def _count_judged(run: Run, spec: Entry) -> int:
    """Passes over the images that choose a checkpoint: one look and the validation attack."""
    attack, on_test = spec["validation_attack"], spec["recipe"]["select"] == ON_TEST
    fields = run.dataset.fields
    images = int(fields.get("test", TEST_IMAGES) if on_test else fields["validation"])
    return images * (1 + (passes(attack) if attack else 0))


def _list_asked(plan: Plan, run: Run) -> list[Element]:
    """The networks that a training asks and does not train: not those whose weights it starts
    from, nor earlier members, which crafting counts."""
    types = plan.entries.component("methods", run.spec["method"]["component"]).types
    asked = [victim for field, victim in run.edges.items() if types.get(field) == "Parent"]
    return [element for victim in asked for element in victim.elements]


def _assistants(plan: Plan, run: Run) -> list[int] | None:
    """Multiply-adds of each network that trains along."""
    macs_of_each = [_image_macs(plan, name, run.dataset) for name in archs_beside(plan, run)]
    return None if None in macs_of_each else [m for m in macs_of_each if m is not None]


def archs_beside(plan: Plan, run: Run) -> list[str]:
    """The arch of each network that trains along: an Arch field `teacher_arch` and the number in
    `teachers` say which and how many."""
    fields, found = run.spec["method"]["fields"], list[str]()
    for name in run.spec.get("archs", {}):
        count = int(fields.get(f"{name.removesuffix('_arch')}s", 1))
        found += [_arch_beside(plan, run, name)] * count
    return found


def _arch_beside(plan: Plan, run: Run, field: str) -> str:
    """The arch that an Arch field of a run's method names."""
    name = run.spec["method"]["fields"][field]
    return run.arch if name == "same" else plan.entries.arch(name).name


def archs_of(plan: Plan, run: Run) -> set[str]:
    """Archs of all networks in a training's memory: its own, helpers and teachers, parents."""
    beside = {_arch_beside(plan, run, field) for field in run.spec.get("archs", {})}
    return {run.arch, *beside, *(plan.run(parent).arch for parent in run.parents)}


def _particle_passes(spec: Entry, models: int) -> int:
    """Passes of one network in crafting by the method itself, one particle for each network."""
    fields = spec["method"]["fields"]
    others = models if fields.get("gradients") == "every" and fields["kernel"] != "none" else 1
    return passes(spec["method"]) * others if "steps" in fields else 0


def record_flops(plan: Plan, record: Record) -> int | None:
    """FLOPs of a suite on every image, as if no image were fooled."""
    macs = [forward_macs(plan, plan.run(e.run)) for e in record.victim.elements]
    classes = record.victim.dataset.fields["classes"]
    work = sum(passes(spec, record.victim.members, classes) for _, spec in record.attacks)
    return None if None in macs else record.images * work * 2 * sum(m for m in macs if m)


def set_flops(plan: Plan, made: TransferSet) -> int | None:
    """FLOPs of crafting a transfer set."""
    macs = [forward_macs(plan, plan.run(e.run)) for e in made.surrogate.elements]
    work = passes(made.attack, made.surrogate.members)
    return None if None in macs else made.images * work * 2 * sum(m for m in macs if m)


def figure_flops(plan: Plan, figure: Figure) -> int | None:
    """FLOPs of every point of a figure's grid on its images: one look each, and its attacks.

    `half` is the number of points on each side of a grid's centre, `images` how many it looks at.
    """
    fields, total = figure.kind["fields"], 0
    points = (2 * fields.get("half", 0) + 1) ** 2

    for cell, attacks in zip(figure.cells, figure.attacks, strict=True):
        elements = cell.victim.elements if cell.victim and figure.reads_weights else ()
        macs = [forward_macs(plan, plan.run(e.run)) for e in elements]
        if None in macs:
            return None
        crafting = (passes(attack, len(elements)) for attack in attacks.values())
        work = points * (1 + sum(crafting)) * int(fields.get("images", 1))
        total += work * 2 * sum(m for m in macs if m)
    return total


def snapshots_flops(plan: Plan, snapshots: Snapshots) -> int | None:
    """FLOPs of training once more to the same weights."""
    return run_flops(plan, snapshots.run)


FLOPS: dict[str, Callable[[Plan, Any], int | None]] = {
    "train": run_flops,
    "average": run_flops,
    "adopt": run_flops,
    "trajectory": snapshots_flops,
    "transfer": set_flops,
    "evaluate": record_flops,
    "figure": figure_flops,
}


def forward_macs(plan: Plan, run: Run) -> int | None:
    """Multiply-adds of one image through every member of a run, scaled by its area."""
    macs = _image_macs(plan, run.arch, run.dataset)
    return None if macs is None else macs * run.members


def _image_macs(plan: Plan, name: str, dataset: Dataset) -> int | None:
    if name == MODULE:  # a user's own, of which the plan knows nothing
        return None
    macs = plan.entries.stated("archs", name, "macs")
    return None if macs is None else int(macs * area_of(dataset))


def area_of(dataset: Dataset) -> Fraction:
    """Pixels of an image, in images of the side at which an arch's numbers are stated."""
    return Fraction(int(dataset.fields["size"]) ** 2, NATIVE**2)


def _training_images(entries: Entries, dataset: Dataset) -> int | None:
    """Official images less those held out; digits hold out their test images too."""
    images = entries.stated("datasets", dataset.name, "images")
    if images is None:
        return None
    return int(images - dataset.fields["validation"] - dataset.fields.get("test", 0))


def _pass_cost(bn_data: str, crafting: int) -> int:
    """Passes over the training images that re-estimate batch-norm statistics."""
    return {"kept": 0, "clean": 1, "adversarial": crafting + 1}[bn_data]
